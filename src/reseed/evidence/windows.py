"""Windows of text that examples are made of, and what each may be used for.

A window is a stretch of one document inside one block. The part of a document that lies in a block
is cut into windows of nearly equal length, at most `window` tokens each; so windows never overlap,
and no window has text of two documents. What a window may be used for is decided by its document
alone: the documents of two splits are disjoint by construction.

A `Reservoir` keeps a bounded sample of such windows for each latent. L positions in a block, W
windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.evidence.rows import Integers
from reseed.loops.compiled import compiled
from reseed.seeds import generator
from reseed.subjects.language.blocks import TextPositions

SPLITS = ("explain", "score", "judge")
"""What an example may be used for, by number."""

_SPLITS = len(SPLITS)

NOWHERE = -1
"""Document of what is in no document, and window of what is in no window."""

Keys = NDArray[np.uint64]
Entries = NDArray[Any]
"""Records of `kind_of`."""

LEAST = 1 << 13
"""Entries that wait at least before they are sorted in."""

_NONE = np.iinfo(np.uint64).max
_ORDERS = np.array(list(permutations(range(len(SPLITS)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The windows of some blocks that have at least one kept position."""

    of: Integers
    """[blocks, L] number of the window that each position is in; -1 for none"""
    block: Integers
    """[W] number of the block"""
    first: Integers
    """[W] position in the block of its first token"""
    last: Integers
    """[W] position after its last token"""
    document: Integers
    """[W]"""
    split: Integers
    """[W] place in `SPLITS`"""
    draw: Keys
    """[W] its seeded place on a circle of 2^64"""

    @property
    def id(self) -> Integers:
        """[W] block times L plus first position: one number for each window of a text."""
        return self.block * self.of.shape[1] + self.first


def cut(places: TextPositions, blocks: Sequence[int] | Integers, window: int, seed: int) -> Windows:
    """The windows of these blocks, of at most `window` tokens; `seed` decides splits and order."""
    numbers = np.asarray(blocks, np.int64)
    documents = np.stack([places.documents(int(block)) for block in numbers]).astype(np.int64)
    start = _starts(documents, window)
    of = np.cumsum(start) - 1  # every position, those of no document too
    first_at = np.flatnonzero(start)
    document = documents.ravel()[first_at]
    usable = (document != NOWHERE) & _with_rows(places, numbers, of, len(first_at))
    renumbered = np.where(usable, np.cumsum(usable) - 1, NOWHERE)
    length = documents.shape[1]
    last_at = np.append(first_at[1:], documents.size)
    block, first = numbers[first_at // length], first_at % length
    return Windows(
        of=renumbered[of].reshape(documents.shape),
        block=block[usable],
        first=first[usable],
        last=(first + last_at - first_at)[usable],
        document=document[usable],
        split=split_of(document[usable], seed),
        draw=hashed((block * length + first)[usable], "example-windows", seed),
    )


def split_of(documents: Integers, seed: int) -> Integers:
    """The split of each document, from its number and the seed alone.

    Of three documents with consecutive numbers (0, 1, 2; 3, 4, 5; ...) each goes to another split,
    in an order drawn for these three, so that short texts have all splits too.
    """
    numbers = np.atleast_1d(documents)
    drawn = hashed(numbers // len(SPLITS), "example-splits", seed) % np.uint64(len(_ORDERS))
    return _ORDERS[drawn.astype(np.int64), numbers % len(SPLITS)]


def hashed(values: Integers, purpose: str, seed: int) -> Keys:
    """A hash of each number, uniform over 64 bits (the finaliser of SplitMix64)."""
    salt = generator(purpose, seed).integers(0, 2**64, dtype=np.uint64)
    x = np.atleast_1d(values).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _starts(documents: Integers, window: int) -> NDArray[np.bool_]:
    """[blocks L] whether a window starts at a position."""
    border = np.ones(documents.shape, np.bool_)
    border[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = np.flatnonzero(border)
    size = np.diff(np.append(first, documents.size))
    stretch = np.repeat(np.arange(len(first)), size)
    inside = np.arange(documents.size) - first[stretch]
    part = inside * (-(-size // window))[stretch] // size[stretch]
    start = border.ravel().copy()
    start[1:] |= part[1:] != part[:-1]
    return start


def _with_rows(
    places: TextPositions, blocks: Integers, of: Integers, windows: int
) -> NDArray[np.bool_]:
    """[windows] whether any position of a window is kept."""
    out = np.zeros(windows, np.bool_)
    for place, block in enumerate(blocks):
        out[of[place * places.length + places.positions(int(block))]] = True
    return out


def kind_of(width: int) -> np.dtype[Any]:
    """The record of an entry; `width` activations, 0 for windows in which a latent is silent."""
    return np.dtype(
        [
            ("group", np.int64),
            ("key", np.uint64),
            ("window", np.int64),
            ("note", np.int32),
            ("activations", np.float32, (width,)),
        ]
    )


class Reservoir:
    """Keeps the `size` entries with the smallest keys of each group.

    What is kept depends on the entries alone: parts may come in any order and be merged. Equal
    keys are told apart by the window; no window may come twice to one group.
    """

    def __init__(self, groups: int, size: int, width: int) -> None:
        self._size = size
        self._kept = np.empty(0, kind_of(width))
        self._waiting: list[Entries] = []
        self._highest = np.full(groups, _NONE, np.uint64)

    def candidates(
        self,
        group: Integers,
        key: Keys,
        window: Integers,
        among: NDArray[np.bool_] | None = None,
    ) -> Integers:
        """Which of some entries (of those `among`) could be kept; the others need not be made."""
        could = key <= self._highest[group]
        left = np.flatnonzero(could if among is None else could & among)
        order, _ = _ranked(group[left], key[left], window[left], self._size, len(self._highest))
        return left[order]

    def highest(self, group: Integers | slice) -> Keys:
        """The largest key that could still be kept in these groups."""
        return self._highest[group]

    def add(self, entries: Entries) -> None:
        """Take in more; only `candidates`, so that memory is bounded."""
        self._waiting.append(entries)
        if sum(map(len, self._waiting)) > max(len(self._kept), LEAST):
            self._settle()

    def entries(self) -> Entries:
        """What is kept, by group, then key, then window."""
        self._settle()
        return self._kept

    def _settle(self) -> None:
        if not self._waiting:
            return
        every = np.concatenate([self._kept, *self._waiting])
        self._waiting = []
        order, last = _ranked(
            *(np.ascontiguousarray(every[name]) for name in ("group", "key", "window")),
            self._size,
            len(self._highest),
        )
        self._kept = every[order]
        self._highest[every["group"][last]] = every["key"][last]


def _ranked(
    group: Integers, key: Keys, window: Integers, size: int, groups: int
) -> tuple[Integers, Integers]:
    """The first `size` of each group, in order, and the last of these where there are so many."""
    if not size or not len(group):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    count, first = np.zeros(groups, np.int64), np.empty((groups, size), np.int32)
    _rank(group, key, window, count, first)
    order = first[np.arange(size) < count[:, None]].astype(np.int64)
    return order, first[count == size, size - 1].astype(np.int64)


@compiled
def _rank(
    group: Integers, key: Keys, window: Integers, count: Integers, first: NDArray[np.int32]
) -> None:
    """Fill in `first` `[groups, size]` and how many there are of each group."""
    size = first.shape[1]
    for e in range(len(group)):
        g = group[e]
        at = count[g]
        while at > 0:
            other = first[g, at - 1]
            if key[other] < key[e] or (key[other] == key[e] and window[other] <= window[e]):
                break
            at -= 1
        if at < size:
            count[g] = min(size, count[g] + 1)
            for c in range(count[g] - 1, at, -1):
                first[g, c] = first[g, c - 1]
            first[g, at] = e


@compiled
def silent_near(
    latent: Integers,
    window: Integers,
    strength: NDArray[np.float32],
    starts: Integers,
    near_start: Integers,
    near_of: Integers,
    cosine: NDArray[np.float32],
    draw: Keys,
    split: Integers,
    offset: Keys,
    highest: Keys,
    out_pair: Integers,
    out_of: Integers,
    out_key: Keys,
) -> int:
    """For windows in which a latent fires, fill in the latents near it that are silent there.

    Those only that could still be kept, by their key: as `sampler.Pairs`, `starts` `[F + 1]` where
    each latent begins in them, and `sampler.Neighbours` have it. Returns how many.
    """
    size, found = np.empty(1, np.float32), 0
    bits = size.view(np.uint32)
    for p in range(len(latent)):
        w = window[p]
        for e in range(near_start[latent[p]], near_start[latent[p] + 1]):
            j = near_of[e]
            size[0] = cosine[e] * strength[p]
            turned = np.uint64(np.uint64(0xFFFFFFFF) - np.uint64(bits[0])) << np.uint64(32)
            key = turned | np.uint64(np.uint64(draw[w] - offset[j]) >> np.uint64(32))
            if key > highest[j * _SPLITS + split[w]]:
                continue
            inside = window[starts[j] : starts[j + 1]]
            at = np.searchsorted(inside, w)
            if at < len(inside) and inside[at] == w:
                continue
            out_pair[found], out_of[found], out_key[found] = p, j, key
            found += 1
    return found
