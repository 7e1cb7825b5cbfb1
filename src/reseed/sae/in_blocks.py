"""A setting of the architectures whose latents several ranks can share. Read without torch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from reseed.sae.settings import ArchitectureSpec

_ALONE = (
    "optimizer", "weight_l2", "aligned", "k_start", "mutual", "end_to_end", "multi_topk",
    "target_l0", "sparsity",
)  # fmt: skip
"""Options that have no step in blocks."""


class InBlocksSpec(ArchitectureSpec):
    """What all architectures have in common that can be trained in blocks of latents."""

    OPTIONAL: ClassVar[frozenset[str]] = ArchitectureSpec.OPTIONAL | {"blocks"}

    blocks: Annotated[int, Field(ge=1, le=1024)] = 1
    """Equal blocks of latents, a power of two, over which sums are made in one fixed tree; as many
    ranks, or fewer, can share the run (docs/sharding.md). The result depends on it to rounding."""

    @model_validator(mode="after")
    def _blocks_possible(self) -> InBlocksSpec:
        if self.blocks == 1:
            return self
        if self.blocks & (self.blocks - 1) or self.latents % self.blocks:
            raise ValueError(
                f"blocks = {self.blocks} must be a power of two that divides latents = "
                f"{self.latents}, so that all blocks are equal and are summed in one tree"
            )
        fields = type(self).model_fields
        for option in _ALONE:
            if option in fields and getattr(self, option) != fields[option].default:
                raise ValueError(
                    f"{option} does not go together with blocks = {self.blocks}; take one out"
                )
        return self

    @property
    def _words(self) -> list[str]:
        blocks = [f"blocks{self.blocks}"] if self.blocks > 1 else []
        return [*super()._words, *blocks]


def blocks_of(sae: ArchitectureSpec) -> int:
    """Blocks of latents of an SAE; 1 where its architecture has none."""
    return sae.blocks if isinstance(sae, InBlocksSpec) else 1
