"""What is true of a toy: its features, how often they fire, and what belongs together.

G features, D dimensions, S planted subspaces of r dimensions. Made of the spec alone, without
torch, so that whatever reads a study can know the truth.

Three kinds of structure, of which a spec uses one at most. *Pools* are shares of the features of
which each sample draws from one. *Groups* are neighbouring features that
share a factor, the first of which can be the parent of the others. *Trees, subspaces and factors*
(the ingredients of SynthSAEBench, arXiv 2602.14687, not its generator): trees with several levels,
planted features of several dimensions, and a low-rank Gaussian copula over everything that is not
a child. There trees and subspaces are spread evenly over the ranks of the power law, parents
before children, and every feature fires exactly as often as the power law says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from reseed.records import Floats
from reseed.seeds import generator
from reseed.spec.subject import ToySpec

Integers = NDArray[np.int64]

_QUADRATURE_NODES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The features of a toy. A feature of several dimensions takes several rows."""

    features: Floats
    """[G, D] unit rows; rows of one subspace are orthogonal"""
    firing: NDArray[np.float64]
    """[G] probability that each fires; sums to `spec.active`"""
    alone: NDArray[np.float64]
    """[G] the same given that its parent fires"""
    parent: Integers
    """[G] without which it is silent; -1 for none"""
    depth: Integers
    """[G] number of ancestors"""
    subspace: Integers
    """[G] the planted subspace it is a dimension of; -1 for a feature of one dimension"""

    @property
    def bases(self) -> Floats:
        """[S, r, D] orthonormal basis of each planted subspace; no direction in it is special."""
        rows = np.flatnonzero(self.subspace >= 0)
        count = int(self.subspace.max(initial=-1)) + 1
        rank = len(rows) // max(count, 1)
        return self.features[rows].reshape(count, rank, self.features.shape[1])

    @property
    def root(self) -> Integers:
        """[G] the feature at the top of the tree that each belongs to; itself outside trees."""
        root = np.arange(len(self.parent))
        for _ in range(int(self.depth.max(initial=0))):
            root = np.where(self.parent[root] >= 0, self.parent[root], root)
        return root

    @property
    def single(self) -> Integers:
        """[G - S r] rows that are features of one dimension."""
        return np.flatnonzero(self.subspace < 0)


def truth_of(spec: ToySpec) -> Truth:
    """The features of a toy; equal specs give equal ones."""
    if spec.structured:
        return _structured(spec)
    if spec.draw == "exactly":
        return _drawn(spec)
    weights = np.arange(1, spec.features + 1, dtype=np.float64) ** -spec.zipf
    alone = np.minimum(1.0, _scale(spec, weights) * weights)
    group = group_of(spec)
    child = (group * spec.group != np.arange(spec.features)) & spec.hierarchy
    return Truth(
        features=_directions(spec),
        firing=_marginals(spec, alone),
        alone=alone,
        parent=np.where(child, group * spec.group, -1),
        depth=child.astype(np.int64),
        subspace=np.full(spec.features, -1),
    )


def group_of(spec: ToySpec) -> Integers:
    """[G] number of the group of each feature."""
    return np.arange(spec.features, dtype=np.int64) // spec.group


def pool_of(spec: ToySpec) -> list[Integers]:
    """The features of each pool, in order of their probability."""
    return np.array_split(np.arange(spec.features, dtype=np.int64), spec.pools)


# -- pools -----------------------------------------------------------------------------------------


def _drawn(spec: ToySpec) -> Truth:
    firing = np.empty(spec.features)
    for pool in pool_of(spec):
        weights = spec.decay ** np.arange(len(pool), dtype=np.float64)
        firing[pool] = inclusion(weights, round(spec.active)) / spec.pools
    none = np.full(spec.features, -1)
    return Truth(
        features=_directions(spec),
        firing=firing,
        alone=firing,
        parent=none,
        depth=np.zeros(spec.features, np.int64),
        subspace=none,
    )


def inclusion(weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`[n]` probability of each to be among `count` drawn one by one without replacement.

    The draw is a race: i arrives after an exponential time of rate weights[i], and the first
    `count` are drawn. Given its time t, i is drawn if fewer than `count` others arrived before.
    """
    if count == len(weights):
        return np.ones(len(weights))
    nodes, mass = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
    # u = 1 - exp(-w t) is uniform: integrate over the quantiles of the arrival of each
    u, mass = (nodes + 1) / 2, mass / 2
    out = np.empty(len(weights))
    for i, own in enumerate(weights):
        time = -np.log1p(-u) / own
        before = -np.expm1(-np.delete(weights, i)[:, None] * time)
        fewer = np.zeros((count, len(u)))  # [j] exactly j of the others were before
        fewer[0] = 1
        for p in before:
            fewer[1:] = fewer[1:] * (1 - p) + fewer[:-1] * p
            fewer[0] *= 1 - p
        out[i] = (fewer.sum(0) * mass).sum()
    return out * (count / out.sum())


# -- groups ----------------------------------------------------------------------------------------


def _directions(spec: ToySpec) -> Floats:
    draw = generator("toy-features", spec.seed)
    rows = draw.standard_normal((spec.features, spec.dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


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
    parent = group_of(spec) * spec.group
    # Given the shared factor parent and child are independent; average over the factor.
    nodes, mass = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
    shift, spread = np.sqrt(spec.correlation), np.sqrt(1 - spec.correlation)
    both = np.zeros_like(alone)
    with np.errstate(divide="ignore"):
        levels = ndtri(alone)
    for node, weight in zip(nodes, mass / mass.sum(), strict=True):
        fires = ndtr((levels + shift * node) / spread)
        both += weight * fires * fires[parent]
    return np.where(parent == np.arange(spec.features), alone, both)


# -- trees and subspaces ---------------------------------------------------------------------------


def _structured(spec: ToySpec) -> Truth:
    rank_of_unit, parent, depth, subspace = _layout(spec)
    weights = np.asarray((1.0 + rank_of_unit) ** -spec.zipf, np.float64)
    firing = np.minimum(1.0, _scale(spec, weights) * weights)
    alone = np.where(parent >= 0, firing / firing[parent], firing)
    features = _directions(spec)
    for rows in np.flatnonzero(subspace >= 0).reshape(-1, spec.rank):
        features[rows] = np.linalg.qr(features[rows].astype(np.float64).T)[0].T
    return Truth(
        features=features,
        firing=firing,
        alone=alone,
        parent=parent,
        depth=depth,
        subspace=subspace,
    )


def _layout(spec: ToySpec) -> tuple[Integers, Integers, Integers, Integers]:
    """[G] each: rank in the power law, parent, depth, subspace.

    A unit is a feature of one dimension or a whole subspace. Each kind is spread evenly over the
    ranks; trees level by level, so that a parent has a lower rank than its children.
    """
    trees, planted = spec.tree_features, spec.subspaces
    alone = spec.features - trees - planted * spec.rank
    counts = (trees, planted, alone)
    place = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in counts])
    order = np.argsort(place, kind="stable")
    number = np.concatenate([np.arange(n) for n in counts])[order]
    kind = np.repeat([0, 1, 2], counts)[order]
    size = np.where(kind == 1, spec.rank, 1)
    first = np.cumsum(size) - size
    in_tree = first[kind == 0]  # features of the trees, level by level
    levels = [spec.roots * spec.children**level for level in range(spec.depth + 1)]
    parent = np.full(spec.features, -1)
    depth = np.zeros(spec.features, np.int64)
    if trees:
        below = np.arange(spec.roots, trees)
        parent[in_tree[spec.roots :]] = in_tree[(below - spec.roots) // spec.children]
        depth[in_tree] = np.repeat(np.arange(spec.depth + 1), levels)
    subspace = np.repeat(np.where(kind == 1, number, -1), size)
    return np.repeat(np.arange(len(size)), size), parent, depth, subspace
