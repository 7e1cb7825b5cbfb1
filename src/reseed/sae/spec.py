"""What a study says about an architecture. Read without torch; one record each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reseed.records import Spec


class TopKSpec(Spec):
    """TopK of Gao et al. (arXiv 2406.04093) with the recipe of arXiv 2501.16615."""

    architecture: Literal["topk"] = "topk"
    latents: Annotated[int, Field(ge=2)]
    """F, the width."""
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error; 0 as in the paper."""
    dead_after: Annotated[int, Field(ge=1)] = 10_000_000
    """Tokens without firing after which a latent counts as dead."""
    lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; left out, the paper's 2e-4 / sqrt(latents / 2^14)."""

    @model_validator(mode="after")
    def _possible(self) -> TopKSpec:
        if self.k > self.latents:
            raise ValueError(
                f"k = {self.k} is above latents = {self.latents}; no more latents can fire than "
                "there are, lower k or raise latents"
            )
        return self

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up."""
        return self.lr if self.lr is not None else 2e-4 / (self.latents / 2**14) ** 0.5

    @property
    def label(self) -> str:
        """As shown to people."""
        return f"topk {self.latents:,} k{self.k}"


SAESpec = TopKSpec
"""Every architecture that can be trained; a union with one member so far."""
