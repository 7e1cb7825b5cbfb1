"""How all latents of two SAEs fire together: one pass over codes, mergeable, sparse.

Of the F_a x F_b pairs only those that fire together on some token are kept, with their exact
similarity (`codes` has the formulas); the others have one in closed form, at or below 0.

Two ways to the pairs more similar than some value:

- `Cofiring` takes codes as they come and keeps the sums of all co-firing pairs, 24 bytes each.
- `edges_above` takes the codes of all tokens at once, finishes the pairs of some latents of A at a
  time and keeps what is above the value. It needs the memory of the codes and of what it returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.loops.compiled import compiled
from reseed.matching.codes import (
    Codes,
    Measure,
    Together,
    added,
    check_measure,
    check_same_tokens,
    no_sums,
    similarity,
    sums_of,
)
from reseed.matching.geometry import Floats, Integers, device_in_force
from reseed.matching.sparse import Edges

MOST_PAIRS = 2**27
"""Pairs that are kept, at most: 3 GiB, and as much again while they are added up."""


class Kept(NamedTuple):
    """Sums of pairs by their number i * F_b + j, each once, ascending."""

    number: Integers
    product: Floats
    both: Integers


_NONE = Kept(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))


class Cofiring:
    """Sums over tokens of everything that two SAEs of F_a and F_b latents do together."""

    def __init__(self, latents_a: int, latents_b: int) -> None:
        self.latents = (latents_a, latents_b)
        self.tokens = 0
        self._a, self._b = no_sums(latents_a), no_sums(latents_b)
        self._runs: list[Kept] = []
        """each less than half as long as the one before, so that each pair is merged few times"""

    def add(self, A: Codes, B: Codes) -> None:
        """Take in more tokens, `[N, F_a]` and `[N, F_b]`, from `as_codes` or `from_entries`."""
        check_same_tokens(A, B, self.latents)
        self.tokens += A.shape[0]
        self._a, self._b = added(self._a, sums_of(A)), added(self._b, sums_of(B))
        parts = [
            Kept(pairs.row * self.latents[1] + pairs.column, pairs.product, pairs.both)
            for pairs in cofiring(A, B)
        ]
        if parts:
            self._take(Kept(*(np.concatenate(part) for part in zip(*parts, strict=True))))

    def edges(self, measure: Measure, above: float = -np.inf) -> Edges:
        """The co-firing pairs more similar than a value, by row, then by column."""
        check_measure(measure)
        number, product, both = self._pairs()
        row, column = np.divmod(number, self.latents[1])
        values = similarity(
            measure, Together(row, column, product, both), self._a, self._b, self.tokens
        )
        return _above(row, column, values, above)

    def _take(self, run: Kept) -> None:
        self._check(len(run.number))
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2].number) < 2 * len(self._runs[-1].number):
            self._join()

    def _pairs(self) -> Kept:
        """All pairs so far."""
        while len(self._runs) > 1:
            self._join()
        return self._runs[0] if self._runs else _NONE

    def _join(self) -> None:
        """Make one run of the last two."""
        last = self._runs.pop()
        self._runs[-1] = merged(self._runs[-1], last)
        self._check(len(self._runs[-1].number))

    def _check(self, pairs: int) -> None:
        if pairs > MOST_PAIRS:
            raise SpecError(
                f"{pairs:,} pairs of latents fire together within {self.tokens:,} tokens; at most "
                f"{MOST_PAIRS:,} are kept. Give the codes of all tokens at once, as sparse "
                "matrices, with a reject threshold: then no more is kept than is above it. Or "
                "leave out dense latents, which fire together with nearly everything"
            )


def edges_above(A: Codes, B: Codes, measure: Measure, above: float) -> Edges:
    """The pairs that co-fire on all N tokens more similar than a value, by row, then by column."""
    check_measure(measure)
    check_same_tokens(A, B, (A.shape[1], B.shape[1]))
    a, b, kept, total = sums_of(A), sums_of(B), list[Edges](), 0
    for pairs in cofiring(A, B):
        values = similarity(measure, pairs, a, b, A.shape[0])
        kept.append(_above(pairs.row, pairs.column, values, above))
        total += len(kept[-1].row)
        if total > MOST_PAIRS:
            raise SpecError(
                f"more than {MOST_PAIRS:,} pairs have a {measure} above {above:g}; a reject "
                "threshold this low rejects little: raise it"
            )
    none = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Edges(*(np.concatenate(parts) for parts in zip(*(kept or [none]), strict=True)))


def _above(row: Integers, column: Integers, values: Floats, above: float) -> Edges:
    keep = values > above
    return Edges(row[keep], column[keep], values[keep])


_ROOM = 2**22
"""Pairs found at a time (100 MiB), or those of one latent."""

_MEETINGS = 2**26
"""Made at a time on a device, at most (5 GiB): a latent with more is left to the processor."""

_SPARSE = 64
"""One in so many latents of B: of fewer it is quicker to sort those found than to look at all."""


def cofiring(A: Codes, B: Codes) -> Iterator[Together]:
    """All pairs of latents that fire together, some latents of A at a time."""
    by_latent = A.T.tocsr()
    met = _meetings(A, B)
    at_most = np.minimum(met, B.shape[1])
    a = _wide(by_latent.indptr), _wide(by_latent.indices), by_latent.data
    b = _wide(B.indptr), _wide(B.indices), B.data
    device, there = device_in_force(), None
    if device != "cpu":
        from reseed.loops.gpu_offers import SparseProduct

        there = SparseProduct(a, b, B.shape[1], device)
    product, count = np.zeros(B.shape[1]), np.zeros(B.shape[1], np.int64)
    for low, high in _parts(at_most if there is None else met):
        room = int(at_most[low:high].sum())
        if there is not None and met[low:high].sum() <= _MEETINGS:
            if room:
                yield Together(*there.pairs(low, high))
            continue
        row, column, both = (np.empty(room, np.int64) for _ in range(3))
        products = np.empty(room)
        used = _count(*a, *b, product, count, low, high, row, column, products, both)
        if used:
            yield Together(row[:used], column[:used], products[:used], both[:used])


def _meetings(A: Codes, B: Codes) -> Integers:
    """`[n]` how often each latent of A fires beside one of B."""
    per_entry = np.repeat(np.diff(B.indptr), np.diff(A.indptr))
    return np.bincount(A.indices, weights=per_entry, minlength=A.shape[1]).astype(np.int64)


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


def merged(first: Kept, second: Kept) -> Kept:
    """The sums of both."""
    room = _union(first.number, second.number)
    out = Kept(np.empty(room, np.int64), np.zeros(room), np.zeros(room, np.int64))
    _merge(*first, *second, *out)
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
