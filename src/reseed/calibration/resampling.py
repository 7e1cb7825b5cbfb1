"""Subsets of runs, and intervals from leaving runs out: the run is the unit of replication."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reseed.seeds import generator

Floats = NDArray[np.float64]

MOST = 300
"""Subsets of one size that are looked at; of more, a seeded sample."""


def subsets(runs: int, size: int) -> NDArray[np.int64]:
    """`[n, size]` choices of `size` of `runs` runs: all of them, or `MOST` drawn by a seed."""
    if comb(runs, size) <= MOST:
        return np.array(list(combinations(range(runs), size)), np.int64).reshape(-1, size)
    draw = generator("calibration-subsets", runs, size)
    drawn = {tuple(sorted(draw.permutation(runs)[:size].tolist())) for _ in range(MOST)}
    return np.array(sorted(drawn), np.int64)


def jackknife(whole: Floats, without: Floats) -> tuple[Floats, Floats]:
    """95 % interval from leaving out one run at a time, Student's t with runs - 1 degrees.

    Args:
        whole: `[...]` the estimate.
        without: `[runs, ...]` the estimate without each run.

    Returns:
        Lower and upper end, `[...]`; NaN with fewer than three runs or where an estimate is NaN.
    """
    runs = len(without)
    if runs < 3:
        return np.full_like(whole, np.nan), np.full_like(whole, np.nan)
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    reach = float(stats.t.ppf(0.975, runs - 1)) * np.sqrt((runs - 1) / runs * spread)
    return whole - reach, whole + reach
