"""Curves over seeds: found in N of M, only in one against M, features found against runs.

How many features there are to find follows from how often each was found, as a lower bound: runs
are sampling occasions and a family is found in a run or not, so incidence estimators apply: Chao2
(Chao 1987, bias-corrected), ICE (Lee & Chao 1994) and the jackknife (Burnham & Overton 1978). All
are lower bounds where features differ much in how easily they are found. A match that was missed
splits a family into features found once, and inflates the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reseed.spec.statistics import FeatureCounts, OffsetPowerLaw
from reseed.stability.group import RunMatches
from reseed.stability.intervals import Design, is_crossed, seed_ends
from reseed.stability.over_seeds.beta_binomial import fit, histograms
from reseed.stability.shares import Members

Floats = NDArray[np.float64]

Matches = Mapping[str, RunMatches]
"""run to the other runs in which each of its latents was found"""

ENOUGH_RUNS = 6
"""From so many runs on the offset of the power law gets an interval: each run left out must leave
more points than the three parameters."""

_RARE = 10
"""Found in at most so many runs counts as rare in ICE."""


def n_of_m(matches: Matches, strata: Mapping[str, Members]) -> pl.DataFrame:
    """How many latents are found in exactly n of m runs, seen from each run and averaged.

    Counting is a star around each run: a latent found in n runs is shared with n - 1 others, which
    need not be shared with each other. Where runs differ in how many others they have, those with
    most count.

    Returns:
        stratum, n, m, latents (mean over runs), share, binomial (expected share if every latent
        were found with the mean probability), beta_binomial (expected share of the fit), alpha,
        beta (of that fit; null without latents).
    """
    trials = max(len(base.others) for base in matches.values())
    bases = [base for base in matches.values() if len(base.others) == trials]
    frames: list[pl.DataFrame] = []
    for stratum in ("all", "live"):
        matched = np.concatenate(
            [base.matched[strata[stratum][base.run]].sum(axis=1) for base in bases]
        )
        counts = np.bincount(matched, minlength=trials + 1)
        total = int(counts.sum())
        mean = float(matched.mean() / trials) if total and trials else 0.0
        model = None
        if total and trials:
            model = fit(histograms(matched, np.full(total, trials)), len(bases), prior=trials < 2)
        none = np.full(trials + 1, np.nan)
        columns = {
            "stratum": [stratum] * (trials + 1),
            "n": np.arange(1, trials + 2),
            "m": [trials + 1] * (trials + 1),
            "latents": counts / len(bases),
            "share": counts / max(total, 1),
            "binomial": stats.binom.pmf(np.arange(trials + 1), trials, mean),
            "beta_binomial": none if model is None else model.expected(trials),
            "alpha": none if model is None else np.full(trials + 1, model.alpha),
            "beta": none if model is None else np.full(trials + 1, model.beta),
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None))


class PowerLaw(NamedTuple):
    """Share found in one run only = a M^b + c against M runs."""

    a: float
    b: float
    c: float


def only_in_one(matches: Sequence[RunMatches], members: Members) -> Floats:
    """Share of a run's latents that none of M - 1 other runs has, over M = 2, 3, ...

    The average over all choices of M - 1 others is exact: of a latent that r of T others have,
    C(T - r, M - 1) / C(T, M - 1) of the choices miss it.

    Returns:
        `[M - 1]`, mean over runs; as long as the fewest others of a run; NaN without latents.
    """
    trials = min((len(base.others) for base in matches), default=0)
    curves: list[Floats] = []
    for base in matches:
        total, drawn = len(base.others), np.arange(1, trials + 1)
        matched = base.matched[members[base.run]].sum(axis=1)
        counts = np.bincount(matched, minlength=total + 1)
        missing = total - np.arange(total + 1)[:, None]
        missed = special.comb(missing, drawn) / special.comb(total, drawn)
        none = np.full(trials, np.nan)
        curves.append(counts @ missed / len(matched) if len(matched) else none)
    return np.mean(curves, axis=0) if curves else np.zeros(0)


def power_law(share: Floats, first: int = 2) -> PowerLaw | None:
    """Fit a M^b + c by least squares for M = first, first + 1, ... (arXiv 2501.16615).

    None with fewer points than parameters, NaN among them, or where the fit does not settle.
    """
    if len(share) < 3 or not np.isfinite(share).all():
        return None
    at = np.arange(first, first + len(share), dtype=np.float64)

    # For a given b the best a and c follow from a straight line, so one number is sought.
    def solve(b: float) -> tuple[float, float, float]:
        x = at**b - (at**b).mean()
        a = float(x @ share / (x @ x))
        c = float(share.mean() - a * (at**b).mean())
        return a, c, float(((a * at**b + c - share) ** 2).sum())

    grid = np.linspace(-6.0, -0.05, 60)
    best = int(np.argmin([solve(b)[2] for b in grid]))
    if best in (0, len(grid) - 1):
        return None
    ends = (grid[best - 1], grid[best + 1])

    def loss(b: float) -> float:
        return solve(b)[2]

    best_b = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-10})
    b = float(best_b.x)  # pyright: ignore[reportAttributeAccessIssue]
    a, c, _ = solve(b)
    return PowerLaw(a, b, c)


def only_in_one_table(
    matches: Matches, strata: Mapping[str, Members], design: Design
) -> tuple[pl.DataFrame, dict[str, OffsetPowerLaw]]:
    """The curve with its interval, and the power law with the interval of its offset.

    Whole runs are left out (crossed seeds: whole seeds). A bootstrap, which draws runs with
    replacement, would put a run beside its own copy, in which everything is found again.

    Returns:
        stratum, m, share, lo, hi, fitted; and the law of each stratum, whose offset has no interval
        below `ENOUGH_RUNS` runs or with crossed seeds, where leaving one out leaves too little.
    """
    frames: list[pl.DataFrame] = []
    laws: dict[str, OffsetPowerLaw] = {}
    for stratum in ("all", "live"):
        members = strata[stratum]
        share, low, high = _curve(matches, members, design)
        law = power_law(share)
        m = np.arange(2, len(share) + 2)
        columns = {
            "stratum": [stratum] * len(m),
            "m": m,
            "share": share,
            "lo": low.clip(0, 1),
            "hi": high.clip(0, 1),
            "fitted": np.full(len(m), np.nan) if law is None else law.a * m**law.b + law.c,
        }
        frames.append(pl.DataFrame(columns))
        a, b, c = law or (None, None, None)
        interval = None if law is None else _offset_interval(law, matches, members, design)
        laws[stratum] = OffsetPowerLaw(a=a, b=b, c=c, c_interval_95=interval)
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None)), laws


def _without(matches: Matches, left: set[str]) -> list[RunMatches]:
    return [base.without(left) for run, base in matches.items() if run not in left]


def _curve(matches: Matches, members: Members, design: Design) -> tuple[Floats, Floats, Floats]:
    share = only_in_one(_without(matches, set()), members)
    length = len(share)

    def statistic(left: set[str]) -> Floats | None:
        part = only_in_one(_without(matches, left), members)
        return np.pad(part, (0, length - len(part)), constant_values=np.nan) if len(part) else None

    return seed_ends(share, statistic, design)


def _offset_interval(
    law: PowerLaw, matches: Matches, members: Members, design: Design
) -> tuple[float, float] | None:
    if len(matches) < ENOUGH_RUNS or is_crossed(design):
        return None

    def offset(left: set[str]) -> Floats | None:
        fewer = power_law(only_in_one(_without(matches, left), members))
        return None if fewer is None else np.array(fewer.c)

    _, low, high = seed_ends(np.array(law.c), offset, design)
    return None if np.isnan(low) else (float(low), float(high))


def incidences(latents: pl.DataFrame, runs: Sequence[str]) -> NDArray[np.int64]:
    """`[runs]` how many features were found in exactly 1, 2, ... of some runs.

    A feature is a family with a live latent, or a live orphan; it counts once for each run in
    which it has a live latent. Dead latents are not features.
    """
    live = latents.filter("alive", pl.col("run").is_in(list(runs)))
    orphans = int(live["family"].null_count())
    members = live.drop_nulls("family").group_by("family").agg(pl.col("run").n_unique())
    counts = np.bincount(members["run"].to_numpy(), minlength=len(runs) + 1)[1:]
    counts[0] += orphans
    return counts


def estimate(counts: NDArray[np.int64]) -> FeatureCounts:
    """How many features there are, by all estimators, from those found in exactly 1 ... m runs."""
    m, observed = len(counts), int(counts.sum())
    once = int(counts[0])
    twice = int(counts[1]) if m > 1 else 0
    chao2 = observed + (m - 1) / m * once * (once - 1) / (2 * (twice + 1))
    return FeatureCounts(
        runs=m,
        observed=observed,
        once=once,
        twice=twice,
        chao2=float(chao2),
        ice=_ice(counts, float(chao2)),
        jackknife=observed + once * (m - 1) / m,
        warnings=[],
    )


def _ice(counts: NDArray[np.int64], otherwise: float) -> float:
    """Incidence-based coverage estimator; Chao2 where rare features are all found once only.

    Coverage as in SpadeR (Chao & Jost 2012): the older 1 - Q1 / sum(j Qj) is far too low with few
    runs that find much each; at three runs of equal detectability it gave 94K of 60K features.
    """
    m = len(counts)
    times = np.arange(1, m + 1)
    rare = times <= _RARE
    rare_counts, often = counts[rare], int(counts[~rare].sum())
    total = float(rare_counts @ times[rare])
    if total == 0:
        return float(often)
    once, twice = int(counts[0]), int(counts[1]) if m > 1 else 0
    seen_again = (m - 1) * once + 2 * twice
    coverage = 1 - once / total * ((m - 1) * once / seen_again if seen_again else 0.0)
    if coverage <= 0 or m < 2:
        return otherwise
    spread = float(rare_counts @ (times[rare] * (times[rare] - 1)))
    ratio = rare_counts.sum() / coverage * m / (m - 1) * spread / total**2
    return float(often + rare_counts.sum() / coverage + counts[0] / coverage * max(ratio - 1, 0.0))


def accumulation(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Features expected in 1, 2, ... m runs, averaged over all choices of runs, `[m]`.

    The exact average (Mao tau; Colwell, Mao & Chang 2004): a feature found in j of m runs is missed
    by C(m - j, h) / C(m, h) of the choices of h runs.
    """
    m = len(counts)
    times, drawn = np.arange(1, m + 1), np.arange(1, m + 1)[:, None]
    missed = special.comb(m - times, drawn) / special.comb(m, drawn)
    return counts.sum() - missed @ counts
