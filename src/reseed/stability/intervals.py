"""Intervals whose unit of replication is the run, not the pair and not the latent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def mean_over_pairs(
    pairs: Sequence[tuple[str, str]], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over pairs of runs with a 95 % interval by the delete-one-run jackknife.

    Pairs that share a run are dependent, so whole runs are left out one at a time; the quantile is
    Student's with runs - 1 degrees of freedom.

    Args:
        pairs: names of the two runs of each pair.
        values: `[pairs, ...]`.

    Returns:
        Mean, lower and upper end, each `[...]`; NaN ends with fewer than three runs, since one pair
        says nothing about how much pairs differ.
    """
    runs = sorted({run for pair in pairs for run in pair})
    mean = values.mean(axis=0)
    if len(runs) < 3:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    without = np.stack([values[[run not in pair for pair in pairs]].mean(axis=0) for run in runs])
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    error = np.sqrt((len(runs) - 1) / len(runs) * spread)
    reach = float(stats.t.ppf(0.975, len(runs) - 1)) * error
    return mean, mean - reach, mean + reach


def wilson(
    found: NDArray[np.int64], trials: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % Wilson interval of a proportion for each count.

    Args:
        found: counts, each from 0 to `trials`.
        trials: independent tries, at least 1.
    """
    by_count = [
        stats.binomtest(n, trials).proportion_ci(0.95, method="wilson") for n in range(trials + 1)
    ]
    low = np.array([ci.low for ci in by_count])
    high = np.array([ci.high for ci in by_count])
    return low[found], high[found]
