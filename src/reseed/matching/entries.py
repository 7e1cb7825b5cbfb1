"""Entries of a geometry looked up: chosen pairs, blocks in float64, nearest neighbours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.blocks.multiplier import Multiplier
from reseed.matching.geometry import Floats, Geometry, Integers, Rows, in_parts, stretches

DENSE_LIMIT = 16_384 * 16_384
"""Entries above which no dense array of similarities is made."""

_BLOCK = 1_024

_PAIRS, _SCORED = 256, 16_384
"""Pairs that are scored at a time: by NumPy (their rows stay in the cache), by a compiled loop."""


def dense(geometry: Geometry) -> Floats:
    """All similarities in float64, `[n, m]`, for the dense solver and for tests."""
    check_dense(*geometry.shape)
    return float64_block(geometry, slice(None), slice(None))


def float64_block(geometry: Geometry, rows: Any, columns: Any) -> Floats:
    """A block of similarities in float64; slices or index arrays."""
    least: Floats | None = None
    for left, right in geometry.views:
        a = left.exact[rows] * left.scale[rows][:, None]
        b = right.exact[columns] * right.scale[columns][:, None]
        least = a @ b.T if least is None else np.minimum(least, a @ b.T)
    assert least is not None
    return least


def cosines_of(geometry: Geometry, rows: Integers, columns: Integers) -> Floats:
    """`[E]` similarities of chosen pairs in float64."""
    out = np.full(len(rows), np.inf)
    for part in stretches(len(rows), _PAIRS):
        i, j = rows[part], columns[part]
        for left, right in geometry.views:
            a, b = left.exact[i].astype(np.float64), right.exact[j].astype(np.float64)
            value = np.einsum("ed,ed->e", a, b) * left.scale[i] * right.scale[j]
            out[part] = np.minimum(out[part], value)
    return out


def score(geometry: Geometry, rows: Integers, columns: Integers) -> Floats:
    """What `cosines_of` gives, up to rounding, on two threads; needs numba."""
    from reseed.loops import offers

    least = np.full(len(rows), np.inf)
    for left, right in geometry.views:

        def of_view(p: slice, left: Rows = left, right: Rows = right) -> None:
            i, j, cosine = rows[p], columns[p], np.empty(p.stop - p.start)
            offers.dots(left.exact, right.exact, i, j, cosine)
            np.minimum(least[p], cosine * left.scale[i] * right.scale[j], out=least[p])

        in_parts(len(rows), of_view, _SCORED)
    return least


def check_dense(n: int, m: int) -> None:
    """Refuse an array of similarities that would not fit."""
    if n * m > DENSE_LIMIT:
        raise SpecError(
            f"{n} x {m} similarities take {n * m * 8 / 2**30:.0f} GiB; a dense array of them is "
            f"limited to {DENSE_LIMIT * 8 / 2**30:.0f} GiB"
        )


class Nearest(NamedTuple):
    """Nearest neighbours from one side."""

    latent: Integers
    """[F] which latent of the other side; the first of several"""
    similarity: Floats
    """[F] how similar"""


class BothNearest(NamedTuple):
    """Nearest neighbours from both sides."""

    rows: Nearest
    columns: Nearest


def from_dense(S: Floats) -> BothNearest:
    """Nearest neighbours in a matrix of similarities."""
    sides = ((matrix.argmax(axis=1), matrix.max(axis=1)) for matrix in (S, S.T))
    return BothNearest(*(Nearest(*side) for side in sides))


def from_pairs(
    rows: Integers, columns: Integers, values: Floats, shape: tuple[int, int]
) -> BothNearest:
    """Nearest neighbours among `[E]` pairs that contain them.

    Pairs are sorted by row, then by column; every row and every column has one.
    """
    order = np.argsort(columns, kind="stable")
    of_rows = _first_best(rows, columns, values)
    of_columns = _first_best(columns[order], rows[order], values[order])
    assert (len(of_rows.latent), len(of_columns.latent)) == shape
    return BothNearest(of_rows, of_columns)


def _first_best(own: Integers, other: Integers, values: Floats) -> Nearest:
    """The best other end of each own end, the first of several; sorted by own, then by other."""
    start = np.flatnonzero(np.diff(own, prepend=-1))
    best = np.maximum.reduceat(values, start)
    hits = np.flatnonzero(values == np.repeat(best, np.diff(start, append=len(own))))
    first = hits[np.diff(own[hits], prepend=-1) > 0]
    return Nearest(other[first], best)


def largest(geometry: Geometry, *, absolute: bool) -> BothNearest:
    """Nearest neighbours of both sides by one pass over the blocks, without an assignment.

    With `absolute` opposite counts as similar; the similarities given keep their sign.
    """
    n, m = geometry.shape
    rows, columns = _largest(geometry, absolute)
    return BothNearest(
        Nearest(rows, cosines_of(geometry, np.arange(n), rows)),
        Nearest(columns, cosines_of(geometry, columns, np.arange(m))),
    )


def _largest(geometry: Geometry, absolute: bool) -> tuple[Integers, Integers]:
    if (products := geometry.products()) is not None:
        from reseed.loops.gpu_offers import nearest

        return nearest(products, absolute=absolute)
    n, m = geometry.shape
    multiplier = Multiplier(geometry, _BLOCK, _BLOCK)
    rows, columns = _Best(n), _Best(m)
    for part in stretches(n, _BLOCK):
        for across in stretches(m, _BLOCK):
            block = multiplier.block(part, across)
            if absolute:
                np.abs(block, out=block)
            rows.offer(block, part, across)
            columns.offer(block.T, across, part)
    return rows.latent, columns.latent


class _Best:
    """The best so far of each latent of one side."""

    def __init__(self, size: int) -> None:
        self.value = np.full(size, -np.inf, np.float32)
        self.latent = np.zeros(size, np.int64)

    def offer(self, block: NDArray[np.float32], own: slice, other: slice) -> None:
        """Take what is better in a block, `[own, other]`."""
        top = block.argmax(axis=1)
        value = block[np.arange(len(block)), top]
        better = value > self.value[own]
        self.value[own] = np.where(better, value, self.value[own])
        self.latent[own] = np.where(better, top + other.start, self.latent[own])


def nearest_in_itself(rows: Rows) -> Nearest:
    """The most similar other latent of the same dictionary; 0, at 0, where there is no other."""
    size = len(rows.scale)
    if size == 1:
        return Nearest(np.zeros(1, np.int64), np.zeros(1))
    geometry = Geometry(views=((rows, rows),))
    if (products := geometry.products()) is not None:
        from reseed.loops.gpu_offers import nearest

        latent, _ = nearest(products, itself=True)
        return Nearest(latent, cosines_of(geometry, np.arange(size), latent))
    multiplier, best = Multiplier(geometry, _BLOCK, _BLOCK), _Best(size)
    for part in stretches(size, _BLOCK):
        for across in stretches(size, _BLOCK):
            block = multiplier.block(part, across)
            if part == across:
                np.fill_diagonal(block, -np.inf)
            best.offer(block, part, across)
    return Nearest(best.latent, cosines_of(geometry, np.arange(size), best.latent))
