"""Compiled loops over a block of rounded products: upper bounds of its entries, bars to begin with.

R rows, C columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled

Floats32 = NDArray[np.float32]

Halves = NDArray[np.uint16]


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
def kth_largest(line: Floats32, k: int) -> np.float32:
    """The least that fewer than k entries are above; for short rows faster than sorting."""
    worst = np.float32(np.inf)
    for a in range(len(line)):
        x, above = line[a], np.int32(0)
        for b in range(len(line)):
            above += np.int32(line[np.uint64(b)] > x)
        if above < k and x < worst:
            worst = x
    return worst


@compiled
def first_bars(block: Floats32, groups: int, k: int, bar: Floats32) -> None:
    """Bars just below the k-th largest of the maxima of groups, so that k entries are above.

    Args:
        block: `[R, C]`.
        groups: how many; entry c is in group c modulo their number.
        k: how many are wanted, at most `groups`.
        bar: `[R]`, raised.
    """
    rows, width = block.shape
    best = np.empty(groups, np.float32)
    for r in range(rows):
        line = block[r]
        best[:] = -np.inf
        full = width - width % groups
        for left in range(0, full, groups):
            for g in range(groups):
                x = line[np.uint64(left) + np.uint64(g)]
                best[g] = x if x > best[g] else best[g]
        for c in range(full, width):
            best[c - full] = max(best[c - full], line[c])
        limit = kth_largest(best, k)
        if limit > -np.inf:  # a ten-millionth of 2 below: equals stay above
            bar[r] = max(bar[r], limit - np.float32(2.0**-22) * (1 + abs(limit)))
