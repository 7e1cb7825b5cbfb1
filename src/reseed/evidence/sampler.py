"""Samples of the windows in which each latent fires, and of those in which it is silent.

One pass, in any order; what is kept depends on the text, the codes and the seed alone. Memory is
bounded by `example_bytes`, whatever the number of tokens.

F latents, W windows of some blocks, n examples kept of each latent, split and kind.

Windows stand at random places of a circle, and each latent starts from a random place of its own:
the first n windows after it in which it fires are a uniform sample of those, without replacement;
so are the first n in which it is silent. No pass over all pairs of latents and windows is needed.

Hard negatives are windows in which a near latent fires: one with a large cosine of decoder rows,
which is known before the pass and costs one product; co-firing would need a pass of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.evidence.rows import Fired
from reseed.evidence.windows import (
    LEAST,
    NOWHERE,
    SPLITS,
    Entries,
    Integers,
    Keys,
    Reservoir,
    Windows,
    hashed,
    kind_of,
    silent_near,
)
from reseed.sae import Tensor, torch
from reseed.spec.analysis import EvidenceSpec

KINDS = ("firing", "random", "neighbour")
"""Whether the latent fires; if not, any window or one where a latent near to it fires strongly."""

_EXPLAIN = 0
_NOTHING = -1
_BLOCK = 1024
"""Latents whose cosines with all others are there at a time."""


class Neighbours(NamedTuple):
    """Which latents are near to which: edges sorted by the latent that fires."""

    start: Integers
    """[F + 1] first edge of each latent"""
    of: Integers
    """[edges] the latent that has it as a neighbour"""
    cosine: NDArray[np.float32]
    """[edges] above 0"""


class Pairs(NamedTuple):
    """Each latent with each window that it fires in, sorted by latent, then window."""

    latent: Integers
    window: Integers
    """place in the `Windows`"""
    strength: NDArray[np.float32]
    """largest activation in the window"""
    position: Integers
    """in the block, of the first token with that activation"""
    key: Integers
    """latent times W plus window, ascending"""


class WindowSampler:
    """Samples the windows of each latent of a run.

    Args:
        latents: F.
        spec: how many and how long.
        neighbours: for hard negatives; None for none.
        base: number of the first latent, where only a part of an SAE is looked at.
    """

    def __init__(
        self, latents: int, spec: EvidenceSpec, neighbours: Neighbours | None = None, base: int = 0
    ) -> None:
        self.latents, self.spec, self.base = latents, spec, base
        self._neighbours = neighbours
        self._offset = hashed(base + np.arange(latents), "example-latents", spec.seed)
        groups, n = latents * len(SPLITS), spec.examples
        self.sample = Reservoir(groups, n, spec.window)
        self.strongest = Reservoir(groups, min(spec.strongest, n), spec.window)
        self.random = Reservoir(groups, n, 0)
        self.near = Reservoir(groups, n, 0)
        self.firing: Integers = np.zeros(groups, np.int64)
        self.windows: Integers = np.zeros(len(SPLITS), np.int64)

    def add(self, windows: Windows, fired: Fired) -> None:
        """Take in what fires at the kept positions of new blocks, and their windows."""
        if not len(windows.block):
            return
        entries, pairs, inside = _paired(windows, fired)
        group = pairs.latent * len(SPLITS) + windows.split[pairs.window]
        fires = np.bincount(group, minlength=len(self.firing))
        self.firing += fires
        self.windows += np.bincount(windows.split, minlength=len(SPLITS))
        priority = windows.draw[pairs.window] - self._offset[pairs.latent]
        id_of = windows.id[pairs.window]

        def put(reservoir: Reservoir, key: Keys, among: NDArray[np.bool_] | None) -> None:
            chosen = reservoir.candidates(group, key, id_of, among)
            made = _entries(group, key, id_of, pairs.position, chosen, self.spec.window)
            to = np.full(len(group), _NOTHING)
            to[chosen] = np.arange(len(chosen))
            kept = to[inside] >= 0
            offset = entries.position - windows.first[pairs.window[inside]]
            made["activations"][to[inside[kept]], offset[kept]] = entries.value[kept]
            reservoir.add(made)

        put(self.sample, priority, None)
        explain = windows.split[pairs.window] == _EXPLAIN
        put(self.strongest, _by_size(pairs.strength, priority), explain)
        self._add_random(windows, pairs, fires)
        if self._neighbours is not None:
            self._add_near(windows, pairs, self._neighbours)

    def _add_random(self, windows: Windows, pairs: Pairs, fires: Integers) -> None:
        """Windows in which a latent is silent throughout.

        Of those after a latent's place on the circle at most n + (those it fires in) can matter.
        """
        latent = np.arange(self.latents)
        # windows in the order of the circle, so that those after a latent's place are a stretch
        for split in range(len(SPLITS)):
            inside = np.flatnonzero(windows.split == split)
            inside = inside[np.argsort(windows.draw[inside], kind="stable")]
            if not len(inside):
                continue
            group = latent * len(SPLITS) + split
            draw, most = windows.draw[inside], self.random.highest(group)
            first, count = _after(draw, self._offset, most)
            count = np.minimum(count, self.spec.examples + fires[group])
            of = np.repeat(latent, count)
            step = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
            window = inside[(first[of] + step) % len(inside)]
            silent = ~_among(pairs.key, of * len(windows.block) + window)
            of, window = of[silent], window[silent]
            key = windows.draw[window] - self._offset[of]
            at = of * len(SPLITS) + split
            id_of, note = windows.id[window], np.full(len(of), _NOTHING)
            chosen = self.random.candidates(at, key, id_of)
            self.random.add(_entries(at, key, id_of, note, chosen))

    def _add_near(self, windows: Windows, pairs: Pairs, near: Neighbours) -> None:
        """Windows in which a latent is silent and a neighbour writes much along its direction."""
        room = int(np.diff(near.start)[pairs.latent].sum())
        pair, of, key = (
            np.empty(room, np.int64),
            np.empty(room, np.int64),
            np.empty(room, np.uint64),
        )
        starts = np.searchsorted(pairs.latent, np.arange(self.latents + 1))
        fires = pairs.latent, pairs.window, pairs.strength, starts
        places = windows.draw, windows.split, self._offset
        count = silent_near(*fires, *near, *places, self.near.highest(slice(None)), pair, of, key)
        pair, of, key = pair[:count], of[:count], key[:count]
        window = pairs.window[pair]
        group = of * len(SPLITS) + windows.split[window]
        both = of * len(windows.block) + window
        # several neighbours can fire in a window; the one that makes the smallest key stands
        left = np.lexsort((key, both))
        left = left[np.append(True, np.diff(both[left]) != 0)[: len(left)]]
        group, key, id_of = group[left], key[left], windows.id[window[left]]
        chosen = self.near.candidates(group, key, id_of)
        note = pairs.latent[pair[left]] + self.base
        self.near.add(_entries(group, key, id_of, note, chosen))


def example_bytes(latents: int, spec: EvidenceSpec) -> int:
    """The most memory that the samples of a run take, in bytes.

    An entry has 28 bytes, and 4 for each token of its window if the latent fires in it. Of the
    entries kept as many again wait to be sorted in and as many come with new blocks, or 8,192;
    sorting copies all of these once.
    """
    silent, fires = kind_of(0).itemsize, kind_of(spec.window).itemsize
    n, most = spec.examples, min(spec.strongest, spec.examples)
    kept = latents * (len(SPLITS) * n * (fires + 2 * silent) + most * fires)
    return 2 * (3 * kept + 2 * LEAST * (fires + silent)) if n else 0


def example_rows(spec: EvidenceSpec) -> int:
    """The most examples that are kept of a latent."""
    return len(SPLITS) * len(KINDS) * spec.examples + min(spec.strongest, spec.examples)


def _paired(windows: Windows, fired: Fired) -> tuple[Fired, Pairs, Integers]:
    """Entries inside windows sorted by latent and window, their pairs, and the pair of each."""
    window = windows.of[fired.place, fired.position]
    latent = fired.latent.astype(np.int64)
    inside = np.flatnonzero(window != NOWHERE)
    key = latent[inside] * len(windows.block) + window[inside]
    order = np.lexsort((fired.position[inside], key))
    inside, key = inside[order], key[order]
    entries = fired.at(inside)
    new = np.append(True, key[1:] != key[:-1])[: len(key)]
    start, pair = np.flatnonzero(new), np.cumsum(new) - 1
    strength = np.maximum.reduceat(entries.value, start) if len(start) else entries.value
    top = np.flatnonzero(entries.value == strength[pair])[::-1]
    position = np.zeros(len(start), np.int64)
    position[pair[top]] = entries.position[top]  # the last one written is the first of them
    key = key[start]
    latent, window = np.divmod(key, len(windows.block))
    return entries, Pairs(latent, window, strength, position, key), pair


def _after(draw: Keys, offset: Keys, most: Keys) -> tuple[Integers, Integers]:
    """Of sorted places on the circle: the first after each offset, and how many within `most`."""
    first = np.searchsorted(draw, offset)
    end = offset + most
    stop = np.searchsorted(draw, end, side="right")
    wraps = end < offset
    count = np.where(wraps, len(draw) - first + stop, stop - first)
    return first, np.minimum(count, len(draw))


def _among(known: Integers, wanted: Integers) -> NDArray[np.bool_]:
    """Whether each number is among sorted ones."""
    if not len(known):
        return np.zeros(len(wanted), np.bool_)
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return known[at] == wanted


def _by_size(size: NDArray[np.float32], priority: Keys) -> Keys:
    """Keys that put larger sizes first, and equal ones by priority; sizes are positive."""
    bits = size.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((np.uint64(0xFFFFFFFF) - bits) << np.uint64(32)) | (priority >> np.uint64(32))


def _entries(
    group: Integers, key: Keys, window: Integers, note: Integers, chosen: Integers, width: int = 0
) -> Entries:
    out = np.zeros(len(chosen), kind_of(width))
    out["group"], out["key"] = group[chosen], key[chosen]
    out["window"], out["note"] = window[chosen], note[chosen]
    return out


def nearest_decoders(W_dec: Tensor, count: int, device: str = "cpu") -> Neighbours:
    """The `count` latents whose rows of `[F, D]` have the largest positive cosine to each."""
    rows = torch.nn.functional.normalize(W_dec.detach().float().to(device), dim=1)
    latents, most = len(rows), max(0, min(count, len(rows) - 1))
    cosines, indices = torch.empty(latents, most), torch.empty(latents, most, dtype=torch.int64)
    for first in range(0, latents, _BLOCK):
        block = rows[first : first + _BLOCK] @ rows.T
        here = torch.arange(len(block), device=device)
        block[here, first + here] = -2.0
        cosines[first : first + _BLOCK], indices[first : first + _BLOCK] = block.topk(most, dim=1)
    return _edges(cosines.numpy(), indices.numpy())


def _edges(cosine: NDArray[np.float32], near: Integers) -> Neighbours:
    """From the cosines `[F, m]` of each latent and who they are with; 0 and below is left out."""
    latents = len(cosine)
    of = np.repeat(np.arange(latents), cosine.shape[1])
    there = cosine.ravel() > 0
    of, near, size = of[there], near.ravel()[there], cosine.ravel()[there]
    order = np.lexsort((of, near))
    start = np.searchsorted(near[order], np.arange(latents + 1))
    return Neighbours(start=start, of=of[order], cosine=size[order].astype(np.float32))
