"""What a study says about a subject whose features are known: the toy. Read without torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from reseed.spec.subjects.optional import OptionalSpec


class ToySpec(OptionalSpec):
    """A subject whose features are known: sparse sums of fixed directions."""

    optional: ClassVar[frozenset[str]] = frozenset(
        {"factors", "factor_share", "roots", "children", "depth", "subspaces", "rank"}
        | {"draw", "pools", "decay", "magnitude"}
    )

    kind: Literal["toy"]
    features: Annotated[int, Field(ge=1)] = 512
    """G, how many features there are."""
    dimensions: Annotated[int, Field(ge=2)] = 64
    """D, in how many dimensions they live."""
    active: Annotated[float, Field(gt=0)] = 8.0
    """Features that fire on average in one sample."""
    zipf: Annotated[float, Field(ge=0)] = 0.5
    """Firing probability of the i-th feature falls as i^-zipf; 0 is equal firing."""
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the Gaussian copula inside a group: features of a group fire together."""
    group: Annotated[int, Field(ge=1)] = 1
    """Features in a group; 1 for independent features."""
    hierarchy: bool = False
    """Whether the first feature of a group is the parent without which the others are silent."""
    factors: Annotated[int, Field(ge=0)] = 0
    """Rank of a Gaussian copula through which all features but children fire together; 0: none."""
    factor_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the variance of each feature's level that the factors make."""
    roots: Annotated[int, Field(ge=0)] = 0
    """Features at the top of a tree; 0: no trees. A child fires only with its parent."""
    children: Annotated[int, Field(ge=1)] = 4
    """Of each feature of a tree that is not at the bottom."""
    depth: Annotated[int, Field(ge=1)] = 3
    """Levels of a tree below its root."""
    subspaces: Annotated[int, Field(ge=0)] = 0
    """Planted features of several dimensions, each `rank` of the features: they fire together,
    in a direction that is uniform in their subspace."""
    rank: Annotated[int, Field(ge=2)] = 2
    """Dimensions of each planted subspace."""
    draw: Literal["copula", "exactly"] = "copula"
    """`copula`: each feature fires by its own probability. `exactly`: a sample picks one of `pools`
    and draws `active` features of it without replacement (arXiv 2411.01220, 2505.20254); then
    `zipf` says nothing."""
    pools: Annotated[int, Field(ge=1)] = 1
    """With `exactly`: equal shares of the features, of which each sample uses one."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `exactly`: the i-th feature of a pool is drawn with probability proportional to
    decay^i."""
    magnitude: Literal["normal", "uniform"] = "normal"
    """How strongly a feature fires: max(0.1, 1 + 0.25 normal), or uniform in (0, 1)."""
    noise: Annotated[float, Field(ge=0)] = 0.01
    """Standard deviation of isotropic noise, each dimension."""
    seed: int = 0
    """Of the features and of the samples."""
    block: Annotated[int, Field(ge=1)] = 256
    """Samples made at a time."""

    @model_validator(mode="after")
    def _possible(self) -> ToySpec:
        if self.active > self.features:
            raise ValueError(f"active = {self.active:g} is above features = {self.features}")
        if self.group > self.features:
            raise ValueError(f"group = {self.group} is above features = {self.features}")
        self.refuse_idle("factors", self.factors, "factor_share")
        self.refuse_idle("roots", self.roots, "children", "depth")
        self.refuse_idle("subspaces", self.subspaces, "rank")
        if self.structured:
            self._check_structure()
        self._check_draw()
        return self

    @property
    def structured(self) -> bool:
        """Whether features have factors, trees or planted subspaces."""
        return self.factors > 0 or self.roots > 0 or self.subspaces > 0

    @property
    def tree_features(self) -> int:
        """Features that belong to trees."""
        return self.roots * sum(self.children**level for level in range(self.depth + 1))

    def _check_draw(self) -> None:
        if self.draw == "copula":
            if self.pools > 1 or self.decay < 1:
                raise ValueError('pools and decay go with draw = "exactly"; set it or leave them')
            self.refuse_idle("group", self.group > 1, "correlation", "hierarchy")
            return
        if self.structured or self.group > 1 or self.correlation > 0 or self.hierarchy:
            raise ValueError('draw = "exactly" has pools and no other structure; leave that out')
        self.refuse_idle('draw = "copula"', False, "zipf")
        least = self.features // self.pools
        if self.active != round(self.active) or self.active > least:
            raise ValueError(
                f"active = {self.active:g} features are drawn from a pool of {least} without "
                "replacement; it must be a whole number of at most that"
            )

    def _check_structure(self) -> None:
        if self.group > 1 or self.correlation > 0 or self.hierarchy:
            raise ValueError(
                "group, correlation and hierarchy do not go with factors, roots or subspaces; "
                "take one of the two kinds of structure"
            )
        if self.rank > self.dimensions:
            raise ValueError(f"rank = {self.rank} is above dimensions = {self.dimensions}")
        trees, planted = self.tree_features, self.subspaces * self.rank
        if trees + planted > self.features:
            raise ValueError(
                f"{trees} features in trees and {planted} in subspaces are more than features = "
                f"{self.features}"
            )
