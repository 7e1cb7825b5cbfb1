"""Settings of archetypal SAEs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k


class ArchetypalSpec(ArchitectureSpec):
    """TopK with decoder rows that stay near the hull of k-means centroids (arXiv 2502.12892)."""

    architecture: Literal["archetypal"] = "archetypal"
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""
    centroids: Annotated[int, Field(ge=2)] | None = None
    """Points of the hull; left out, as many as latents."""
    relax: Annotated[float, Field(ge=0)] = 1.0
    """How far a row may leave the hull, in root mean square lengths of the centroids: the paper's
    δ; 0 for the strict form."""
    start: Literal["independent", "shared"] = "independent"
    """`shared`: every seed starts from the centroids themselves, as the authors' code does (see
    arXiv 2606.02061); `independent`: from mixtures of them that the init seed draws."""
    fit_rows: Annotated[int, Field(ge=2)] = 32_768
    """Rows at the start of training on which the centroids are found."""

    @model_validator(mode="after")
    def _possible(self) -> ArchetypalSpec:
        check_k(self.k, self.latents)
        if self.start == "shared" and self.points < self.latents:
            raise ValueError(
                f"start = 'shared' gives each latent a centroid of its own, but there are "
                f"{self.points} centroids for {self.latents} latents; raise centroids"
            )
        return self

    @property
    def points(self) -> int:
        """P, centroids."""
        return self.latents if self.centroids is None else self.centroids

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k, "relax": self.relax, "": self.start}

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"aligned", "end_to_end", "mutual", "tied_init", "weight_l2"})
