"""The best one-to-one assignment, with a proof.

Primal: max Σ S_ij x_ij over matchings of all rows of the smaller side. For any prices v >= 0 of the
columns of the larger side (any v if the sides are equal), with n rows on the smaller side,

    D(v) = Σ_i max_j (S_ij - v_j) + Σ_j v_j  >=  every primal value,

so D(v) - primal bounds how far from the best an assignment is, whoever found it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from reseed.matching.similarity import cosines, unit
from reseed.records import Match

Matrix = NDArray[np.float64]


def match(A: Any, B: Any) -> Match:
    """Match the rows of two dictionaries one to one by signed cosine, exactly.

    Args:
        A: `[F_a, D]` rows are latents; NumPy array or torch tensor. Row lengths do not matter; a
            zero row has similarity 0 to everything.
        B: `[F_b, D]`.

    Returns:
        min(F_a, F_b) pairs, the summed cosine (`primal`), a proven upper bound on it (`dual`),
        their `gap`, and whether that proves the assignment `optimal`.

    Raises:
        SpecError: if a matrix has NaN, dimensions differ, or the sizes are above the dense limit.

    Example:
        >>> import numpy as np, reseed
        >>> A = np.eye(3)
        >>> reseed.match(A, A[[2, 0, 1]]).pairs.tolist()
        [[0, 1], [1, 2], [2, 0]]
    """
    return assign(cosines(unit(A, "A"), unit(B, "B")))


def assign(S: Matrix) -> Match:
    """The assignment with the largest summed similarity, and its certificate.

    Args:
        S: `[rows, columns]`, finite.
    """
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
    """D(v): an upper bound on the value of every assignment of all rows.

    Args:
        S: `[n, m]`, n <= m.
        price: `[m]`, >= 0.
    """
    return float((S - price).max(axis=1).sum() + price.sum())
