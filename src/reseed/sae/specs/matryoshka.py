"""Settings of Matryoshka BatchTopK."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.batchtopk import BatchSpec

Share = Annotated[float, Field(gt=0, lt=1)]


class MatryoshkaSpec(BatchSpec):
    """BatchTopK in which nested prefixes of the latents reconstruct alone (arXiv 2503.17547)."""

    architecture: Literal["matryoshka"] = "matryoshka"
    prefixes: tuple[Share, ...] = (1 / 32, 3 / 32, 7 / 32, 15 / 32)
    """Ends of the nested prefixes as shares of the latents, the whole left out; as in the paper."""

    @model_validator(mode="after")
    def _nested(self) -> MatryoshkaSpec:
        if any(a >= b for a, b in pairwise((0, *self.widths))):
            raise ValueError(
                f"prefixes = {list(self.prefixes)} of {self.latents} latents end at "
                f"{list(self.widths)}; each must have a latent more than the one before it: name "
                "them in rising order, or take more latents"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Latents in each prefix, the whole last."""
        return (*(int(share * self.latents) for share in self.prefixes), self.latents)

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"end_to_end"})
