"""Settings of JumpReLU."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from reseed.sae.specs.penalised import PenalisedSpec


class JumpReLUSpec(PenalisedSpec):
    """JumpReLU with a learnt threshold (arXiv 2407.14435; tanh penalty: Anthropic, January 2025).

    One unit of length is the root mean square distance of the first batch's rows to their mean.
    """

    architecture: Literal["jumprelu"] = "jumprelu"
    penalty: Annotated[float, Field(ge=0)] = 0.005
    """FVU that a latent must be worth to fire; where it starts if there is a `target_l0`."""
    sparsity: Literal["l0", "tanh"] = "l0"
    """What is penalised: the number of latents that fire, or tanh of their codes. With `tanh`
    decoder rows are free, and the threshold teaches the encoder too."""
    bandwidth: Annotated[float, Field(gt=0)] = 0.001
    """Width of the rectangle through which the threshold learns, in units of length."""
    threshold: Annotated[float, Field(gt=0)] = 0.001
    """Where thresholds start, in units of length."""
    tanh_scale: Annotated[float, Field(gt=0)] = 4.0
    """c in tanh(c code / σ), where σ is the unit of length over the root of D."""
    pre_act: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that brings dead latents back, `tanh` only; 3e-6 in the update."""

    @property
    def unit_rows(self) -> bool:
        """See `ArchitectureSpec`."""
        return self.sparsity == "l0"

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        tanh = {} if self.unit_rows else {"sparsity_": self.sparsity}
        return super().settings | tanh

    @property
    def loops(self) -> bool:
        """See `ArchitectureSpec`."""
        return self.unit_rows
