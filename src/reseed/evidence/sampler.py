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
from reseed.evidence.smallest import (
    Reservoir,
    offer_firing,
    offer_near,
    offer_silent,
)
from reseed.evidence.windows import (
    SPLITS,
    Circle,
    Entries,
    Integers,
    Windows,
    hashed,
    kind_of,
    paired,
)
from reseed.matching.blocks.nearest import choose, nearest_others
from reseed.matching.geometry import Rows, rows
from reseed.sae import Tensor, torch
from reseed.spec.analysis import EvidenceSpec

KINDS = ("firing", "random", "neighbour")
"""Whether the latent fires; if not, any window or one where a latent near to it fires strongly."""

_BLOCK = 1024
"""Latents whose cosines with all others are there at a time."""
_SPARE = 4
"""Latents that are scored besides those wanted."""
_ERROR = 0.01
"""More than a float32 product of unit rows can be off."""


class Neighbours(NamedTuple):
    """Which latents are near to which."""

    start: Integers
    """[F + 1] where the neighbours of each latent begin"""
    near: Integers
    """[edges] which they are, ascending for each"""
    cosine: NDArray[np.float32]
    """[edges] above 0"""


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
        self.firing: Integers = np.zeros(groups, np.int64)
        self.windows: Integers = np.zeros(len(SPLITS), np.int64)
        self._sample = Reservoir.of(groups, n, spec.window)
        self._strongest = Reservoir.of(latents, min(spec.strongest, n), spec.window)
        self._random, self._near = (Reservoir.of(groups, n, 0) for _ in range(2))

    def add(self, windows: Windows, fired: Fired) -> None:
        """Take in what fires at the kept positions of new blocks, by row, and their windows."""
        if not len(windows.block):
            return
        entries, pairs = paired(windows, fired, self.latents)
        places, offset = Circle.of(windows), self._offset
        latent = np.repeat(np.arange(self.latents), np.diff(pairs.starts))
        group = latent * len(SPLITS) + windows.split[pairs.window]
        self.firing += np.bincount(group, minlength=len(self.firing))
        self.windows += np.bincount(windows.split, minlength=len(SPLITS))
        self._sample = self._sample.with_room(len(entries.place))
        self._strongest = self._strongest.with_room(len(entries.place))
        for by_size, to in ((False, self._sample), (True, self._strongest)):
            offer_firing(places, pairs, entries, offset, by_size, to)
        offer_silent(places, pairs, offset, self._random)
        if self._neighbours is not None:
            offer_near(places, pairs, offset, *self._neighbours, self.base, self._near)

    def entries(self) -> dict[str, Entries]:
        """What is kept of each of `KINDS`, and the `strongest`; by latent and split, then key."""
        strongest = self._strongest.entries(every=len(SPLITS))
        lists = self._sample, self._random, self._near
        kept = {kind: one.entries() for kind, one in zip(KINDS, lists, strict=True)}
        return kept | {"strongest": strongest}


def example_bytes(latents: int, spec: EvidenceSpec) -> int:
    """The most memory that the samples of a run take, in bytes.

    An entry has 40 bytes, and 16 for each token of its window where the latent fires at all of
    them. For the tables all are copied twice, with 28 bytes, and 4 a token.
    """
    n, most = spec.examples, min(spec.strongest, spec.examples)
    fires, silent = latents * (len(SPLITS) * n + most), latents * 2 * len(SPLITS) * n
    held = fires * (40 + 16 * spec.window) + silent * 40
    return held + 2 * (fires * kind_of(spec.window).itemsize + silent * kind_of(0).itemsize)


def example_rows(spec: EvidenceSpec) -> int:
    """The most examples that are kept of a latent."""
    return len(SPLITS) * len(KINDS) * spec.examples + min(spec.strongest, spec.examples)


def nearest_decoders(W_dec: Tensor, count: int, device: str = "cpu") -> Neighbours:
    """The `count` latents whose rows of `[F, D]` have the largest positive cosine to each.

    Cosines are those of float64; a GPU finds by float32 products who can be among them.
    """
    dictionary = rows(W_dec, "decoder rows")
    size = len(dictionary.scale)
    most = max(0, min(count, size - 1))
    if not most:
        return _edges(np.empty((size, 0), np.float32), np.empty((size, 0), np.int64))
    if device == "cpu":
        near, cosine = nearest_others(dictionary, most)
    else:
        near, cosine = _nearest_by_products(dictionary, most, device)
    return _edges(cosine.astype(np.float32), near)


def _nearest_by_products(
    dictionary: Rows, most: int, device: str
) -> tuple[Integers, NDArray[np.float64]]:
    """The same as `nearest_others`, but where more than `_SPARE` are equal to the last in float32.

    All products are made: on a GPU, and in tests.
    """
    unit = torch.from_numpy(dictionary.screen).to(device)
    latents, wide = len(unit), min(len(unit) - 1, most + _SPARE)
    upper, candidates = torch.empty(latents, wide), torch.empty(latents, wide, dtype=torch.int64)
    for first in range(0, latents, _BLOCK):
        block = unit[first : first + _BLOCK] @ unit.T
        here = torch.arange(len(block), device=device)
        block[here, first + here] = -2.0
        part = slice(first, first + _BLOCK)
        upper[part], candidates[part] = block.topk(wide, dim=1)
    near, cosine = np.zeros((latents, most), np.int64), np.zeros((latents, most))
    own, at_most = np.repeat(np.arange(latents), wide), upper.numpy().ravel() + np.float32(_ERROR)
    choose(dictionary, own, candidates.numpy().ravel(), at_most, near, cosine)
    return near, cosine


def _edges(cosine: NDArray[np.float32], near: Integers) -> Neighbours:
    """From the cosines `[F, m]` of each latent and who they are with; 0 and below is left out."""
    order = np.argsort(near, axis=1)
    near, cosine = np.take_along_axis(near, order, 1), np.take_along_axis(cosine, order, 1)
    there = cosine > 0
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(there.sum(axis=1))])
    return Neighbours(start, near[there], cosine[there])
