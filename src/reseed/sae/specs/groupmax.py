"""Settings of GroupMax."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class GroupMaxSpec(ArchitectureSpec):
    """The largest of each of k equal runs of latents fires (sparsify, `activation: groupmax`)."""

    architecture: Literal["groupmax"] = "groupmax"
    k: Annotated[int, Field(ge=1)] = 32
    """Groups, and so latents that may fire at a time; divides `latents`."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error."""

    @model_validator(mode="after")
    def _possible(self) -> GroupMaxSpec:
        check_k(self.k, self.latents)
        if self.latents % self.k:
            raise ValueError(
                f"latents = {self.latents} is no multiple of k = {self.k}; groupmax needs equal "
                "groups, change one of the two"
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"k_start"})
