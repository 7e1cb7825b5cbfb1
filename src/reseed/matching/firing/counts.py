"""Which latents of two SAEs fire on the same tokens, counted; compiled by numba."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import compiled
from reseed.matching.firing.chosen import Codes, Together

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

_ROOM = 2**22
"""Pairs found at a time (100 MiB), or those of one latent."""

_SPARSE = 64
"""One in so many latents of B: of fewer it is quicker to sort those found than to look at all."""


class Kept(NamedTuple):
    """Sums of pairs by their number i * F_b + j, each once, ascending."""

    number: Integers
    product: Floats
    both: Integers


def cofiring(A: Codes, B: Codes) -> Iterator[Together]:
    """All pairs of latents that fire together, some latents of A at a time.

    Args:
        A: `[N, n]`.
        B: `[N, m]` of the same tokens.
    """
    by_latent = A.T.tocsr()
    at_most = most_pairs(A, B)
    a = _wide(by_latent.indptr), _wide(by_latent.indices), by_latent.data
    b = _wide(B.indptr), _wide(B.indices), B.data
    product, count = np.zeros(B.shape[1]), np.zeros(B.shape[1], np.int64)
    for low, high in _parts(at_most):
        room = int(at_most[low:high].sum())
        row, column, both = (np.empty(room, np.int64) for _ in range(3))
        products = np.empty(room)
        used = _count(*a, *b, product, count, low, high, row, column, products, both)
        if used:
            yield Together(row[:used], column[:used], products[:used], both[:used])


def most_pairs(A: Codes, B: Codes) -> Integers:
    """`[n]` bound on the latents of B that each latent of A fires together with."""
    firing = np.diff(B.indptr)
    per_entry = np.repeat(firing, np.diff(A.indptr))
    together = np.bincount(A.indices, weights=per_entry, minlength=A.shape[1])
    return np.minimum(together, B.shape[1]).astype(np.int64)


def _parts(sizes: Integers) -> Iterator[tuple[int, int]]:
    """Runs of latents with at most `_ROOM` pairs, or of one latent."""
    ends, low = np.cumsum(sizes), 0
    while low < len(sizes):
        before = ends[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + _ROOM, side="right")))
        yield low, high
        low = high


def _wide(array: NDArray[np.integer]) -> Integers:
    return array.astype(np.int64, copy=False)


@compiled
def _count(
    start_a: Integers,
    token: Integers,
    value_a: Floats,
    start_b: Integers,
    latent_b: Integers,
    value_b: Floats,
    product: Floats,
    count: Integers,
    low: int,
    high: int,
    out_row: Integers,
    out_column: Integers,
    out_product: Floats,
    out_count: Integers,
) -> int:
    """Fill in the pairs of latents low..high-1 of A; returns how many.

    `product` and `count` are `[m]`, all 0 before and after.
    """
    used = 0
    for i in range(low, high):
        first = used
        for e in range(start_a[i], start_a[i + 1]):
            a, t = value_a[e], token[e]
            for f in range(start_b[t], start_b[t + 1]):
                j = latent_b[f]
                if count[j] == 0:
                    out_column[used] = j
                    used += 1
                count[j] += 1
                product[j] += a * value_b[f]
        if (used - first) * _SPARSE > len(count):
            used = first
            for j in range(len(count)):
                if count[j] > 0:
                    out_column[used] = j
                    used += 1
        else:
            out_column[first:used] = np.sort(out_column[first:used])
        for k in range(first, used):
            j = out_column[k]
            out_row[k], out_product[k], out_count[k] = i, product[j], count[j]
            product[j], count[j] = 0.0, 0
    return used


def merged(one: Kept, other: Kept) -> Kept:
    """The sums of both."""
    room = _union(one.number, other.number)
    out = Kept(np.empty(room, np.int64), np.zeros(room), np.zeros(room, np.int64))
    _merge(*one, *other, *out)
    return out


@compiled
def _union(a: Integers, b: Integers) -> int:
    """How many numbers two ascending runs hold together."""
    i, j, both = 0, 0, 0
    while i < len(a) and j < len(b):
        both += a[i] == b[j]
        low = min(a[i], b[j])
        i += a[i] == low
        j += b[j] == low
    return len(a) + len(b) - both


@compiled
def _merge(
    number_a: Integers,
    product_a: Floats,
    count_a: Integers,
    number_b: Integers,
    product_b: Floats,
    count_b: Integers,
    number: Integers,
    product: Floats,
    count: Integers,
) -> None:
    a, b = 0, 0
    for k in range(len(number)):
        left = a < len(number_a) and (b == len(number_b) or number_a[a] <= number_b[b])
        right = b < len(number_b) and (a == len(number_a) or number_b[b] <= number_a[a])
        number[k] = number_a[a] if left else number_b[b]
        if left:
            product[k] += product_a[a]
            count[k] += count_a[a]
            a += 1
        if right:
            product[k] += product_b[b]
            count[k] += count_b[b]
            b += 1
