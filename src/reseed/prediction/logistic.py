"""Binomial logistic regression on smooth functions of a few columns.

N rows, T trials of a row, C columns of the design. Additive: each column enters through a cubic
B-spline with knots at its quantiles, so that no shape is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.special import expit, log_expit

Floats = NDArray[np.float64]

_INNER = 3
"""Inner knots of a column, at its quantiles."""

_ROWS_A_KNOT, _MOST_INNER = 40, 15
"""Of the first column: as many inner knots as the rows bear, so that what another column seems to
add is not what a stiff first one left out."""

_DEGREE = 3

FIRST = 1.0
"""Penalty on the coefficients of the first column: inverse variance of a normal prior, logits."""

SHRINKAGES = (1.0, 10.0, 100.0, 1e3, 1e5)
"""Penalties tried on those of the other columns."""

_VALIDATED = 20_000
"""Rows that a fit reads at the most while the penalty is chosen."""

_STEPS = 100

_CLOSE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Smooth:
    """A cubic B-spline basis over the range in which a column was seen; constant beyond it."""

    knots: Floats

    @classmethod
    def of(cls, values: Floats, knots: int = _INNER) -> Smooth:
        """Inner knots at the quantiles of finite values; a column of one value gets no basis."""
        ends = float(values.min()), float(values.max())
        inner = np.unique(np.quantile(values, np.linspace(0, 1, knots + 2)[1:-1]))
        inner = inner[(inner > ends[0]) & (inner < ends[1])]
        if ends[0] == ends[1]:
            return cls(knots=np.empty(0))
        outer = np.repeat(np.array(ends), _DEGREE + 1)
        return cls(knots=np.concatenate([outer[: _DEGREE + 1], inner, outer[_DEGREE + 1 :]]))

    def __call__(self, values: Floats) -> Floats:
        """The basis at these values, `[N, columns]`; rows sum to 1."""
        if not len(self.knots):
            return np.empty((len(values), 0))
        inside = values.clip(self.knots[0], self.knots[-1])
        return BSpline.design_matrix(inside, self.knots, _DEGREE).toarray()


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A fitted model: the logit is an intercept and one smooth function of each column."""

    smooths: Sequence[Smooth]
    intercept: float
    weights: Floats
    """of all bases, one after the other"""
    shrinkage: float
    """penalty that was chosen for all columns but the first"""

    def logit(self, rows: Floats) -> Floats:
        """Logits `[N]` of rows `[N, C or more]`; the first C columns are read."""
        columns = rows.T[: len(self.smooths)]
        parts = [smooth(x) for smooth, x in zip(self.smooths, columns, strict=True)]
        return self.intercept + np.concatenate(parts, axis=1) @ self.weights

    def probability(self, rows: Floats) -> Floats:
        """Probabilities `[N]` of rows `[N, C or more]`."""
        return expit(self.logit(rows))


def fit(
    rows: Floats, hits: NDArray[np.int64], trials: NDArray[np.int64], fold: NDArray[np.int64]
) -> Model:
    """The model with the largest penalised likelihood of `found` successes in `trials`.

    The first column is taken as it is; how much the others are shrunk towards saying nothing is
    chosen by cross-validation, so that columns without information do little harm. Rows
    `[N, C]` are finite, trials at least 1, and `fold` is the part of a row in that validation.
    """
    first = int(np.clip(len(rows) // _ROWS_A_KNOT, _INNER, _MOST_INNER))
    smooths = [Smooth.of(x, _INNER if at else first) for at, x in enumerate(rows.T)]
    parts = [np.ones((len(rows), 1)), *(s(x) for s, x in zip(smooths, rows.T, strict=True))]
    design, y, n = np.concatenate(parts, axis=1), hits.astype(float), trials.astype(float)
    fixed = np.arange(design.shape[1]) < 1 + parts[1].shape[1]
    shrink = FIRST
    if not fixed.all() and len(np.unique(fold)) > 1:
        losses = _validated(design, y, n, fold, fixed)
        shrink = SHRINKAGES[int(np.argmin(losses))]
    weights = _newton(design, y, n, _penalty(fixed, shrink), np.zeros(design.shape[1]))
    return Model(
        smooths=smooths, intercept=float(weights[0]), weights=weights[1:], shrinkage=shrink
    )


def _penalty(fixed: NDArray[np.bool_], shrinkage: float) -> Floats:
    penalty = np.where(fixed, FIRST, shrinkage)
    penalty[0] = 1e-6  # all but free, yet finite where every trial ended alike
    return penalty


def _validated(
    design: Floats, hits: Floats, trials: Floats, fold: NDArray[np.int64], fixed: NDArray[np.bool_]
) -> Floats:
    """Loss on each part of a fit to the others, summed, for each of `SHRINKAGES`."""
    losses = np.zeros(len(SHRINKAGES))
    for part in np.unique(fold):
        out = np.flatnonzero(fold == part)
        rest = np.flatnonzero(fold != part)[:: -(-len(design) // _VALIDATED)]
        weights = np.zeros(design.shape[1])
        # from the strongest on, each a start for the next
        for i in reversed(range(len(SHRINKAGES))):
            penalty = _penalty(fixed, SHRINKAGES[i])
            weights = _newton(design[rest], hits[rest], trials[rest], penalty, weights)
            losses[i] += objective(weights, design[out], hits[out], trials[out], 0 * penalty)
    return losses


def _newton(
    design: Floats, hits: Floats, trials: Floats, penalty: Floats, weights: Floats
) -> Floats:
    """Newton's steps with halving; the objective is strictly convex, so they end at its minimum."""
    value = objective(weights, design, hits, trials, penalty)
    for _ in range(_STEPS):
        p = expit(design @ weights)
        gradient = design.T @ (trials * p - hits) + penalty * weights
        hessian = (design * (trials * p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        move = np.linalg.solve(hessian, gradient)
        decrease = float(gradient @ move)
        if decrease < _CLOSE:
            break
        size = 1.0
        there = objective(weights - move, design, hits, trials, penalty)
        while there > value - 1e-4 * size * decrease and size > 1e-6:
            size /= 2
            there = objective(weights - size * move, design, hits, trials, penalty)
        weights, value = weights - size * move, there
    return weights


def objective(
    weights: Floats, design: Floats, hits: Floats, trials: Floats, penalty: Floats
) -> float:
    """What `fit` minimises: minus the log-likelihood, plus half the penalty on squared weights."""
    logit = design @ weights
    likelihood = hits * log_expit(logit) + (trials - hits) * log_expit(-logit)
    return float(-likelihood.sum() + 0.5 * (penalty * weights**2).sum())
