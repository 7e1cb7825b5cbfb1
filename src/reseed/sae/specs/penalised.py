"""Settings of all architectures whose sparsity comes from a penalty."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec


class PenalisedSpec(ArchitectureSpec):
    """A penalty, and what brings it to the number of latents that should fire."""

    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty beside the FVU; where it starts if there is a `target_l0`."""
    target_l0: Annotated[float, Field(gt=0)] | None = None
    """Latents that should fire in a row at the end of training; the penalty is moved until they
    do."""
    penalty_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the penalty grows linearly from 0."""

    @model_validator(mode="after")
    def _reachable(self) -> PenalisedSpec:
        if self.target_l0 is not None and self.target_l0 > self.latents:
            raise ValueError(
                f"target_l0 = {self.target_l0:g} is above latents = {self.latents}; no more "
                "latents can fire than there are, lower target_l0 or raise latents"
            )
        if self.target_l0 is not None and self.penalty == 0:
            raise ValueError(
                f"target_l0 = {self.target_l0:g} is reached by moving the penalty, and a penalty "
                "of 0 cannot be moved; leave penalty out, or take target_l0 out"
            )
        return self

    @property
    def promised_l0(self) -> float | None:
        """See `ArchitectureSpec`."""
        return self.target_l0

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"p": self.penalty} if self.target_l0 is None else {"l0_": self.target_l0}
