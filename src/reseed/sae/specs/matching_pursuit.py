"""Settings of matching pursuit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class MatchingPursuitSpec(ArchitectureSpec):
    """Latents chosen one after the other, each for what those before left over (2506.03093)."""

    architecture: Literal["matching_pursuit"] = "matching_pursuit"
    k: Annotated[int, Field(ge=1)] = 32
    """Steps of the pursuit: latents that may fire at a time."""

    @model_validator(mode="after")
    def _possible(self) -> MatchingPursuitSpec:
        check_k(self.k, self.latents)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"aligned", "end_to_end", "tied_init", "weight_l2"})
