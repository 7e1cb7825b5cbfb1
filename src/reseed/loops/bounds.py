"""Compiled loops over a block of rounded products: upper bounds of its entries, bars to begin with.

R rows, C columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled

Floats32 = NDArray[np.float32]

Halves = NDArray[np.uint16]

_GROUP = 32
"""Entries of a group at most."""


@arithmetic
def uppers(
    halves: Halves, slack: np.float32, reach: Floats32, slope: Floats32, out: Floats32
) -> None:
    """Product + slack |product| + reach + slope.

    Args:
        halves: `[R, C]` products as bits of bfloat16.
        slack: how far a stored product can be from the product, relative to it.
        reach: `[R]` how far rounding of a row can move its products.
        slope: `[C]` the same of a column.
        out: `[R, C]`, filled.
    """
    for r in range(len(halves)):
        line, own = out[r], reach[r]
        bits = line.view(np.uint32)
        for c in range(len(line)):
            bits[c] = np.uint32(halves[r, c]) << np.uint32(16)
        for c in range(len(line)):
            line[c] = line[c] + slack * abs(line[c]) + (own + slope[c])


@compiled
def _largest(best: Floats32, others: Floats32) -> None:
    for g in range(len(best)):
        best[g] = others[g] if others[g] > best[g] else best[g]


@compiled
def first_bars(block: Floats32, k: int, bar: Floats32) -> None:
    """Bars just below the k-th largest of the maxima of groups, so that k entries are above.

    Args:
        block: `[R, C]`.
        k: how many are wanted.
        bar: `[R]`, raised; left where a row is too short for groups.
    """
    rows, width = block.shape
    size = min(_GROUP, width // (4 * k))
    if size < 2:
        return
    groups = width // size
    best = np.empty(groups, np.float32)
    for r in range(rows):
        best[:] = block[r, :groups]
        for left in range(groups, size * groups, groups):
            _largest(best, block[r, left : left + groups])
        limit = np.partition(best, groups - k)[groups - k]
        # a ten-millionth of 2 below: equals stay above
        bar[r] = max(bar[r], limit - np.float32(2.0**-22) * (1 + abs(limit)))
