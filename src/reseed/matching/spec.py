"""What a study says about matching."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec


class MatchingSpec(Spec):
    """How a latent counts as shared."""

    tau: Annotated[float, Field(gt=0, le=1, multiple_of=0.01)] = 0.7
    """The paper's threshold on both cosines; the whole curve over tau is given beside it, in
    steps of 0.01."""
