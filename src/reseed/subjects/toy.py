"""A subject whose features are known: sparse sums of fixed directions.

G features, D dimensions. A sample is `coefficients @ features + noise`. Which features fire follows
a Gaussian copula: feature i fires where `sqrt(c) * shared + sqrt(1 - c) * own` is above a
threshold, with standard normal `shared` (one a group) and `own`, and c the correlation. Groups are
neighbouring features. The magnitude of a feature that fires is `max(0.1, 1 + 0.25 * normal)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from torch import Tensor

from reseed.records import Floats
from reseed.seeds import generator
from reseed.subjects.spec import ToySpec

SITE = "toy"
"""The name of the only site of the toy."""

_QUADRATURE_NODES = 64
_MAGNITUDE_SPREAD = 0.25
_SMALLEST_MAGNITUDE = 0.1


class Toy:
    """The known features, and samples made of them.

    Args:
        spec: all there is to say; equal specs give equal toys.

    Attributes:
        spec: as given.
        features: float32 `[G, D]`, unit rows.
        firing: float64 `[G]`, the probability that each feature fires; sums to `spec.active`.
    """

    def __init__(self, spec: ToySpec) -> None:
        self.spec = spec
        self.features: Floats = _directions(spec)
        weights = np.arange(1, spec.features + 1, dtype=np.float64) ** -spec.zipf
        scale = _scale(spec, weights)
        alone = np.minimum(1.0, scale * weights)
        self.firing: NDArray[np.float64] = _marginals(spec, alone)
        # float32 like the draws; a feature that always fires has the threshold -inf.
        self._thresholds = (-ndtri(alone)).astype(np.float32)

    def coefficients(self, block: int) -> Floats:
        """How strongly each feature fires: float32 `[spec.block, G]`, zero where it is silent."""
        fires = self._fires(block)
        draw = generator("toy-magnitude", self.spec.seed, block)
        noise = draw.standard_normal(int(fires.sum()), dtype=np.float32)
        out = np.zeros(fires.shape, np.float32)
        out[fires] = np.maximum(1 + _MAGNITUDE_SPREAD * noise, np.float32(_SMALLEST_MAGNITUDE))
        return out

    def rows(self, block: int) -> Floats:
        """The samples of a block: float32 `[spec.block, D]`."""
        samples: Floats = self.coefficients(block) @ self.features
        draw = generator("toy-noise", self.spec.seed, block)
        noise = draw.standard_normal(samples.shape, dtype=np.float32)
        samples += np.float32(self.spec.noise) * noise
        return samples

    def _fires(self, block: int) -> NDArray[np.bool_]:
        spec = self.spec
        own = generator("toy-firing", spec.seed, block)
        level = own.standard_normal((spec.block, spec.features), dtype=np.float32)
        if spec.correlation > 0:
            groups = -(-spec.features // spec.group)
            shared = generator("toy-shared", spec.seed, block)
            factor = shared.standard_normal((spec.block, groups), dtype=np.float32)
            level *= np.float32(np.sqrt(1 - spec.correlation))
            level += np.float32(np.sqrt(spec.correlation)) * factor[:, _group_of(spec)]
        fires = level > self._thresholds
        if spec.hierarchy:
            fires &= fires[:, _group_of(spec) * spec.group]
        return fires


class ToySource:
    """Samples of a toy as a `BlockSource`, with the one site `toy`; every row is kept.

    Args:
        spec: the toy.
        blocks: how many blocks of `spec.block` samples there are; more blocks leave the earlier
            ones as they were.
    """

    def __init__(self, spec: ToySpec, blocks: int) -> None:
        self.toy = Toy(spec)
        self._rows = np.full(blocks, spec.block, np.int64)

    @property
    def sites(self) -> Mapping[str, int]:
        """Site name to D."""
        return {SITE: self.toy.spec.dimensions}

    @property
    def rows(self) -> NDArray[np.int64]:
        """[blocks] rows that each block gives."""
        return self._rows

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks; see `BlockSource.read`."""
        shape = (len(blocks), self.toy.spec.block, self.toy.spec.dimensions)
        out = np.empty(shape, np.float32)
        for place, block in enumerate(blocks):
            out[place] = self.toy.rows(int(block))
        return {SITE: torch.from_numpy(out.reshape(-1, shape[-1]))}


def _directions(spec: ToySpec) -> Floats:
    draw = generator("toy-features", spec.seed)
    rows = draw.standard_normal((spec.features, spec.dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _group_of(spec: ToySpec) -> NDArray[np.int64]:
    """[G] number of the group of each feature."""
    return np.arange(spec.features, dtype=np.int64) // spec.group


def _scale(spec: ToySpec, weights: NDArray[np.float64]) -> float:
    """The factor that makes the firing probabilities, each capped at 1, sum to `active`."""
    if spec.active >= spec.features:
        return 1.0 / float(weights[-1])

    def excess(scale: float) -> float:
        return float(_marginals(spec, np.minimum(1.0, scale * weights)).sum()) - spec.active

    return float(brentq(excess, 0.0, 1.0 / float(weights[-1]), xtol=1e-15, rtol=1e-14))


def _marginals(spec: ToySpec, alone: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] firing probability after children of silent parents were silenced."""
    if not spec.hierarchy or spec.group == 1:
        return alone
    parent = _group_of(spec) * spec.group
    # Given the shared factor parent and child are independent; average over the factor.
    nodes, mass = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
    shift, spread = np.sqrt(spec.correlation), np.sqrt(1 - spec.correlation)
    both = np.zeros_like(alone)
    with np.errstate(divide="ignore"):
        levels = ndtri(alone)
    for node, weight in zip(nodes, mass / mass.sum(), strict=True):
        given = ndtr((levels + shift * node) / spread)
        both += weight * given * given[parent]
    return np.where(parent == np.arange(spec.features), alone, both)
