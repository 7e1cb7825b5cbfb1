"""What a study says about its calibration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reseed.records import Spec

Share = Annotated[float, Field(gt=0, le=1)]


class CalibrationSpec(Spec):
    """When a latent counts as a true feature, and how many runs it is judged by."""

    feature: Share = 0.9
    """Cosine of a decoder row to a true feature from which on the latent is that feature."""
    capture: Share = 0.9
    """Length of a decoder row inside a planted subspace from which on the latent belongs to it."""
    stable: Share = 0.8
    """Mean squared cosine of principal angles from which on two spans are one subspace."""
    subset: Annotated[int, Field(ge=2)] = 3
    """M of the headline: so many runs judge, the others are held out as the truth. All sizes are in
    the tables."""
    bins: Annotated[int, Field(ge=1)] = 4
    """Of firing rate, with equally many latents (or true features) in each."""
    draws: Annotated[int, Field(ge=1)] = 100
    """Of random latents, for the null of each planted subspace."""
