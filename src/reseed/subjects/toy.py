"""A subject whose features are known: sparse sums of fixed directions.

G features, D dimensions. A sample is `coefficients @ features + noise`. Which features fire follows
a Gaussian copula: a feature fires where its level, standard normal, is above a threshold. Levels
share a factor inside a group, or low-rank factors (`sqrt(1 - s) * own + sqrt(s) * loading @
factors`, with loadings of length 1). A child is silent where its parent is. The magnitude of a
feature that fires is `max(0.1, 1 + 0.25 * normal)`; a planted subspace gives that magnitude in a
direction that is uniform in it, so that coefficients of its rows have either sign. As an option
each sample draws a fixed number of features without replacement from one of several pools, and
magnitudes are uniform in (0, 1).

As text a sample is a token: `" f12+f40"` where features 12 and 40 fire, `" -"` where none does.
Samples do not depend on each other; sixteen neighbours count as a document, so that a block has
several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from reseed.records import Floats
from reseed.sae import Tensor
from reseed.seeds import generator
from reseed.spec.subject import ToySpec
from reseed.subjects.toy_truth import Integers, group_of, pool_of, truth_of

SITE = "toy"
"""The name of the only site of the toy."""

DOCUMENT = 16
"""Samples that count as one document of `ToyText`."""

_REMEMBERED = 64
_MAGNITUDE_SPREAD = 0.25
_SMALLEST_MAGNITUDE = 0.1
_LEVELS = 2**22
"""Levels drawn at a time: 16 MiB, whatever the size of a block."""


class Toy:
    """The known features, and samples made of them."""

    def __init__(self, spec: ToySpec) -> None:
        self.spec = spec
        self.truth = truth_of(spec)
        self.features: Floats = self.truth.features
        self.firing: NDArray[np.float64] = self.truth.firing
        # float32 like the draws; a feature that always fires has the threshold -inf.
        self._thresholds = (-ndtri(self.truth.alone)).astype(np.float32)
        self._loadings = _loadings(spec, self.truth.parent)
        self._copies, self._lead = _copies(self.truth.subspace)

    def coefficients(self, block: int) -> Floats:
        """How strongly each feature fires: float32 `[spec.block, G]`, zero where it is silent."""
        return self.sparse(block).toarray()

    def sparse(self, block: int) -> csr_array:
        """The same as a sparse array, made without the dense one."""
        parts = [np.argwhere(fires) + (first, 0) for first, fires in self._parts(block)]
        rows, columns = np.concatenate(parts).T
        values = self._magnitudes(block, len(rows))
        self._turn(block, columns, values)
        shape = (self.spec.block, self.spec.features)
        return csr_array((values, (rows, columns)), shape=shape)

    def rows(self, block: int) -> Floats:
        """The samples of a block: float32 `[spec.block, D]`."""
        structured = self.spec.structured
        fired = self.sparse(block) if structured else self.coefficients(block)
        samples: Floats = fired @ self.features
        draw = generator("toy-noise", self.spec.seed, block)
        noise = draw.standard_normal(samples.shape, dtype=np.float32)
        samples += np.float32(self.spec.noise) * noise
        return samples

    def _magnitudes(self, block: int, count: int) -> Floats:
        draw = generator("toy-magnitude", self.spec.seed, block)
        if self.spec.magnitude == "uniform":
            return draw.random(count, dtype=np.float32)
        noise = draw.standard_normal(count, dtype=np.float32)
        return np.maximum(1 + _MAGNITUDE_SPREAD * noise, np.float32(_SMALLEST_MAGNITUDE))

    def _turn(self, block: int, columns: Integers, values: Floats) -> None:
        """Give the dimensions of a subspace one magnitude, in a uniform direction; in place."""
        inside = np.flatnonzero(self.truth.subspace[columns] >= 0)
        if not len(inside):
            return
        # a subspace fires whole, so its dimensions stand side by side
        events = inside.reshape(-1, self.spec.rank)
        draw = generator("toy-direction", self.spec.seed, block)
        direction = draw.standard_normal(events.shape, dtype=np.float32)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        values[events] = direction * values[events[:, :1]]

    def _parts(self, block: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """First row of each part of a block, and what fires in it."""
        spec, truth = self.spec, self.truth
        if spec.draw == "exactly":
            yield 0, self._drawn(block)
            return
        own = generator("toy-firing", spec.seed, block)
        shared = generator("toy-factors" if spec.structured else "toy-shared", spec.seed, block)
        step = max(1, _LEVELS // spec.features)
        for first in range(0, spec.block, step):
            size = min(step, spec.block - first)
            level = own.standard_normal((size, spec.features), dtype=np.float32)
            if spec.factors:
                factors = shared.standard_normal((size, spec.factors), dtype=np.float32)
                child = (truth.parent >= 0).astype(np.float32)
                level *= np.maximum(child, np.float32(np.sqrt(1 - spec.factor_share)))
                level += factors @ self._loadings
            elif spec.correlation > 0:
                groups = -(-spec.features // spec.group)
                factor = shared.standard_normal((size, groups), dtype=np.float32)
                level *= np.float32(np.sqrt(1 - spec.correlation))
                level += np.float32(np.sqrt(spec.correlation)) * factor[:, group_of(spec)]
            fires = level > self._thresholds
            fires[:, self._copies] = fires[:, self._lead]
            for depth in range(1, int(truth.depth.max(initial=0)) + 1):
                at = np.flatnonzero(truth.depth == depth)
                fires[:, at] &= fires[:, truth.parent[at]]
            yield first, fires

    def _drawn(self, block: int) -> NDArray[np.bool_]:
        """What fires where each sample draws from one pool: the first arrivals of a race."""
        spec, pools = self.spec, pool_of(self.spec)
        chosen = generator("toy-pool", spec.seed, block).integers(len(pools), size=spec.block)
        race = generator("toy-firing", spec.seed, block).standard_exponential(
            (spec.block, len(pools[0])), dtype=np.float32
        )
        out = np.zeros((spec.block, spec.features), np.bool_)
        for number, pool in enumerate(pools):
            rows = np.flatnonzero(chosen == number)
            arrival = race[rows, : len(pool)] / np.float32(spec.decay) ** np.arange(len(pool))
            first = np.argsort(arrival, axis=1)[:, : round(spec.active)]
            out[rows[:, None], pool[first]] = True
        return out


class ToySource:
    """Samples of a toy as a `BlockSource`, with the one site `toy`; every row is kept."""

    def __init__(self, spec: ToySpec, blocks: int) -> None:
        self.toy = Toy(spec)
        self.sites: Mapping[str, int] = {SITE: spec.dimensions}
        self.rows: NDArray[np.int64] = np.full(blocks, spec.block, np.int64)

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        import torch

        shape = (len(blocks), self.toy.spec.block, self.toy.spec.dimensions)
        out = np.empty(shape, np.float32)
        for place, block in enumerate(blocks):
            out[place] = self.toy.rows(int(block))
        return {SITE: torch.from_numpy(out.reshape(-1, shape[-1]))}


def _loadings(spec: ToySpec, parent: Integers) -> Floats:
    """[factors, G] of length sqrt(factor_share); 0 for children, which follow their parent."""
    draw = generator("toy-loadings", spec.seed)
    rows = draw.standard_normal((spec.features, spec.factors)).astype(np.float32)
    if not spec.factors:
        return rows.T
    rows *= np.sqrt(np.float32(spec.factor_share)) / np.linalg.norm(rows, axis=1, keepdims=True)
    rows[parent >= 0] = 0
    return np.ascontiguousarray(rows.T)


def _copies(subspace: Integers) -> tuple[Integers, Integers]:
    """Dimensions of a subspace after its first, and that first one: they fire together."""
    rows = np.flatnonzero(subspace >= 0)
    first = rows[np.searchsorted(subspace[rows], subspace[rows])]
    after = rows != first
    return rows[after], first[after]


class ToyText:
    """`TextPositions` of a toy; a block is rendered when it is needed."""

    def __init__(self, spec: ToySpec) -> None:
        self._spec, self._toy = spec, Toy(spec)
        self._block = lru_cache(maxsize=_REMEMBERED)(self._rendered)

    @property
    def length(self) -> int:
        """L, samples in a block."""
        return self._spec.block

    def positions(self, block: int) -> NDArray[np.int64]:
        """[rows] every sample of a block."""
        return np.arange(self._spec.block)

    def documents(self, block: int) -> NDArray[np.int64]:
        """[L] number of the document of each sample."""
        per_block = -(-self._spec.block // DOCUMENT)
        return block * per_block + np.arange(self._spec.block) // DOCUMENT

    def tokens(self, block: int, first: int, last: int) -> list[str]:
        """The samples first..last-1, each by the features that fire in it."""
        return list(self._block(block)[first:last])

    def _rendered(self, block: int) -> tuple[str, ...]:
        fires = self._toy.sparse(block)
        starts = fires.indptr
        names = (sorted(fires.indices[a:b]) for a, b in zip(starts, starts[1:], strict=False))
        return tuple(" " + ("+".join(f"f{feature}" for feature in row) or "-") for row in names)
