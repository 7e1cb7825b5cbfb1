"""Curves over seeds: found in N of M, only in one against M."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reseed.spec.statistics import OffsetPowerLaw
from reseed.stability.group import RunMatches
from reseed.stability.intervals import Design, is_crossed, seed_ends
from reseed.stability.over_seeds.beta_binomial import BetaBinomial, fit, histograms
from reseed.stability.proportions import inside
from reseed.stability.shares import Members

Floats = NDArray[np.float64]

Matches = Mapping[str, RunMatches]
"""run to the other runs in which each of its latents was found"""

ENOUGH_RUNS = 6
"""From so many runs on the power law is judged by two that are left out: what is left must have as
many points as it has parameters."""


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

    c is held in [0, 1], since the share can fall no further. None with fewer points than
    parameters, NaN among them, or where the fit does not settle.
    """
    if len(share) < 3 or not np.isfinite(share).all():
        return None
    at = np.arange(first, first + len(share), dtype=np.float64)

    # For a given b the best a and c follow from a straight line, so one number is sought.
    def solve(b: float) -> tuple[float, float, float]:
        power = at**b
        x = power - power.mean()
        c = float(np.clip(share.mean() - (x @ share / (x @ x)) * power.mean(), 0.0, 1.0))
        a = float(power @ (share - c) / (power @ power))
        return a, c, float(((a * power + c - share) ** 2).sum())

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
    """The curve with its interval, and two laws for it: the power law and the beta-binomial.

    The interval leaves out whole runs (crossed seeds: whole seeds). A bootstrap, which draws runs
    with replacement, would put a run beside its own copy, in which everything is found again.

    Returns:
        stratum, m, share, lo, hi, fitted (power law), beta_binomial; and the law of each stratum,
        beside what both foretell of runs that were left out: none below `ENOUGH_RUNS` runs or with
        crossed seeds, where leaving some out leaves too little.
    """
    frames: list[pl.DataFrame] = []
    laws: dict[str, OffsetPowerLaw] = {}
    for stratum in ("all", "live"):
        members = strata[stratum]
        share, low, high = _curve(matches, members, design)
        law, smooth = power_law(share), _beta_binomial(matches, members)
        m = np.arange(2, len(share) + 2)
        none = np.full(len(m), np.nan)
        columns = {
            "stratum": [stratum] * len(m),
            "m": m,
            "share": share,
            "lo": low.clip(0, 1),
            "hi": high.clip(0, 1),
            "fitted": none if law is None else law.a * m**law.b + law.c,
            "beta_binomial": none if smooth is None else smooth.only_here(m),
        }
        frames.append(pl.DataFrame(columns))
        a, b, c = law or (None, None, None)
        error, other = _foretold(matches, members, design, share)
        laws[stratum] = OffsetPowerLaw(a=a, b=b, c=c, error=error, error_beta_binomial=other)
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None)), laws


def _beta_binomial(matches: Matches, members: Members) -> BetaBinomial | None:
    """The fit to how often the latents of all runs are found."""
    counts = [base.matched[members[run]].sum(axis=1) for run, base in matches.items()]
    trials = [np.full(len(c), len(b.others)) for c, b in zip(counts, matches.values(), strict=True)]
    known = histograms(np.concatenate(counts), np.concatenate(trials))
    return fit(known, len(matches)) if any(each.sum() for each in known.values()) else None


def _foretold(
    matches: Matches, members: Members, design: Design, share: Floats
) -> tuple[float | None, float | None]:
    """Mean error of both laws at all runs, fitted without two of them, each run and the next."""
    if len(matches) < ENOUGH_RUNS or is_crossed(design):
        return None, None
    runs, errors = len(share) + 1, []
    names = list(matches)
    for left in zip(names, names[1:] + names[:1], strict=True):
        fewer = {base.run: base for base in _without(matches, set(left))}
        law = power_law(only_in_one(list(fewer.values()), members))
        smooth = _beta_binomial(fewer, members)
        if law is None or smooth is None:
            return None, None
        by_both = law.a * runs**law.b + law.c, float(smooth.only_here(np.array([runs]))[0])
        errors.append(np.abs(np.array(by_both) - share[-1]))
    power, beta = np.mean(errors, axis=0)
    return float(power), float(beta)


def _without(matches: Matches, left: set[str]) -> list[RunMatches]:
    return [base.without(left) for run, base in matches.items() if run not in left]


def _curve(matches: Matches, members: Members, design: Design) -> tuple[Floats, Floats, Floats]:
    share = only_in_one(_without(matches, set()), members)
    length = len(share)

    def statistic(left: set[str]) -> Floats | None:
        part = only_in_one(_without(matches, left), members)
        return np.pad(part, (0, length - len(part)), constant_values=np.nan) if len(part) else None

    value, *ends = seed_ends(share, statistic, design)
    return value, *inside((ends[0], ends[1]))
