"""What a study says about its statistics."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec


class StabilitySpec(Spec):
    """How chance is measured."""

    null_draws: Annotated[int, Field(ge=1)] = 3
    """Draws of the covariance-matched null for each pair of runs."""
    dense_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Firing rate above which a latent counts as dense."""
