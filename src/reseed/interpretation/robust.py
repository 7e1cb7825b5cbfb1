"""Weighted least squares with errors that allow for latents of one family going together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(
    design: Floats, y: Floats, weights: Floats, clusters: NDArray[np.int64], column: int
) -> Estimate | None:
    """One coefficient of a weighted regression, with a cluster-robust interval.

    The covariance is the sandwich summed over clusters, residuals divided by the square root of
    1 - leverage (HC2); the quantile is Student's with clusters - columns degrees of freedom.

    Args:
        design: `[n, p]`; columns without variation beyond the others are dropped.
        y: `[n]`.
        weights: `[n]`, above 0.
        clusters: `[n]` number of the cluster of each row.
        column: whose coefficient is wanted.

    Returns:
        None where it is not determined, or there are too few clusters for an interval.
    """
    design, column = _independent(design, column)
    groups = len(np.unique(clusters))
    if column < 0 or groups - design.shape[1] < 1:
        return None
    root = np.sqrt(weights)
    x, z = design * root[:, None], y * root
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ (x.T @ z)
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    # HC2: an unbiased variance if all rows vary alike; without it small strata look too sure
    residual = (z - x @ beta) / np.sqrt(np.maximum(1 - leverage, 1e-9))
    _, place = np.unique(clusters, return_inverse=True)
    scores = np.zeros((groups, x.shape[1]))
    np.add.at(scores, place, x * residual[:, None])
    error = float(np.sqrt((inverse @ scores.T @ scores @ inverse)[column, column]))
    half = float(stats.t.ppf(0.975, groups - design.shape[1])) * error
    value = float(beta[column])
    return Estimate(value, value - half, value + half)


def _independent(design: Floats, column: int) -> tuple[Floats, int]:
    """The design with the wanted column last, without columns that the ones before them give."""
    order = [*(c for c in range(design.shape[1]) if c != column), column]
    kept: list[int] = []
    for c in order:
        if np.linalg.matrix_rank(design[:, [*kept, c]]) > len(kept):
            kept.append(c)
    return design[:, kept], kept.index(column) if column in kept else -1
