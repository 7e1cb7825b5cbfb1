"""Settings of ReLU with an L1 penalty."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from reseed.sae.specs.common import ArchitectureSpec


class ReLUSpec(ArchitectureSpec):
    """ReLU with an L1 penalty on the codes and unit decoder rows (arXiv 2309.08600)."""

    architecture: Literal["relu"] = "relu"
    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty, in parts of the root mean square of the centred activations."""

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"l1_": self.penalty}
