"""Settings of transcoders."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class _Transcoding(ArchitectureSpec):
    target: Annotated[str, Field(min_length=1)]
    """The site that is reconstructed; it is read along with `activations.sites`."""
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""

    @model_validator(mode="after")
    def _possible(self) -> _Transcoding:
        check_k(self.k, self.latents)
        if "*" in self.target:
            raise ValueError(
                f"target = {self.target!r} is a pattern; name one site, and write a table for each"
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def label(self) -> str:
        """As shown to people."""
        return f"{super().label} to {self.output_site}"

    @property
    def shape(self) -> str:
        """Architecture, sizes and target, fit for a file name."""
        return f"{super().shape}-to-{re.sub(r'[^A-Za-z0-9._-]', '-', self.output_site)[-40:]}"

    @property
    def output_site(self) -> str:
        """The site that it reconstructs."""
        return self.target.removesuffix(":out")

    def takes(self, site: str) -> bool:
        """All sites but its own target."""
        return site != self.output_site

    @property
    def place(self) -> str:
        """For people: at which sites it can be trained."""
        return "a transcoder reads another site than its target; name that one in activations.sites"


class TranscoderSpec(_Transcoding):
    """TopK from one site to another, e.g. from what an MLP reads to what it gives (2406.11944)."""

    architecture: Literal["transcoder"] = "transcoder"


class SkipTranscoderSpec(_Transcoding):
    """A transcoder with a linear map beside the latents (arXiv 2501.18823)."""

    architecture: Literal["skip_transcoder"] = "skip_transcoder"
