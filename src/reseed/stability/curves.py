"""Curves over seeds: found in N of M, only in one against M, features found against runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reseed.stability.finds import Finds
from reseed.stability.intervals import Design, crossed_error, is_crossed, jackknife
from reseed.stability.posterior import fit, histograms
from reseed.stability.strata import Members

Floats = NDArray[np.float64]

ENOUGH_RUNS = 6
"""From so many runs on the offset of the power law gets an interval: each run left out must leave
more points than the three parameters."""


def n_of_m(found: Mapping[str, Finds], strata: Mapping[str, Members]) -> pl.DataFrame:
    """How many latents are found in exactly n of m runs, seen from each run and averaged.

    Counting is a star around each run: a latent found in n runs is shared with n - 1 others, which
    need not be shared with each other.

    Args:
        found: of each run; where runs differ in how many others they have, those with most count.
        strata: which latents belong; here `all` and `live` are given.

    Returns:
        stratum, n, m, latents (mean over runs), share, binomial (expected share if every latent
        were found with the mean probability), beta_binomial (expected share of the fit), alpha,
        beta (of that fit; null without latents).
    """
    trials = max(len(one.others) for one in found.values())
    bases = [one for one in found.values() if len(one.others) == trials]
    frames: list[pl.DataFrame] = []
    for stratum in ("all", "live"):
        matched = np.concatenate(
            [one.matched[strata[stratum][one.run]].sum(axis=1) for one in bases]
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


def only_in_one(found: Sequence[Finds], members: Members) -> Floats:
    """Share of a run's latents that none of M - 1 other runs has, over M = 2, 3, ...

    The average over all choices of M - 1 others is exact: of a latent that r of T others have,
    C(T - r, M - 1) / C(T, M - 1) of the choices miss it.

    Args:
        found: of each run.
        members: which latents count.

    Returns:
        `[M - 1]`, mean over runs; as long as the fewest others of a run; NaN without latents.
    """
    trials = min((len(one.others) for one in found), default=0)
    curves: list[Floats] = []
    for one in found:
        total, drawn = len(one.others), np.arange(1, trials + 1)
        matched = one.matched[members[one.run]].sum(axis=1)
        counts = np.bincount(matched, minlength=total + 1)
        missing = total - np.arange(total + 1)[:, None]
        missed = special.comb(missing, drawn) / special.comb(total, drawn)
        none = np.full(trials, np.nan)
        curves.append(counts @ missed / len(matched) if len(matched) else none)
    return np.mean(curves, axis=0) if curves else np.zeros(0)


def power_law(share: Floats, first: int = 2) -> PowerLaw | None:
    """Fit a M^b + c by least squares (arXiv 2501.16615).

    Args:
        share: `[n]` for M = first, first + 1, ...
        first: M of the first one.

    Returns:
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

    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-10})
    b = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    a, c, _ = solve(b)
    return PowerLaw(a, b, c)


def only_in_one_table(
    found: Mapping[str, Finds], strata: Mapping[str, Members], design: Design
) -> tuple[pl.DataFrame, dict[str, dict[str, float | list[float] | None]]]:
    """The curve with its interval, and the power law with the interval of its offset.

    Whole runs are left out (crossed seeds: whole seeds). A bootstrap, which draws runs with
    replacement, would put a run beside its own copy, in which everything is found again.

    Args:
        found: of each run.
        strata: which latents belong; here `all` and `live` are given.
        design: seeds of the runs.

    Returns:
        stratum, m, share, lo, hi, fitted; and stratum to `a`, `b`, `c`, `c_interval_95` (None
        below `ENOUGH_RUNS` runs, or with crossed seeds, where leaving one out leaves too little).
    """
    frames: list[pl.DataFrame] = []
    laws: dict[str, dict[str, float | list[float] | None]] = {}
    for stratum in ("all", "live"):
        members = strata[stratum]
        share, low, high = _curve(found, members, design)
        law = power_law(share)
        m = np.arange(2, len(share) + 2)
        none = np.full(len(m), np.nan)
        columns = {
            "stratum": [stratum] * len(m),
            "m": m,
            "share": share,
            "lo": low.clip(0, 1),
            "hi": high.clip(0, 1),
            "fitted": none if law is None else law.a * m**law.b + law.c,
        }
        frames.append(pl.DataFrame(columns))
        laws[stratum] = {
            "a": law.a if law else None,
            "b": law.b if law else None,
            "c": law.c if law else None,
            "c_interval_95": _offset_interval(found, members, design) if law else None,
        }
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None)), laws


def _left(found: Mapping[str, Finds], left: set[str]) -> list[Finds]:
    return [one.without(left) for run, one in found.items() if run not in left]


def _curve(
    found: Mapping[str, Finds], members: Members, design: Design
) -> tuple[Floats, Floats, Floats]:
    whole = only_in_one(_left(found, set()), members)
    length = len(whole)

    def statistic(left: set[str]) -> Floats | None:
        part = only_in_one(_left(found, left), members)
        return np.pad(part, (0, length - len(part)), constant_values=np.nan) if len(part) else None

    if is_crossed(design):
        error, freedom = crossed_error(statistic, design)
        if error is None:
            return whole, np.full_like(whole, np.nan), np.full_like(whole, np.nan)
        reach = float(stats.t.ppf(0.975, freedom)) * error
        return whole, whole - reach, whole + reach
    return jackknife(statistic, list(found))


def _offset_interval(
    found: Mapping[str, Finds], members: Members, design: Design
) -> list[float] | None:
    if len(found) < ENOUGH_RUNS or is_crossed(design):
        return None

    def offset(left: set[str]) -> Floats | None:
        law = power_law(only_in_one(_left(found, left), members))
        return None if law is None else np.array(law.c)

    _, low, high = jackknife(offset, list(found))
    return None if np.isnan(low) else [float(low), float(high)]
