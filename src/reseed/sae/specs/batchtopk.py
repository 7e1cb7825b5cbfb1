"""Settings of BatchTopK."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class BatchSpec(ArchitectureSpec):
    """What all architectures with the batch rule have in common."""

    k: Annotated[int, Field(ge=1)] = 32
    """Latents that fire in a row, on average over a batch."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of the auxiliary loss that lets dead latents explain the error."""
    threshold_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the running mean of the smallest code that fires, which is the threshold at inference."""

    @model_validator(mode="after")
    def _possible(self) -> BatchSpec:
        check_k(self.k, self.latents)
        return self

    @property
    def promised_l0(self) -> float | None:
        """See `ArchitectureSpec`."""
        return self.k

    @property
    def loops(self) -> bool:
        """See `ArchitectureSpec`."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}


class BatchTopKSpec(BatchSpec):
    """The k B largest pre-activations of a batch fire; saved as JumpReLU (arXiv 2412.06410)."""

    architecture: Literal["batchtopk"] = "batchtopk"
