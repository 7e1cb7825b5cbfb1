"""Settings of Llama Scope's TopK."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class LlamaScopeSpec(ArchitectureSpec):
    """TopK chosen by code times decoder norm, saved as JumpReLU (Llama Scope, arXiv 2410.20526)."""

    architecture: Literal["llamascope"] = "llamascope"
    k: Annotated[int, Field(ge=1)] = 50
    """Latents that may fire at a time once annealing is over."""
    lr: Annotated[float, Field(gt=0)] | None = 8e-4
    """Peak learning rate; the paper's, for inputs scaled as it scales them."""
    anneal: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the number of latents that fire goes from D down to k."""
    threshold_rows: Annotated[int, Field(ge=1)] = 32_768
    """Rows at the end of training from which the one threshold is found."""

    @model_validator(mode="after")
    def _possible(self) -> LlamaScopeSpec:
        check_k(self.k, self.latents)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"end_to_end"})
