"""Settings of the gated SAE."""

from __future__ import annotations

from typing import Literal

from reseed.sae.specs.penalised import PenalisedSpec


class GatedSpec(PenalisedSpec):
    """One encoder decides what fires, a rescaled one how strongly (arXiv 2404.16014)."""

    architecture: Literal["gated"] = "gated"

    @property
    def loops(self) -> bool:
        """See `ArchitectureSpec`."""
        return True
