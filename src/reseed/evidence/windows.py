"""Windows of text that examples are made of, and what each may be used for.

A window is a stretch of one document inside one block. The part of a document that lies in a block
is cut into windows of nearly equal length, at most `window` tokens each; so windows never overlap,
and no window has text of two documents. What a window may be used for is decided by its document
alone: the documents of two splits are disjoint by construction.

L positions in a block, W windows, F latents; P pairs of a latent and a window that it fires in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.evidence.rows import Fired, Integers
from reseed.loops.compiled import compiled
from reseed.seeds import generator
from reseed.subjects.language.blocks import TextPositions

SPLITS = ("explain", "score", "judge")
"""What an example may be used for, by number."""

NOWHERE = -1
"""Document of what is in no document, and window of what is in no window."""

Keys = NDArray[np.uint64]

Entries = NDArray[Any]
"""Records of `kind_of`."""

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


class Circle(NamedTuple):
    """What loops need of `Windows`, whose places on the circle are sorted."""

    id: Integers
    first: Integers
    split: Integers
    draw: Keys
    circle: Integers
    """[W] windows by split, then place on the circle"""
    starts: Integers
    """[S + 1] where each split begins there"""

    @staticmethod
    def of(windows: Windows) -> Circle:
        """Of all windows."""
        circle = np.lexsort((windows.draw, windows.split))
        starts = np.searchsorted(windows.split[circle], np.arange(len(SPLITS) + 1))
        return Circle(windows.id, windows.first, windows.split, windows.draw, circle, starts)


class Pairs(NamedTuple):
    """Each latent with each window that it fires in."""

    starts: Integers
    """[F + 1] where those of each latent begin"""
    window: Integers
    """[P] place in the `Windows`"""
    strength: NDArray[np.float32]
    """[P] largest activation in the window"""
    position: Integers
    """[P] in the block, of the first token with that activation"""
    entries: Integers
    """[P + 1] where the entries of each begin"""


def paired(windows: Windows, fired: Fired, latents: int) -> tuple[Fired, Pairs]:
    """Entries inside windows by latent, then row, and their pairs."""
    inside = windows.of[fired.place, fired.position] != NOWHERE
    entries = by_latent(fired if inside.all() else fired.at(inside), latents)
    most = len(entries.place)
    made = Pairs(
        np.zeros(latents + 1, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.float32),
        np.empty(most, np.int64),
        np.zeros(most + 1, np.int64),
    )
    found = _pair(*entries, windows.of, *made)
    return entries, made._replace(
        window=made.window[:found], strength=made.strength[:found], position=made.position[:found]
    )


def by_latent(fired: Fired, latents: int) -> Fired:
    """Entries sorted by latent; those of a latent stay in their order."""
    place, position, latent = (
        np.ascontiguousarray(part, np.int64) for part in (fired.place, fired.position, fired.latent)
    )
    value = np.ascontiguousarray(fired.value, np.float32)
    out = Fired(
        np.empty_like(place), np.empty_like(place), np.empty_like(place), np.empty_like(value)
    )
    _sort(place, position, latent, value, np.zeros(latents + 1, np.int64), *out)
    return out


@compiled
def _sort(
    place: Integers,
    position: Integers,
    latent: Integers,
    value: NDArray[np.float32],
    fill: Integers,
    to_place: Integers,
    to_position: Integers,
    to_latent: Integers,
    to_value: NDArray[np.float32],
) -> None:
    for e in range(len(latent)):
        fill[latent[e] + 1] += 1
    for j in range(1, len(fill)):
        fill[j] += fill[j - 1]
    for e in range(len(latent)):
        at = fill[latent[e]]
        fill[latent[e]] += 1
        to_place[at], to_position[at] = place[e], position[e]
        to_latent[at], to_value[at] = latent[e], value[e]


@compiled
def _pair(
    place: Integers,
    position: Integers,
    latent: Integers,
    value: NDArray[np.float32],
    of: Integers,
    starts: Integers,
    window: Integers,
    strength: NDArray[np.float32],
    top: Integers,
    entries: Integers,
) -> int:
    """Fill in `Pairs` from sorted entries and the window of each position; returns how many."""
    found, before, last = 0, -1, -1
    for e in range(len(latent)):
        j, w = latent[e], of[place[e], position[e]]
        if j != before or w != last:
            window[found], strength[found], top[found] = w, value[e], position[e]
            entries[found], before, last = e, j, w
            starts[j + 1] += 1
            found += 1
        elif value[e] > strength[found - 1]:
            strength[found - 1], top[found - 1] = value[e], position[e]
    entries[found] = len(latent)
    for j in range(1, len(starts)):
        starts[j] += starts[j - 1]
    return found
