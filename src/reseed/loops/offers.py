"""The loops that NumPy cannot do fast, compiled by numba; each has a plain twin in the tests.

Lists: what a row (or a column) keeps of the entries offered to it is a fixed stretch of an array,
`values[i, :count[i]]` and `others[i, :count[i]]`, and a bar `bar[i]`: every entry above the bar was
kept, so the bar bounds whatever was not. A full stretch is cut to its best half, which raises the
bar; among equal entries those offered first stay.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import compiled, reordered

Floats32 = NDArray[np.float32]

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

Short = NDArray[np.int32]

_STRIDE = 32
"""Entries that are tested together before any is looked at alone."""


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
    bar[i] = np.partition(values[i], size - half)[size - half]
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
def _any_above(line: Floats32, bar: Floats32, low: int) -> bool:
    """Whether an entry of a stretch is above the bar of its column.

    Narrow integers, unsigned indices and a fixed length are what lets the compiler take 16 entries
    at once: 0.1 instead of 2 ns an entry.
    """
    hits = np.int32(0)
    for k in range(_STRIDE):
        c = np.uint64(low) + np.uint64(k)
        hits += np.int32(line[c] > bar[c])
    return bool(hits > 0)


@compiled
def _any_above_price(line: Floats32, limit: Any, price: Floats32, low: int) -> bool:
    """Whether an entry of a stretch, less its price, is above the bar of its row."""
    hits = np.int32(0)
    for k in range(_STRIDE):
        c = np.uint64(low) + np.uint64(k)
        hits += np.int32(line[c] - price[c] > limit)
    return bool(hits > 0)


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
    strides = (width + _STRIDE - 1) // _STRIDE
    for r in range(len(rows)):
        i = rows[r]
        line = block[r]
        start = (i // _STRIDE) % strides
        for part in range(2):
            for stride in range(0 if part else start, start if part else strides):
                low = stride * _STRIDE
                high = min(width, low + _STRIDE)
                if high == low + _STRIDE and not _any_above_price(line, bar[i], price, low):
                    continue
                c = low + i % (high - low)
                for _ in range(high - low):
                    x = line[c] - price[c]
                    if x > bar[i]:
                        _offer(values, others, count, bar, i, x, columns[c])
                    c = c + 1 if c + 1 < high else low


@compiled
def _stretches_above(line: Floats32, limit: Any, bars: Floats32, hits: Short) -> None:
    """How many entries of each full stretch are above the bar of the row or of their column.

    For all stretches of a row at once: a call for each would cost more than the comparing.
    """
    for stride in range(len(line) // _STRIDE):
        low, found = np.uint64(stride * _STRIDE), np.int32(0)
        for k in range(_STRIDE):
            c = low + np.uint64(k)
            found += np.int32((line[c] > limit) | (line[c] > bars[c]))
        hits[stride] = found


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
    strides = (width + _STRIDE - 1) // _STRIDE
    hits, places = np.ones(strides, np.int32), np.empty(_STRIDE + 1, np.int64)
    for r in range(rows):
        i, line = first_row + r, block[r]
        _stretches_above(line, bar[i], bars, hits)
        for turn in range(strides):
            stride = (turn + i // _STRIDE) % strides
            if hits[stride] == 0:
                continue
            found, first, limit, low = 0, 0, bar[i], stride * _STRIDE
            for c in range(low, min(width, low + _STRIDE)):
                if c == low + i % _STRIDE:
                    first = found
                places[found] = c  # without a branch that cannot be predicted
                found += (line[c] > limit) | (line[c] > bars[c])
            for e in range(found):
                # what is offered to a row must come in an order that its columns do not change
                c = places[(e + first) % found]
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
        x, y = a[rows[e]], b[columns[e]]
        total = 0.0
        for k in range(len(x)):
            total += np.float64(x[k]) * np.float64(y[k])
        out[e] = total


@compiled
def grouped(
    groups: int, keys: Integers, others: Integers, values: Floats
) -> tuple[Integers, Short, Floats]:
    """Edges gathered by one end, in each group from the largest value down.

    Args:
        groups: how many there are.
        keys: `[E]` group of each edge.
        others: `[E]` its other end.
        values: `[E]`.

    Returns:
        `[groups + 1]` where each group begins, `[E]` other ends, `[E]` values.
    """
    start = np.zeros(groups + 1, np.int64)
    for key in keys:
        start[key + 1] += 1
    start = np.cumsum(start)
    fill = start[:-1].copy()
    other, value = np.empty(len(keys), np.int32), np.empty(len(keys))
    for e in range(len(keys)):
        at = fill[keys[e]]
        other[at], value[at] = others[e], values[e]
        fill[keys[e]] += 1
    for g in range(groups):
        low, high = start[g], start[g + 1]
        order = np.argsort(-value[low:high], kind="mergesort")
        other[low:high] = other[low:high][order]
        value[low:high] = value[low:high][order]
    return start, other, value


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
