"""Settings of TopK."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class TopKSpec(ArchitectureSpec):
    """The k largest pre-activations of each row fire (arXiv 2406.04093; recipe of 2501.16615)."""

    architecture: Literal["topk"] = "topk"
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error; 0 as in the paper."""
    multi_topk: bool = False
    """Whether 4 k latents shall reconstruct too, at an eighth of the weight (2406.04093, A.2)."""

    @model_validator(mode="after")
    def _possible(self) -> TopKSpec:
        check_k(self.k, self.latents)
        return self

    @property
    def _later(self) -> frozenset[str]:
        return super()._later | {"multi_topk"}

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k} | ({"multi": 4} if self.multi_topk else {})

    @property
    def loops(self) -> bool:
        """See `ArchitectureSpec`."""
        return not self.multi_topk
