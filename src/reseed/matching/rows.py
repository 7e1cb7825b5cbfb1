"""Rows of dictionaries, checked and scaled, and how large a dense array of similarities may be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError

DENSE_LIMIT = 16_384 * 16_384
"""Entries above which no dense array of similarities is made."""


def finite_rows(rows: Any, name: str) -> NDArray[Any]:
    """A dictionary as a C-contiguous array of float32 or float64, checked.

    Args:
        rows: `[F, D]`, an array or a tensor; other types than float32 become float64.
        name: how to call it in messages.

    Raises:
        SpecError: if it is not a matrix of finite numbers.
    """
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu()
        rows = rows.float() if str(rows.dtype) == "torch.bfloat16" else rows
    array = np.asarray(rows)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise SpecError(
            f"{name} must be a matrix of numbers with latents as rows, not an array of shape "
            f"{array.shape} and type {array.dtype}"
        )
    array = np.ascontiguousarray(array, np.float32 if array.dtype == np.float32 else np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise SpecError(
            f"{name}: {len(bad)} of {len(array)} rows have NaN or infinity (first: row {bad[0]}); "
            "leave those latents out or mend the file, an assignment over them means nothing"
        )
    return array


def unit(rows: Any, name: str) -> NDArray[np.float64]:
    """Rows scaled to length 1 in float64; a zero row stays zero, so it is similar to nothing.

    Args:
        rows: `[F, D]`, an array or a tensor.
        name: how to call it in messages.

    Raises:
        SpecError: if it is not a matrix of finite numbers.
    """
    array = finite_rows(rows, name).astype(np.float64)
    # scaling by the largest entry first keeps rows of any magnitude from over- or underflowing
    array /= np.where((top := np.abs(array).max(axis=1)) > 0, top, 1.0)[:, None]
    norms = np.linalg.norm(array, axis=1)
    return array / np.where(norms > 0, norms, 1.0)[:, None]


def check_dimensions(d_a: int, d_b: int) -> None:
    """Refuse rows that live in different spaces.

    Raises:
        SpecError: if the dimensions differ.
    """
    if d_a != d_b:
        raise SpecError(
            f"A has rows of {d_a} dimensions and B of {d_b}: they live in different spaces "
            "(another site or subject?), so cosines between them mean nothing"
        )


def check_dense(n: int, m: int) -> None:
    """Refuse an array of similarities that would not fit.

    Raises:
        SpecError: if it would have more than `DENSE_LIMIT` entries.
    """
    if n * m > DENSE_LIMIT:
        raise SpecError(
            f"{n} x {m} similarities take {n * m * 8 / 2**30:.0f} GiB; a dense array of them is "
            f"limited to {DENSE_LIMIT * 8 / 2**30:.0f} GiB"
        )


Floats32 = NDArray[np.float32]

Integers = NDArray[np.int64]

_STRETCH = 64
"""Entries of which first only the largest is looked at."""

_ENTRIES = 2**24
"""Entries of a block."""


def rows_at_once(columns: int, most: int = 512) -> int:
    """How many rows of a block of this many columns to make at a time."""
    return max(1, min(most, _ENTRIES // max(columns, 1)))


def top(block: NDArray[Any], count: int) -> Integers:
    """Columns of the `count` largest entries of each row, in no order; of equal ones any.

    The largest entries lie in the stretches with the largest maxima, so most of a row is only
    looked at once.

    Args:
        block: `[n, m]`.
        count: at most m are given.

    Returns:
        `[n, min(count, m)]`.
    """
    n, m = block.shape
    count = min(count, m)
    whole = m // _STRETCH
    if count * _STRETCH * 2 >= m:
        return _partitioned(block, count)
    maxima = block[:, : whole * _STRETCH].reshape(n, whole, _STRETCH).max(axis=2)
    stretches = _partitioned(maxima, count)
    inside = (stretches[:, :, None] * _STRETCH + np.arange(_STRETCH)).reshape(n, -1)
    rest = np.broadcast_to(np.arange(whole * _STRETCH, m), (n, m - whole * _STRETCH))
    columns = np.concatenate([inside, rest], axis=1)
    best = _partitioned(np.take_along_axis(block, columns, axis=1), count)
    return np.take_along_axis(columns, best, axis=1)


def _partitioned(block: NDArray[Any], count: int) -> Integers:
    if count >= block.shape[1]:
        return np.broadcast_to(np.arange(block.shape[1]), block.shape).copy()
    return np.argpartition(block, block.shape[1] - count, axis=1)[:, block.shape[1] - count :]
