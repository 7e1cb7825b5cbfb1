"""Keeps the entries with the smallest keys of each group, and offers what fires to such lists.

What is kept depends on the entries alone: parts may come in any order. Equal keys are told apart
by the window; no window comes twice to one group but in one call of `offer_near`.

F latents, S splits, G = F S groups (latent, then split), n entries of a group, W windows of some
blocks, P pairs of a latent and a window that it fires in, sorted by latent, then window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.evidence.rows import Fired, Integers
from reseed.evidence.windows import SPLITS, Circle, Keys, Pairs
from reseed.loops.compiled import compiled

Entries = NDArray[Any]
"""Records of `kind_of`."""

Floats = NDArray[np.float32]

Short = NDArray[np.int32]

_SPLITS = len(SPLITS)


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


class Reservoir(NamedTuple):
    """The entries kept of each group, by key, then window."""

    filled: Integers
    """[G] how many there are"""
    key: Keys
    """[G, n] in order"""
    slot: Short
    """[G, n] where the rest of it is: that is not moved when others come between"""
    window: Integers
    """[G, n] its `Windows.id`, by slot"""
    note: Short
    """[G, n] by slot"""
    activations: Floats
    """[G, n, width] by slot"""

    @staticmethod
    def of(groups: int, size: int, width: int) -> Reservoir:
        """None yet."""
        shape = groups, size
        return Reservoir(
            np.zeros(groups, np.int64),
            np.empty(shape, np.uint64),
            np.empty(shape, np.int32),
            np.empty(shape, np.int64),
            np.empty(shape, np.int32),
            np.empty((*shape, width), np.float32),
        )

    def entries(self, every: int = 1) -> Entries:
        """What is kept, by group, then key, then window; only each `every`-th group has a list."""
        group, rank = np.nonzero(np.arange(self.key.shape[1]) < self.filled[:, None])
        out = np.empty(len(group), kind_of(self.activations.shape[2]))
        out["group"], out["key"] = group * every, self.key[group, rank]
        slot = self.slot[group, rank]
        for name in ("window", "note", "activations"):
            out[name] = getattr(self, name)[group, slot]
        return out


@compiled
def put(
    count: Integers,
    keys: Keys,
    slots: Short,
    ids: Integers,
    notes: Short,
    g: Any,
    key: Any,
    window: Any,
    note: Any,
) -> Any:
    """Take an entry into the list of a group; the slot it has, -1 if it is not kept."""
    n, filled = keys.shape[1], count[g]
    to = filled
    while to > 0 and (
        keys[g, to - 1] > key or (keys[g, to - 1] == key and ids[g, slots[g, to - 1]] > window)
    ):
        to -= 1
    if to == n:
        return -1
    last = min(filled, n - 1)
    slot = slots[g, last] if filled == n else filled
    for c in range(last, to, -1):
        keys[g, c], slots[g, c] = keys[g, c - 1], slots[g, c - 1]
    keys[g, to], slots[g, to] = key, slot
    ids[g, slot], notes[g, slot] = window, note
    count[g] = last + 1
    return slot


@compiled
def offer_firing(
    places: Circle,
    pairs: Pairs,
    entries: Fired,
    offset: Keys,
    firing: Integers,
    sample: Reservoir,
    strongest: Reservoir,
) -> None:
    """Offer the windows in which latents fire.

    Args:
        places: of the windows.
        pairs: of these and latents.
        entries: of the pairs.
        offset: `[F]` where each latent starts on the circle.
        firing: `[G]`, raised by the pairs.
        sample: G groups, filled: by place on the circle after the latent's own.
        strongest: F groups, filled: those of the first split with the largest activations.
    """
    count, keys, slots, ids, notes, shown = sample  # tuples are dear inside loops
    count_, keys_, slots_, ids_, notes_, shown_ = strongest
    starts, window, strength, position, begin = pairs
    _, at, _, value = entries
    of, firsts, splits, draw, _, _ = places
    size = np.empty(1, np.float32)
    bits = size.view(np.uint32)
    for j in range(len(offset)):
        for p in range(starts[j], starts[j + 1]):
            w = window[p]
            split, first, own = splits[w], firsts[w], of[w]
            g = j * _SPLITS + split
            firing[g] += 1
            key = np.uint64(draw[w] - offset[j])
            slot = put(count, keys, slots, ids, notes, g, key, own, position[p])
            if slot >= 0:
                _show(shown[g, slot], at, value, begin[p], begin[p + 1], first)
            if split == 0:
                size[0] = strength[p]
                key = _by_size(bits[0], key)
                slot = put(count_, keys_, slots_, ids_, notes_, j, key, own, position[p])
                if slot >= 0:
                    _show(shown_[j, slot], at, value, begin[p], begin[p + 1], first)


@compiled
def _show(line: Floats, at: Integers, value: Floats, low: Any, high: Any, first: Any) -> None:
    """Write what fires in a window."""
    line[:] = 0
    for e in range(low, high):
        line[at[e] - first] = value[e]


@compiled
def _by_size(bits: Any, priority: Any) -> Any:
    """A key that puts larger sizes first, and equal ones by priority; sizes are above 0."""
    turned = np.uint64(np.uint64(0xFFFFFFFF) - np.uint64(bits)) << np.uint64(32)
    return np.uint64(turned | np.uint64(priority >> np.uint64(32)))


@compiled
def offer_silent(places: Circle, pairs: Pairs, offset: Keys, random: Reservoir) -> None:
    """Offer the windows in which a latent is silent throughout, from its own place on the circle.

    Args:
        places: of the windows.
        pairs: of these and latents.
        offset: `[F]` where each latent starts.
        random: G groups, filled.
    """
    count, keys, slots, ids, notes, _ = random
    of, _, _, draw, circle, begin = places
    starts, window, _, _, _ = pairs
    n, fires = keys.shape[1], np.full(len(of), -1)
    for j in range(len(offset)):
        for p in range(starts[j], starts[j + 1]):
            fires[window[p]] = j
        for split in range(_SPLITS):
            low, high = begin[split], begin[split + 1]
            g, first, last = j * _SPLITS + split, low, high
            while first < last:  # of a sorted stretch, the first that is not before the offset
                middle = (first + last) // 2
                if draw[circle[middle]] < offset[j]:
                    first = middle + 1
                else:
                    last = middle
            for step in range(high - low):
                c = first + step
                w = circle[c if c < high else c - (high - low)]
                key = np.uint64(draw[w] - offset[j])
                if count[g] == n and (n == 0 or key > keys[g, n - 1]):
                    break
                if fires[w] != j:
                    put(count, keys, slots, ids, notes, g, key, of[w], -1)


@compiled
def offer_near(
    places: Circle,
    pairs: Pairs,
    offset: Keys,
    start: Integers,
    neighbour: Integers,
    cosine: Floats,
    base: int,
    near: Reservoir,
) -> None:
    """Offer the windows in which a latent is silent and a neighbour writes along its direction.

    Several neighbours can fire in a window; the one that makes the smallest key stands.

    Args:
        places: of the windows.
        pairs: of these and latents.
        offset: `[F]` where each latent starts on the circle.
        start: `[F + 1]` where the neighbours of each latent begin.
        neighbour: which they are, ascending for each.
        cosine: with each, above 0.
        base: added to their numbers.
        near: G groups, filled.
    """
    count, keys, slots, ids, notes, _ = near
    of, _, splits, draw, _, _ = places
    starts, window, strength, _, _ = pairs
    n, fires, taken = keys.shape[1], np.full(len(of), -1), np.full(len(of), -1)
    size = np.empty(1, np.float32)
    bits = size.view(np.uint32)
    for j in range(len(offset)):
        for p in range(starts[j], starts[j + 1]):
            fires[window[p]] = j
        for e in range(start[j], start[j + 1]):
            i = neighbour[e]
            for p in range(starts[i], starts[i + 1]):
                w = window[p]
                if fires[w] == j:
                    continue
                g, own = j * _SPLITS + splits[w], of[w]
                size[0] = cosine[e] * strength[p]
                key = _by_size(bits[0], np.uint64(draw[w] - offset[j]))
                if count[g] == n and (n == 0 or key > keys[g, n - 1]):
                    continue
                if taken[w] == j and _moved(count, keys, slots, ids, notes, g, key, own, i + base):
                    continue
                taken[w] = j
                put(count, keys, slots, ids, notes, g, key, own, i + base)


@compiled
def _moved(
    count: Integers,
    keys: Keys,
    slots: Short,
    ids: Integers,
    notes: Short,
    g: Any,
    key: Any,
    window: Any,
    note: Any,
) -> bool:
    """Whether a list has a window; it is given the key, with the note, if that is smaller."""
    at = 0
    while at < count[g] and ids[g, slots[g, at]] != window:
        at += 1
    if at == count[g]:
        return False
    if key < keys[g, at]:
        slot = slots[g, at]
        while at > 0 and (
            keys[g, at - 1] > key or (keys[g, at - 1] == key and ids[g, slots[g, at - 1]] > window)
        ):
            keys[g, at], slots[g, at] = keys[g, at - 1], slots[g, at - 1]
            at -= 1
        keys[g, at], slots[g, at], notes[g, slot] = key, slot, note
    return True
