"""Settings of p-annealing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.penalised import PenalisedSpec


class PAnnealSpec(PenalisedSpec):
    """ReLU with an Lp penalty whose p falls from 1 towards 0 (arXiv 2408.00113)."""

    architecture: Literal["panneal"] = "panneal"
    p_end: Annotated[float, Field(gt=0, le=1)] = 0.2
    """p at the end of training; it starts at 1."""
    anneal_from: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps after which p begins to fall."""
    changes: Annotated[int, Field(ge=1)] = 10
    """Equal stretches of steps, each with a p of its own."""

    @model_validator(mode="after")
    def _falls(self) -> PAnnealSpec:
        if self.changes == 1 and self.p_end < 1:
            raise ValueError(
                "changes = 1 leaves no step between p = 1 and p_end; take changes of 2 or more"
            )
        return self
