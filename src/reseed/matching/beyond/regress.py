"""Latents of one dictionary as non-negative sums of at most three latents of another.

For a unit row a and unit rows b_j the fit with support S minimises |a - sum_j w_j b_j| over w >= 0;
its *cosine* with a is sqrt(sum_j w_j <a, b_j>), which is the length of the fit as well.

The best three of m rows cannot be found without looking at all m(m-1)(m-2)/6 triples, so this is
a heuristic: a short list of rows (the most similar ones to a, then to what the best one leaves,
then to what the best two of the list leave) and on it the exact optimum over all supports of up to
three. docs/structure.md says how often that is the optimum over all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.matching.geometry import (
    Floats,
    Floats32,
    Geometry,
    Integers,
    Rows,
    check_dimensions,
    stretches,
)

_STRETCH = 64
"""Entries of which first only the largest is looked at."""

_ENTRIES = 2**24
"""Entries of a block."""


def rows_at_once(columns: int, most: int = 512) -> int:
    """How many rows of a block of this many columns to make at a time."""
    return max(1, min(most, _ENTRIES // max(columns, 1)))


def top(block: NDArray[Any], count: int) -> Integers:
    """`[n, min(count, m)]` columns of the largest entries of each row of `[n, m]`, in no order.

    The largest entries lie in the stretches with the largest maxima, so most of a row is only
    looked at once. Of equal ones any.
    """
    n, m = block.shape
    count = min(count, m)
    full = m // _STRETCH
    if count * _STRETCH * 2 >= m:
        return _partitioned(block, count)
    maxima = block[:, : full * _STRETCH].reshape(n, full, _STRETCH).max(axis=2)
    stretches = _partitioned(maxima, count)
    inside = (stretches[:, :, None] * _STRETCH + np.arange(_STRETCH)).reshape(n, -1)
    rest = np.broadcast_to(np.arange(full * _STRETCH, m), (n, m - full * _STRETCH))
    columns = np.concatenate([inside, rest], axis=1)
    best = _partitioned(np.take_along_axis(block, columns, axis=1), count)
    return np.take_along_axis(columns, best, axis=1)


def _partitioned(block: NDArray[Any], count: int) -> Integers:
    if count >= block.shape[1]:
        return np.broadcast_to(np.arange(block.shape[1]), block.shape).copy()
    return np.argpartition(block, block.shape[1] - count, axis=1)[:, block.shape[1] - count :]


MOST = 3
"""Partners at the most."""

_LISTED = 8
"""Rows that each of the three passes puts on the short list."""

_SINGULAR = 1e-7
"""Determinant of a Gram matrix at which its rows count as dependent: duplicates add nothing."""


class Fits(NamedTuple):
    """The best fits found for each row; along the second axis with at most 1, 2 and 3 partners."""

    partners: Integers
    """[n, 3, 3] rows of the other dictionary, by falling weight; -1 for none"""
    weights: Floats
    """[n, 3, 3] of unit rows; 0 for none"""
    cosine: Floats
    """[n, 3] of the fit with the row; 0 without a partner"""
    nearest: Integers
    """[n] the most similar row"""
    nearest_cosine: Floats
    """[n] its signed cosine"""


def fits(rows: Rows, on: Rows, show: Callable[[float], None] | None = None) -> Fits:
    """Fit each of n rows of one dictionary by at most three of the m >= 1 rows of another, `on`.

    Three float32 products of the whole size find the short lists; all else is float64. A zero row
    has no partners, and a zero row is no partner.
    """
    check_dimensions(rows.screen.shape[1], on.screen.shape[1])
    n, m = len(rows.scale), len(on.scale)
    out = Fits(
        np.full((n, MOST, MOST), -1),
        np.zeros((n, MOST, MOST)),
        np.zeros((n, MOST)),
        np.zeros(n, np.int64),
        np.zeros(n),
    )
    search = _search(on)
    for part in stretches(n, rows_at_once(m, 256)):
        block = _fit(unit_part(rows, part), on, search)
        for array, values in zip(out, block, strict=True):
            array[part] = values
        if show:
            show(3.0 * (part.stop - part.start) * m)
    return out


def joined(first: Fits, second: Fits) -> Fits:
    """The fits of some rows and then those of others."""
    return Fits(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))  # pyright: ignore[reportArgumentType]


def unit_part(rows: Rows, part: slice | Integers) -> Floats:
    """Some unit rows in float64; zero rows stay zero."""
    return rows.exact[part] * rows.scale[part][:, None]


def _search(on: Rows) -> Callable[[Floats32, int], Integers]:
    """What finds the rows of `on` that are most similar to others, as `top` does."""
    products = Geometry(views=((on, on),)).products()
    if products is None:
        return lambda rows, count: top(rows @ on.screen.T, count)
    from reseed.loops import gpu_offers

    return partial(gpu_offers.top, products)


def _fit(a: Floats, on: Rows, search: Callable[[Floats32, int], Integers]) -> Fits:
    lists = _Lists(a, on)
    best = None
    for partners in range(1, MOST + 1):
        residual = a if best is None else a - lists.fitted(best)
        lists.extend(search(residual.astype(np.float32), _LISTED))
        best = best_supports(lists.cosines, lists.gram, partners)
    assert best is not None
    which = np.arange(len(a)), lists.cosines.argmax(axis=1)
    partners = np.take_along_axis(lists.listed[:, None, :], np.maximum(best.support, 0), axis=2)
    return Fits(
        np.where(best.support >= 0, partners, -1),
        best.weights,
        np.sqrt(best.energy.clip(0.0, 1.0)),
        lists.listed[which],
        lists.cosines[which],
    )


class _Lists:
    """A short list for each of k rows, with its cosines and Gram matrices."""

    def __init__(self, a: Floats, on: Rows) -> None:
        self._a, self._on = a, on
        self.listed = np.zeros((len(a), 0), np.int64)
        self._rows = np.zeros((len(a), 0, a.shape[1]))

    def extend(self, more: Integers) -> None:
        """Put more rows on each list."""
        rows = unit_part(self._on, more.ravel()).reshape(*more.shape, -1)
        self.listed = np.concatenate([self.listed, more], axis=1)
        self._rows = np.concatenate([self._rows, rows], axis=1)
        self.cosines = np.einsum("kcd,kd->kc", self._rows, self._a)
        self.gram = self._rows @ self._rows.transpose(0, 2, 1)

    def fitted(self, best: Best) -> Floats:
        """The last fits, `[k, D]`."""
        support = np.maximum(best.support[:, -1], 0)
        rows = np.take_along_axis(self._rows, support[:, :, None], axis=1)
        return np.einsum("kj,kjd->kd", best.weights[:, -1], rows)


class Best(NamedTuple):
    """The best supports of up to p of s rows for each of k problems."""

    support: Integers
    """[k, p, 3] positions on the short list, by falling weight; -1 for none"""
    weights: Floats
    """[k, p, 3]"""
    energy: Floats
    """[k, p] squared cosine of the fit"""


def best_supports(cosines: Floats, gram: Floats, partners: int) -> Best:
    """The exact non-negative least squares optimum over all supports of 1 to `partners` rows.

    Only supports whose unconstrained weights are all positive need be looked at: wherever a weight
    would be negative the optimum lies on a smaller support.

    Args:
        cosines: `[k, s]` of the row to be fitted with the rows on its list.
        gram: `[k, s, s]` of the rows on the list; unit rows or zero.
        partners: 1, 2 or 3.
    """
    k, s = cosines.shape
    support = np.full((k, partners, MOST), -1)
    weights, energy = np.zeros((k, partners, MOST)), np.zeros((k, partners))
    for size in range(1, partners + 1):
        at = size - 1
        if size > 1:
            support[:, at], weights[:, at] = support[:, at - 1], weights[:, at - 1]
            energy[:, at] = energy[:, at - 1]
        if size > s:
            continue
        every = np.array(list(combinations(range(s), size))).T
        solved = _SOLVED[size](cosines, gram, every)
        positive = np.logical_and.reduce([w > 0 for w in solved])
        gained = sum(w * cosines[:, i] for w, i in zip(solved, every, strict=True))
        gained = np.where(positive, gained, -1.0)
        which = gained.argmax(axis=1)
        better = np.flatnonzero(gained[np.arange(k), which] > energy[:, at])
        which = which[better]
        chosen = np.stack([w[better, which] for w in solved], axis=1)
        order = np.argsort(-chosen, axis=1, kind="stable")
        weights[better, at, :size] = np.take_along_axis(chosen, order, axis=1)
        support[better, at, :size] = np.take_along_axis(every.T[which], order, axis=1)
        energy[better, at] = gained[better, which]
    return Best(support, weights, energy)


def _one(c: Floats, g: Floats, every: Integers) -> list[Floats]:
    return [c[:, every[0]]]


def _two(c: Floats, g: Floats, every: Integers) -> list[Floats]:
    i, j = every
    a, b, x = c[:, i], c[:, j], g[:, i, j]
    scale = _inverse(1.0 - x * x)
    return [(a - x * b) * scale, (b - x * a) * scale]


def _three(c: Floats, g: Floats, every: Integers) -> list[Floats]:
    i, j, k = every
    a, b, d = c[:, i], c[:, j], c[:, k]
    x, y, z = g[:, i, j], g[:, i, k], g[:, j, k]
    xx, yy, zz = 1.0 - x * x, 1.0 - y * y, 1.0 - z * z
    xy, xz, yz = y * z - x, x * z - y, x * y - z
    scale = _inverse(xx - y * y - z * z + 2.0 * x * y * z)
    return [
        (zz * a + xy * b + xz * d) * scale,
        (xy * a + yy * b + yz * d) * scale,
        (xz * a + yz * b + xx * d) * scale,
    ]


def _inverse(determinant: Floats) -> Floats:
    """1 / determinant; 0, which makes no weight positive, where rows are dependent."""
    fine = determinant > _SINGULAR
    return np.where(fine, 1.0 / np.where(fine, determinant, 1.0), 0.0)


_SOLVED: dict[int, Callable[[Floats, Floats, Integers], list[Floats]]] = {
    1: _one,
    2: _two,
    3: _three,
}
