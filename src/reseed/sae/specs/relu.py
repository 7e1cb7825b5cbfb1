"""Settings of ReLU with an L1 penalty."""

from __future__ import annotations

from typing import Any, Literal

from reseed.sae.specs.penalised import PenalisedSpec


class ReLUSpec(PenalisedSpec):
    """ReLU with an L1 penalty (arXiv 2309.08600; or as Anthropic's update of April 2024)."""

    architecture: Literal["relu"] = "relu"
    decoder: Literal["unit", "weighted"] = "unit"
    """`unit`: decoder rows have length 1; `weighted`: they are free, and the penalty on each code
    is weighted by the length of its row (April 2024)."""

    @property
    def unit_rows(self) -> bool:
        """See `ArchitectureSpec`."""
        return self.decoder == "unit"

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        weighted = {} if self.unit_rows else {"decoder_": self.decoder}
        return super().settings | weighted

    @property
    def loops(self) -> bool:
        """See `ArchitectureSpec`."""
        return self.unit_rows
