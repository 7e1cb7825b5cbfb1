"""Whether the intervals of a latent's reproducibility hold it, judged by runs held out.

M of the R runs judge: a latent found in n of the T = M - 1 others gets an interval for p, the
probability that an independent run finds it. The K = R - M runs left out are the truth, in which it
is found k times. k / K is not p: with few runs held out it strays out of an interval that holds p.
So the distribution of p among latents of the same n is estimated from their k by maximum likelihood
(beta-binomial), and coverage is the mass of that distribution inside the interval; the raw share,
noise and all, stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from reseed.calibration.detector import Recurrence, strata, subsets
from reseed.stability.intervals import jackknife_ends
from reseed.stability.over_seeds.beta_binomial import fit
from reseed.stability.over_seeds.posterior import fit_mixture
from reseed.stability.proportions import wider_than_counts, wilson

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RULES = ("Wilson", "posterior")
"""Intervals under test: of the latent alone; of the posterior that the table of latents gives
(`reseed.stability.over_seeds.posterior`), fitted to the stratum."""


class Covered(NamedTuple):
    """The two tables of `coverage`."""

    table: pl.DataFrame
    """rule, stratum, rate_lo, rate_hi, m, held_out (K); latents; coverage, _lo, _hi (95 %,
    jackknife over runs); raw (share of latents whose k / K lies inside); width (mean of the
    intervals)"""
    reliability: pl.DataFrame
    """rule, stratum, m, n (found by n of m, itself included), latents; said (mean posterior, for
    Wilson (n - 1) / T), lo, hi (mean ends of the interval); held_out (mean of k / K), truth_lo and
    truth_hi (central 95 % of the fitted distribution of p)"""


def coverage(recurrence: Recurrence, size: int, bins: int) -> Covered:
    """Judge the intervals that `size` runs give by the other runs.

    Returns:
        Empty tables if fewer than two runs would be held out.
    """
    runs = len(recurrence.rate)
    rows: list[dict[str, object]] = []
    points: list[dict[str, object]] = []
    if runs - size >= 2:
        chosen = subsets(runs, size)
        for stratum in strata(recurrence.rate, bins):
            members = stratum.members
            counts = cross_counts(recurrence, members, chosen)
            left = [cross_counts(recurrence, members, chosen, skip=run) for run in range(runs)]
            for rule in RULES:
                ends = _intervals(rule, counts)
                head = {"rule": rule, "stratum": stratum.name}
                rates = {"rate_lo": stratum.lo, "rate_hi": stratum.hi}
                sizes = {
                    "m": size,
                    "held_out": runs - size,
                    "latents": float(counts.sum() / len(chosen) / size),
                }
                rows.append(head | rates | sizes | _row(counts, left, ends))
                points += [head | {"m": size} | point for point in _reliability(counts, ends, size)]
    types = {"rate_lo": pl.Float64, "rate_hi": pl.Float64, "held_out": pl.Int32, "m": pl.Int32}
    return Covered(_table(rows, types), _table(points, {"m": pl.Int32}))


def _table(rows: list[dict[str, object]], types: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    if not rows:
        return pl.DataFrame(schema={"rule": pl.String, "stratum": pl.String})
    table = pl.DataFrame(rows, schema_overrides=types)
    return table.with_columns(pl.selectors.float().fill_nan(None))


def intervals(rule: str, counts: NDArray[np.generic]) -> tuple[Floats, Floats, Floats]:
    """What a rule says of latents found in n of T other runs, from counts `[T + 1]` by n.

    Returns:
        Mean, lower and upper end for every n, `[T + 1]` each.
    """
    trials = len(counts) - 1
    n = np.arange(trials + 1)
    if rule == "Wilson":
        low, high = wilson(n / trials, trials)
        return n / trials, low, high
    if not counts.sum():
        return n / trials, np.zeros(trials + 1), np.ones(trials + 1)
    # as the table of latents has it: each feature can be counted from the side of every run
    return fit_mixture({trials: np.asarray(counts)}, trials + 1).posterior(trials)


def _spread(counts: Integers) -> tuple[float, float]:
    """Beta distribution of p behind these counts, by maximum likelihood."""
    beta = fit({len(counts) - 1: counts}, prior=False)
    return beta.alpha, beta.beta


def cross_counts(
    recurrence: Recurrence, members: NDArray[np.bool_], chosen: Integers, skip: int | None = None
) -> Integers:
    """Latents of `members` `[R, F]` by how often judges `[n, M]` and held-out runs find them.

    The run `skip` is neither judge nor held out; sets with it are left as zeros.

    Returns:
        `[n, T + 1, K + 1]`.
    """
    runs, size = len(recurrence.rate), chosen.shape[1]
    partner = recurrence.found
    out: list[Integers] = []
    for judges in chosen:
        others = [r for r in range(runs) if r not in judges and r != skip]
        shape = size, len(others) + 1
        if skip in judges:
            out.append(np.zeros((size, runs - size), np.int64))
            continue
        n = partner[judges][:, :, judges].sum(axis=2)
        k = partner[judges][:, :, others].sum(axis=2)
        index = (n * shape[1] + k)[members[judges]]
        out.append(np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape))
    return np.stack(out)


def _row(counts: Integers, left: list[Integers], ends: Floats) -> dict[str, object]:
    """Coverage of the intervals, with its own interval from the counts `left` without each run."""
    value = _covered(counts, ends)
    around = jackknife_ends(np.array(value), np.array([_covered(fewer, ends) for fewer in left]))
    low, high = map(float, wider_than_counts(around, np.array(value), counts.sum() / len(counts)))
    return {
        "coverage": value,
        "coverage_lo": low,
        "coverage_hi": high,
        "raw": _raw(counts, ends),
        "width": _mean(ends[:, 2] - ends[:, 1], counts.sum(axis=2)),
    }


def _intervals(rule: str, counts: Integers) -> Floats:
    """`[sets, 3, T + 1]` what a rule says from the judges of each set alone."""
    if rule == "Wilson":  # the same whatever the others show
        of_set = np.stack(intervals(rule, counts[0].sum(axis=1)))
        return np.broadcast_to(of_set, (len(counts), *of_set.shape))
    return np.stack([np.stack(intervals(rule, of_set.sum(axis=1))) for of_set in counts])


def _covered(counts: Integers, ends: Floats) -> float:
    """Mass of the estimated distribution of p inside the intervals, over all sets and n."""
    per_n = counts.sum(axis=0)
    weight = counts.sum(axis=2)
    if not weight.sum() or counts.shape[2] < 3:
        return float("nan")
    total = 0.0
    for n in np.flatnonzero(per_n.sum(axis=1)):
        a, b = _spread(per_n[n])
        inside = betainc(a, b, ends[:, 2, n]) - betainc(a, b, ends[:, 1, n])
        total += float((weight[:, n] * inside).sum())
    return total / float(weight.sum())


def _raw(counts: Integers, ends: Floats) -> float:
    share = np.arange(counts.shape[2]) / (counts.shape[2] - 1)
    inside = (share >= ends[:, 1, :, None] - 1e-9) & (share <= ends[:, 2, :, None] + 1e-9)
    return float((counts * inside).sum() / counts.sum()) if counts.sum() else float("nan")


def _mean(values: Floats, weight: NDArray[np.generic]) -> float:
    weights = np.asarray(weight, np.float64)
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total else float("nan")


def _reliability(counts: Integers, ends: Floats, size: int) -> list[dict[str, object]]:
    share = np.arange(counts.shape[2]) / (counts.shape[2] - 1)
    rows: list[dict[str, object]] = []
    for n in range(counts.shape[1]):
        of_n, weight = counts[:, n].sum(axis=0), counts[:, n].sum(axis=1)
        spread = (np.nan, np.nan)
        if of_n.sum() and len(share) > 2:
            a, b = _spread(of_n)
            spread = betaincinv(a, b, 0.025), betaincinv(a, b, 0.975)
        rows.append(
            {
                "n": n + 1,
                "latents": float(of_n.sum() / len(counts) / size),
                "said": _mean(ends[:, 0, n], weight),
                "lo": _mean(ends[:, 1, n], weight),
                "hi": _mean(ends[:, 2, n], weight),
                "held_out": _mean(share, of_n),
                "truth_lo": float(spread[0]),
                "truth_hi": float(spread[1]),
            }
        )
    return rows
