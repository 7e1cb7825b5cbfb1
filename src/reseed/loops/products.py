"""Products of rows rounded to int16; bounds of rounded products, and bars to begin with.

Where a processor has AVX2 and nothing newer, one instruction multiplies sixteen pairs of int16 and
adds them by twos, where one of float32 takes eight, and the sums are exact. Rows are whole numbers
times a scale of their own, by which they have a length of 32,000, so that neither an entry nor, by
Cauchy-Schwarz, any part of a sum is out of range: 32,000² < 2^31.

R rows, C columns, D dimensions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled
from reseed.loops.encode import Doubles, Floats32, Halves, kth_largest, squared_length

Shorts = NDArray[np.int16]

_LENGTH = np.float32(32_000.0)
"""Of a rounded row."""

_FINE = np.float32(1e-37)
"""A scale below is too near to what a processor takes for 0: all of the row counts as lost."""

_HALF = 0.51
"""How far rounding takes an entry, in units of the scale: a half, and what float32 adds."""

_TALL, _WIDE = 6, 16
"""Rows and columns of a tile, whose sums stay in registers."""


class Whole(NamedTuple):
    """Rows as whole numbers times a scale."""

    numbers: Shorts
    """[N, D] and a 0 that makes D even"""
    scale: Floats32
    """[N]"""

    @staticmethod
    def room(rows: int, dimensions: int) -> Whole:
        """For rows that are not there yet."""
        numbers = np.zeros((rows, dimensions + dimensions % 2), np.int16)
        return Whole(numbers, np.zeros(rows, np.float32))

    def of(self, rows: slice | NDArray[np.int64]) -> Whole:
        """Some of the rows."""
        return Whole(self.numbers[rows], self.scale[rows])


@arithmetic
def to_whole(row: Floats32, out: Shorts) -> tuple[np.float32, float, float]:
    """Round a row to whole numbers of a scale.

    Args:
        row: `[D]`.
        out: `[D]` or one longer, filled.

    Returns:
        The scale; squared lengths of the row and, at the most, of what rounding took from it.
    """
    length = squared_length(row)
    scale = np.float32(np.sqrt(length)) / _LENGTH
    if not (scale > _FINE and scale < np.inf):
        out[:] = 0
        return np.float32(0.0), length, length
    one_over = np.float32(1.0) / scale
    for d in range(len(row)):
        out[d] = np.int16(np.rint(row[d] * one_over))
    return scale, length, float(len(row) * (_HALF * scale) ** 2)


@compiled
def to_wholes(
    rows: Floats32, numbers: Shorts, scale: Floats32, length: Doubles, lost: Doubles
) -> None:
    """`to_whole` of each row.

    Args:
        rows: `[N, D]`.
        numbers: `[N, D]` or one wider, filled.
        scale: `[N]`, filled.
        length: `[N]`, filled with squared lengths.
        lost: `[N]`, filled with the squared lengths of what rounding took, at the most.
    """
    for i in range(len(rows)):
        scale[i], length[i], lost[i] = to_whole(rows[i], numbers[i])


def _at(build: Any, start: Any, kind: Any, steps: Any) -> Any:
    """Where so many of a kind after the start of an array lie."""
    return build.gep(build.bitcast(start, kind.as_pointer()), [steps])


def _taken(build: Any, vector: Any, places: list[int]) -> Any:
    """What a vector has at these places, as a vector."""
    place = ir.IntType(32)
    which = ir.Constant(ir.VectorType(place, len(places)), [place(at) for at in places])
    return build.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), which)


def _spread(build: Any, value: Any, kind: Any) -> Any:
    """A vector of a kind that has one value everywhere."""
    one = build.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return _taken(build, one, [0] * kind.count)


def _make_tile(
    typing: Any, rows: Any, down: Any, group: Any, panel: Any, across: Any, out: Any, top: Any,
    left: Any,
) -> Any:  # fmt: skip
    """Products of rows `[G, P, 6]` of a group with columns `[P, 16]`, into `out[top:, left:]`.

    P pairs of numbers are packed side by side; a product is multiplied by both its scales. In the
    compiler's own language, since of loops it makes no sums that stay in registers. Products of
    int16 that are added to their neighbours become one instruction on x86 (`vpmaddwd`), but nothing
    here is bound to a processor.
    """
    if any(array.layout != "C" for array in (rows, down, panel, across, out)):
        return None  # refused: it is read and written by address
    signature = types.void(rows, down, group, panel, across, out, top, left)

    def make(context: Any, build: Any, signature: Any, given: Any) -> Any:
        whole, short, pair, float_ = ir.IntType(64), ir.IntType(16), ir.IntType(32), ir.FloatType()
        sums, floats = ir.VectorType(pair, 8), ir.VectorType(float_, 8)
        shorts, products = ir.VectorType(short, 16), ir.VectorType(pair, 16)
        views = [
            make_array(kind)(context, build, array) if isinstance(kind, types.Array) else array
            for kind, array in zip(signature.args, given, strict=True)
        ]
        rows, down, group, panel, across, out, top, left = views
        pairs, width = (build.extract_value(view.shape, 1) for view in (rows, out))

        before, loop, after = build.block, *map(build.append_basic_block, ("pairs", "tile"))
        build.branch(loop)
        build.position_at_end(loop)
        at = build.phi(whole)
        held = [[build.phi(sums), build.phi(sums)] for _ in range(_TALL)]
        next_ = build.add(at, whole(1))
        at.add_incoming(whole(0), before)
        at.add_incoming(next_, loop)
        here = build.mul(build.add(build.mul(group, pairs), at), whole(_TALL))
        columns = [build.add(build.mul(at, whole(2)), whole(v)) for v in range(2)]
        columns = [build.load(_at(build, panel.data, shorts, start), align=4) for start in columns]
        columns = [build.sext(vector, products) for vector in columns]
        new: list[list[Any]] = []
        for r, own in enumerate(held):
            both = build.load(_at(build, rows.data, pair, build.add(here, whole(r))), align=4)
            both = build.sext(build.bitcast(_spread(build, both, sums), shorts), products)
            line: list[Any] = []
            for vector, sum_ in zip(columns, own, strict=True):
                each = build.mul(both, vector)
                even, odd = (_taken(build, each, list(range(start, 16, 2))) for start in range(2))
                line.append(build.add(sum_, build.add(even, odd)))
                sum_.add_incoming(ir.Constant(sums, None), before)
                sum_.add_incoming(line[-1], loop)
            new.append(line)
        build.cbranch(build.icmp_signed("<", next_, pairs), loop, after)

        build.position_at_end(after)
        for r, line in enumerate(new):
            own = build.add(build.mul(group, whole(_TALL)), whole(r))
            own = _spread(build, build.load(_at(build, down.data, float_, own)), floats)
            row = build.mul(build.add(top, whole(r)), width)
            start = _at(build, out.data, float_, build.add(row, left))
            for v, sum_ in enumerate(line):
                other = build.load(_at(build, across.data, floats, whole(v)), align=4)
                product = build.fmul(build.fmul(build.sitofp(sum_, floats), other), own)
                build.store(product, _at(build, start, floats, whole(v)), align=4)
        return context.get_dummy_value()

    return signature, make


_tile: Any = intrinsic(_make_tile)


@compiled
def _pack(rows: NDArray[np.int32], packed: NDArray[np.int32]) -> None:
    """Pairs of numbers of some rows, side by side; 0 where there are too few."""
    if len(rows) < packed.shape[1]:
        packed[:] = 0
    for r in range(len(rows)):
        for p in range(len(packed)):
            packed[p, r] = rows[r, p]


@compiled
def multiply(a: Shorts, a_scale: Floats32, b: Shorts, b_scale: Floats32, out: Floats32) -> None:
    """Products of all rows of two `Whole`; off by at most 2^-22 of themselves.

    Args:
        a: `[R, D]`, D even,
        a_scale: `[R]`: rows.
        b: `[C, D]`,
        b_scale: `[C]`: columns.
        out: `[R, C]`, C-contiguous, filled.
    """
    rows, columns = out.shape
    groups, pairs = (rows + _TALL - 1) // _TALL, a.shape[1] // 2
    tall, down = np.empty((groups, pairs, _TALL), np.int32), np.zeros((groups, _TALL), np.float32)
    panel, across = np.empty((pairs, _WIDE), np.int32), np.zeros(_WIDE, np.float32)
    corner = np.empty((_TALL, _WIDE), np.float32)
    for g in range(groups):
        top, bottom = g * _TALL, min(rows, (g + 1) * _TALL)
        _pack(a[top:bottom].view(np.int32), tall[g])
        down[g, : bottom - top] = a_scale[top:bottom]
    for left in range(0, columns, _WIDE):
        right = min(columns, left + _WIDE)
        _pack(b[left:right].view(np.int32), panel)
        across[: right - left] = b_scale[left:right]
        for g in range(groups):
            top, bottom = g * _TALL, min(rows, (g + 1) * _TALL)
            if right - left == _WIDE and bottom - top == _TALL:
                _tile(tall, down, g, panel, across, out, top, left)
            else:
                _tile(tall, down, g, panel, across, corner, 0, 0)
                out[top:bottom, left:right] = corner[: bottom - top, : right - left]


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
