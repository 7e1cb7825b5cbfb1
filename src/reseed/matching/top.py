"""The largest entries of each row of a block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
