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
from reseed.evidence.windows import SPLITS, Circle, Entries, Keys, Pairs, kind_of
from reseed.loops.compiled import compiled

Floats = NDArray[np.float32]

Short = NDArray[np.int32]

_SPLITS = len(SPLITS)


class Reservoir(NamedTuple):
    """The entries kept of each group, by key, then window; of activations only those above 0."""

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
    begin: Integers
    """[G, n] where its activations begin, by slot"""
    many: Short
    """[G, n] how many it has, by slot"""
    at: Short
    """[room] of each activation its place in the window"""
    value: Floats
    """[room]"""
    used: Integers
    """[1] how much of the room is"""
    width: int
    """of a window, 0 where activations are not kept"""

    @staticmethod
    def of(groups: int, size: int, width: int) -> Reservoir:
        """None yet."""

        def empty(kind: Any) -> NDArray[Any]:
            return np.empty((groups, size), kind)

        by_slot = empty(np.int64), empty(np.int32), empty(np.int64), empty(np.int32)
        lists = np.zeros(groups, np.int64), empty(np.uint64), empty(np.int32), *by_slot
        room = np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(1, np.int64)
        return Reservoir(*lists, *room, width)

    def with_room(self, more: int) -> Reservoir:
        """The same with room for more activations, without those of entries that are gone."""
        if self.used[0] + more <= len(self.value):
            return self
        there = np.arange(self.key.shape[1]) < self.filled[:, None]  # slots are filled in order
        many = self.many[there]
        at, value = self._activations(self.begin[there], many)
        self.begin[there] = np.cumsum(many) - many
        room = 2 * len(at) + more
        longer = np.empty(room, np.int32), np.empty(room, np.float32)
        longer[0][: len(at)], longer[1][: len(at)] = at, value
        return self._replace(at=longer[0], value=longer[1], used=np.array([len(at)]))

    def _activations(self, begin: Integers, many: Short) -> tuple[Short, Floats]:
        """Those of some entries, one after the other."""
        take = np.repeat(begin - np.cumsum(many) + many, many) + np.arange(many.sum())
        return self.at[take], self.value[take]

    def entries(self, every: int = 1) -> Entries:
        """What is kept, by group, then key, then window; only each `every`-th group has a list."""
        group, rank = np.nonzero(np.arange(self.key.shape[1]) < self.filled[:, None])
        out = np.zeros(len(group), kind_of(self.width))
        out["group"], out["key"] = group * every, self.key[group, rank]
        slot = self.slot[group, rank]
        out["window"], out["note"] = self.window[group, slot], self.note[group, slot]
        if self.width:
            many = self.many[group, slot]
            at, value = self._activations(self.begin[group, slot], many)
            out["activations"][np.repeat(np.arange(len(out)), many), at] = value
        return out


@compiled
def put(
    filled: Integers,
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
    n, many = keys.shape[1], filled[g]
    at = many
    # again in `_moved`: as a function of its own it makes examples take 2.7 times as long
    while at > 0 and (
        keys[g, at - 1] > key or (keys[g, at - 1] == key and ids[g, slots[g, at - 1]] > window)
    ):
        at -= 1
    if at == n:
        return -1
    last = min(many, n - 1)
    slot = slots[g, last] if many == n else many
    for c in range(last, at, -1):
        keys[g, c], slots[g, c] = keys[g, c - 1], slots[g, c - 1]
    keys[g, at], slots[g, at] = key, slot
    ids[g, slot], notes[g, slot] = window, note
    filled[g] = last + 1
    return slot


@compiled
def offer_firing(
    places: Circle, pairs: Pairs, entries: Fired, offset: Keys, by_size: bool, to: Reservoir
) -> None:
    """Offer the windows in which latents fire.

    Args:
        places: of the windows.
        pairs: of these and latents.
        entries: of the pairs.
        offset: `[F]` where each latent starts on the circle.
        by_size: by largest activation, those of the first split, in F groups; else by place on the
            circle after the latent's own, in G groups.
        to: filled.
    """
    filled, keys, slots = to.filled, to.key, to.slot  # tuples are dear inside loops
    ids, notes = to.window, to.note
    begin, many, at, value, used = to.begin, to.many, to.at, to.value, to.used[0]
    starts, window, strength, position, first_entry = pairs
    _, positions, _, values = entries
    of, first, split, draw, _, _ = places
    size = np.empty(1, np.float32)
    bits = size.view(np.uint32)
    for j in range(len(offset)):
        for p in range(starts[j], starts[j + 1]):
            w = window[p]
            g, key = j * _SPLITS + split[w], np.uint64(draw[w] - offset[j])
            if by_size:
                if split[w] != 0:
                    continue
                size[0] = strength[p]
                g, key = j, _by_size(bits[0], key)
            slot = put(filled, keys, slots, ids, notes, g, key, of[w], position[p])
            if slot < 0:
                continue
            begin[g, slot], many[g, slot] = used, first_entry[p + 1] - first_entry[p]
            for e in range(first_entry[p], first_entry[p + 1]):
                at[used], value[used] = positions[e] - first[w], values[e]
                used += 1
    to.used[0] = used


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
    of, _, _, draw, circle, begin = places
    starts, window, _, _, _ = pairs
    filled, keys, slots = random.filled, random.key, random.slot
    ids, notes = random.window, random.note
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
                if filled[g] == n and (n == 0 or key > keys[g, n - 1]):
                    break
                if fires[w] != j:
                    put(filled, keys, slots, ids, notes, g, key, of[w], -1)


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
    of, _, splits, draw, _, _ = places
    starts, window, strength, _, _ = pairs
    filled, keys, slots = near.filled, near.key, near.slot
    ids, notes = near.window, near.note
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
                if filled[g] == n and (n == 0 or key > keys[g, n - 1]):
                    continue
                if taken[w] == j and _moved(filled, keys, slots, ids, notes, g, key, own, i + base):
                    continue
                taken[w] = j
                put(filled, keys, slots, ids, notes, g, key, own, i + base)


@compiled
def _moved(
    filled: Integers,
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
    while at < filled[g] and ids[g, slots[g, at]] != window:
        at += 1
    if at == filled[g]:
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
