"""The loops that NumPy cannot do fast, compiled by numba; each has a plain twin in the tests.

Lists: what a row (or a column) keeps of the entries offered to it is a fixed stretch of an array,
`values[i, :count[i]]` and `others[i, :count[i]]`, and a bar `bar[i]`: every entry above the bar was
kept, so the bar bounds whatever was not. A full stretch is cut to its best half, which raises the
bar; among equal entries those offered first stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import compiled, reordered
from reseed.loops.encode import kth_largest

Floats32 = NDArray[np.float32]

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

Short = NDArray[np.int32]

_STRIDE = 32
"""Entries that are tested together before any is looked at alone."""

_GROUPS = 64
"""Groups of a row: entry c is in group c modulo 64. What is done to neighbours, each in a group of
its own, the compiler does to many at once: .13 ns an entry, where groups of neighbours take 1."""


Told = Callable[[int], None]
"""Takes the number of similarities that are about to be made; may raise, to stop."""


class Found(NamedTuple):
    """Pairs that were kept, and what bounds those of each own end that were not."""

    own: Integers
    other: Integers
    bar: Floats32
    """[F] every pair above it was kept"""


class Lists(NamedTuple):
    """What each row (or column) keeps."""

    values: Floats32
    others: Short
    length: Integers
    bar: Floats32

    @staticmethod
    def of(size: int, room: int, bar: Floats32) -> Lists:
        """Empty lists that keep at least `room` entries above the bar."""
        return Lists(
            np.empty((size, 2 * room), np.float32),
            np.empty((size, 2 * room), np.int32),
            np.zeros(size, np.int64),
            bar,
        )

    def entries(self) -> tuple[Integers, Integers]:
        """Own and other end of everything kept."""
        own = np.repeat(np.arange(len(self.length)), self.length)
        return own, self.others[self.kept].astype(np.int64)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """[F, room] which places are filled."""
        return np.arange(self.values.shape[1]) < self.length[:, None]

    @property
    def room(self) -> int:
        """How many it keeps at least."""
        return self.values.shape[1] // 2


@compiled
def _keep(values: Floats32, others: Short, count: Integers, bar: Floats32, i: int) -> None:
    """Cut a full stretch to its best half and raise its bar to the worst that stays."""
    size = values.shape[1]
    half = size // 2
    bar[i] = kth_largest(values[i], half)
    above = 0
    for k in range(size):
        above += values[i, k] > bar[i]
    equal, at = half - above, 0
    for k in range(size):
        x = values[i, k]
        if x < bar[i] or (x == bar[i] and equal <= 0):
            continue
        equal -= x == bar[i]
        values[i, at], others[i, at] = x, others[i, k]
        at += 1
    count[i] = at


@compiled
def _offer(
    values: Floats32, others: Short, count: Integers, bar: Floats32, i: int, x: float, other: int
) -> None:
    values[i, count[i]], others[i, count[i]] = x, other
    count[i] += 1
    if count[i] == values.shape[1]:
        _keep(values, others, count, bar, i)


@compiled
def _rows_hit(line: Floats32, limit: Any, price: Floats32, hits: Short) -> None:
    """Which groups have an entry that is, less its price, above the bar of its row."""
    full = len(line) - len(line) % _GROUPS
    for g in range(_GROUPS):
        hits[g] = 0
    for left in range(0, full, _GROUPS):
        for g in range(_GROUPS):
            c = np.uint64(left) + np.uint64(g)
            hits[g] |= np.int32(line[c] - price[c] > limit)
    for c in range(full, len(line)):
        hits[c - full] |= np.int32(line[c] - price[c] > limit)


@compiled
def _either_hit(line: Floats32, limit: Any, bars: Floats32, hits: Short) -> None:
    """Which groups have an entry that is above the bar of its row or of its column."""
    full = len(line) - len(line) % _GROUPS
    for g in range(_GROUPS):
        hits[g] = 0
    for left in range(0, full, _GROUPS):
        for g in range(_GROUPS):
            c = np.uint64(left) + np.uint64(g)
            hits[g] |= np.int32((line[c] > limit) | (line[c] > bars[c]))
    for c in range(full, len(line)):
        hits[c - full] |= np.int32((line[c] > limit) | (line[c] > bars[c]))


@compiled
def offer_rows(
    block: Floats32,
    rows: Integers,
    columns: Integers,
    price: Floats32,
    values: Floats32,
    others: Short,
    count: Integers,
    bar: Floats32,
) -> None:
    """Offer a block of similarities, less the price of each column, to the lists of its rows.

    Each row starts at another column and goes round, so that rows with equal entries keep different
    ones: a graph in which all keep the same few columns has no perfect matching.

    Args:
        block: `[R, C]`.
        rows: `[R]` which rows these are.
        columns: `[C]` which columns these are.
        price: `[C]`.
        values: `[n, room]` the lists of all rows.
        others: `[n, room]` the columns in them.
        count: `[n]` how long each is.
        bar: `[n]` its bar.
    """
    width = len(columns)
    size = (width + _GROUPS - 1) // _GROUPS
    hits, places = np.empty(_GROUPS, np.int32), np.empty(size + 1, np.int64)
    for r in range(len(rows)):
        i, line = rows[r], block[r]
        _rows_hit(line, bar[i], price, hits)
        for turn in range(_GROUPS):
            g = (turn + i // size) % _GROUPS
            if hits[g] == 0:
                continue
            found, first, limit = 0, 0, bar[i]
            for k in range((width - g + _GROUPS - 1) // _GROUPS):
                if k == i % size:
                    first = found
                c = g + k * _GROUPS
                places[found] = c  # without a branch that cannot be predicted
                found += line[c] - price[c] > limit
            for e in range(first, first + found):
                c = places[e if e < found else e - found]
                x = line[c] - price[c]
                if x > bar[i]:
                    _offer(values, others, count, bar, i, x, int(columns[c]))


@compiled
def offer_both(
    block: Floats32, first_row: int, first_column: int, by_row: Lists, by_column: Lists
) -> None:
    """Offer a block of similarities to the lists of its rows and of its columns, in one go.

    Args:
        block: `[R, C]`.
        first_row: which row its first is.
        first_column: which column its first is.
        by_row: lists of all rows; each goes round as in `offer_rows`.
        by_column: lists of all columns.
    """
    values, others, count, bar = by_row  # tuples are dear inside loops
    values_, others_, count_, bar_ = by_column
    rows, width = block.shape
    bars = bar_[first_column : first_column + width]
    size = (width + _GROUPS - 1) // _GROUPS
    hits, places = np.empty(_GROUPS, np.int32), np.empty(size + 1, np.int64)
    for r in range(rows):
        i, line = first_row + r, block[r]
        _either_hit(line, bar[i], bars, hits)
        for turn in range(_GROUPS):
            g = (turn + i // size) % _GROUPS
            if hits[g] == 0:
                continue
            found, first, limit = 0, 0, bar[i]
            for k in range((width - g + _GROUPS - 1) // _GROUPS):
                if k == i % size:
                    first = found
                c = g + k * _GROUPS
                places[found] = c
                found += (line[c] > limit) | (line[c] > bars[c])
            for e in range(first, first + found):
                # what is offered to a row must come in an order that its columns do not change
                c = places[e if e < found else e - found]
                x = line[c]
                if x > bar[i]:
                    _offer(values, others, count, bar, i, x, first_column + c)
                if x > bars[c]:
                    _offer(values_, others_, count_, bar_, first_column + c, x, i)


@reordered
def dots(
    a: Floats32 | Floats, b: Floats32 | Floats, rows: Integers, columns: Integers, out: Floats
) -> None:
    """Dot products in float64 of chosen rows of a and b.

    Args:
        a: `[F_a, D]`.
        b: `[F_b, D]`.
        rows: `[E]` of a.
        columns: `[E]` of b.
        out: `[E]`, filled.
    """
    for e in range(len(rows)):
        out[e] = dot(a[rows[e]], b[columns[e]])


@reordered
def dot(x: Floats32 | Floats, y: Floats32 | Floats) -> float:
    """Dot product of two rows in float64."""
    total = 0.0
    for k in range(len(x)):
        total += np.float64(x[k]) * np.float64(y[k])
    return total


@compiled
def above(block: Floats32, limit: float | np.float32, rows: Integers, columns: Integers) -> int:
    """Where a block is above a limit.

    Args:
        block: `[R, C]`.
        limit: of the same type.
        rows: filled, as far as they reach.
        columns: filled with them.

    Returns:
        How many entries there are, also where they did not all find room.
    """
    found, width = 0, block.shape[1]
    for r in range(len(block)):
        line = block[r]
        for low in range(0, width, _STRIDE):
            high = min(width, low + _STRIDE)
            hits = np.int32(high < low + _STRIDE)
            if hits == 0:
                for k in range(_STRIDE):
                    hits += np.int32(line[np.uint64(low) + np.uint64(k)] > limit)
            if hits == 0:
                continue
            for c in range(low, high):
                if line[c] > limit:
                    if found < len(rows):
                        rows[found], columns[found] = r, c
                    found += 1
    return found
