"""Settings of crosscoders."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class CrosscoderSpec(ArchitectureSpec):
    """One dictionary for several sites, read and written together.

    L1 on codes times summed decoder norms (transformer-circuits, October 2024), or with `k`
    BatchTopK on the same product (arXiv 2504.02922).
    """

    architecture: Literal["crosscoder"] = "crosscoder"
    parts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)]
    """Widths of the sites that are joined, in their order."""
    k: Annotated[int, Field(ge=1)] | None = None
    """Latents that fire at a time on average; given, there is no penalty."""
    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty without `k`, as that of `relu`."""
    threshold_rows: Annotated[int, Field(ge=1)] = 32_768
    """With `k`, rows at the end of training from which the one threshold is found."""

    @model_validator(mode="after")
    def _possible(self) -> CrosscoderSpec:
        if self.k is not None:
            check_k(self.k, self.latents)
            if "penalty" in self.model_fields_set:
                raise ValueError("k and penalty are two ways to one end; take one of them out")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"l1_": self.penalty} if self.k is None else {"k": self.k}

    def takes(self, site: str) -> bool:
        """Joined sites of as many parts."""
        return site.count("+") + 1 == len(self.parts)

    @property
    def place(self) -> str:
        """For people: at which sites it can be trained."""
        joined = "+".join(f"SITE{number + 1}" for number in range(len(self.parts)))
        return f"its parts have {len(self.parts)} widths, so it reads a joined site, {joined!r}"

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"end_to_end"})
