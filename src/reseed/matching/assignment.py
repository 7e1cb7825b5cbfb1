"""The best one-to-one assignment, with a proof.

Primal: max Σ S_ij x_ij over matchings of all rows of the smaller side. For any prices v >= 0 of the
columns of the larger side (any v if the sides are equal), with n rows on the smaller side,

    D(v) = Σ_i max_j (S_ij - v_j) + Σ_j v_j  >=  every primal value,

so D(v) - primal bounds how far from the best an assignment is, whoever found it.

Which solver runs: up to `DENSE_BELOW` similarities the dense one; above, the
one in `exact`, which needs numba. Without numba the dense one goes on to `DENSE_LIMIT`, and larger
dictionaries are refused. The certificate says which one it was.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from reseed.errors import SpecError
from reseed.matching.entries import DENSE_LIMIT, BothNearest, dense, from_dense
from reseed.matching.geometry import Geometry, Limits
from reseed.records import Certificate, Match

Matrix = NDArray[np.float64]

DENSE_BELOW = 2**21
"""Similarities up to which the dense solver runs (1,448 x 1,448 latents). The sparse one is faster
from 2^19 on, by less than what compiling it costs once."""

DENSE_SOLVER = "dense Jonker-Volgenant (SciPy)"


def solve(
    geometry: Geometry,
    limits: Limits | None = None,
    show: Callable[[float], None] | None = None,
    *,
    reject: float | None = None,
) -> Match:
    """Match two dictionaries one to one by any similarity.

    `show` is told how many similarities were computed, as they are; `reject` as in `reseed.match`.
    """
    if dense_is_chosen(geometry.shape):
        S = dense(geometry)
        return assign(S) if reject is None else assign_above(S, reject)
    if reject is not None:
        from reseed.matching.exact import match_above

        return match_above(geometry, reject, limits or Limits(), show)
    from reseed.matching.exact import exact

    return exact(geometry, limits or Limits(), show)


def solve_and_nearest(
    geometry: Geometry, show: Callable[[float], None] | None = None
) -> tuple[Match, BothNearest]:
    """Match two dictionaries, and find the nearest neighbours of both sides in the same pass."""
    if dense_is_chosen(geometry.shape):
        S = dense(geometry)
        return assign(S), from_dense(S)
    from reseed.matching.exact import exact_and_nearest

    return exact_and_nearest(geometry, show)


def dense_is_chosen(shape: tuple[int, int]) -> bool:
    """Whether this many similarities are matched as a matrix; see above."""
    entries = shape[0] * shape[1]
    compiled = importlib.util.find_spec("numba") is not None
    if not compiled and entries > DENSE_LIMIT:
        raise SpecError(
            f"{shape[0]} x {shape[1]} similarities take "
            f"{entries * 8 / 2**30:.0f} GiB; dense matching is limited to "
            f"{DENSE_LIMIT * 8 / 2**30:.0f} GiB, and matching without the matrix needs numba: "
            "pip install numba"
        )
    return not compiled or entries <= DENSE_BELOW


def assign(S: Matrix) -> Match:
    """The assignment of `[rows, columns]` with the largest summed similarity, certified."""
    started = time.perf_counter()
    rows, columns = linear_sum_assignment(S, maximize=True)
    similarity = S[rows, columns]
    primal = float(similarity.sum())
    if S.shape[0] <= S.shape[1]:
        dual = dual_value(S, column_prices(S, columns))
    else:
        dual = dual_value(S.T, column_prices(S.T, rows[np.argsort(columns)]))
    tolerance = 1e-9 * max(1.0, abs(primal))
    gap = dual - primal
    return Match(
        pairs=np.stack([rows, columns], axis=1).astype(np.int64),
        similarity=similarity,
        primal=primal,
        dual=dual,
        gap=gap,
        tolerance=tolerance,
        optimal=gap <= tolerance,
        seconds=time.perf_counter() - started,
        certificate=Certificate(
            solver=DENSE_SOLVER,
            edges=S.size,
            ended="proven" if gap <= tolerance else "out of rounds",
        ),
    )


def assign_above(S: Matrix, least: float) -> Match:
    """The one-to-one pairs with the largest Σ (similarity - least), all above `least`.

    A pair that is not worth making counts 0, so the best assignment of max(S - least, 0) has the
    best pairs in it, and its certificate is theirs.
    """
    match = assign(np.maximum(S - least, 0.0))
    made = match.similarity > 0
    assert match.certificate is not None
    return replace(
        match,
        pairs=match.pairs[made],
        similarity=S[tuple(match.pairs[made].T)],
        certificate=replace(match.certificate, reject=least),
    )


def column_prices(S: Matrix, partner: NDArray[np.intp]) -> NDArray[np.float64]:
    """Prices that prove an assignment optimal if it is: longest paths in its exchange graph.

    Column j gets the price of the best chain of exchanges that ends there (Bellman-Ford). If the
    assignment is not optimal some chain closes into a gain and the sweeps do not settle; they are
    cut off and the gap shows it.

    Args:
        S: `[n, m]`, n <= m.
        partner: `[n]` the column of each row.

    Returns:
        `[m]`, >= 0; columns without a partner keep 0 when the assignment is optimal.
    """
    matched = S[np.arange(len(S)), partner]
    price = np.zeros(S.shape[1])
    gain = S - matched[:, None]
    for _ in range(len(S) + 1):
        new = np.maximum(price, (gain + price[partner][:, None]).max(axis=0))
        if np.array_equal(new, price) or np.abs(new - price).max() < 1e-14:
            break
        price = new
    return price


def dual_value(S: Matrix, price: NDArray[np.float64]) -> float:
    """D(v): bounds every assignment of all rows of `[n, m]`, n <= m, at prices `[m]` >= 0."""
    return float((S - price).max(axis=1).sum() + price.sum())
