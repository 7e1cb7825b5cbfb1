"""Settings of dictionaries that are found without training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae.specs.common import ArchitectureSpec, check_k

_STEPS = frozenset(
    {
        "aligned",
        "end_to_end",
        "init",
        "k_start",
        "lr_schedule",
        "mutual",
        "optimizer",
        "tied_init",
        "weight_l2",
    }
)


class _Fitted(ArchitectureSpec):
    fit_rows: Annotated[int, Field(ge=2)] = 65_536
    """Rows at the start of training on which it is found; fewer if training is shorter."""

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`: what is not trained by steps has nothing that steps could do."""
        return _STEPS


class _Signed(_Fitted):
    k: Annotated[int, Field(ge=1)] | None = None
    """Latents that may fire at a time, the strongest; left out, all that are positive."""

    @model_validator(mode="after")
    def _possible(self) -> _Signed:
        if self.latents % 2:
            raise ValueError(
                f"latents = {self.latents} is odd; each component is two latents, one a sign"
            )
        if self.k is not None:
            check_k(self.k, self.latents)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {} if self.k is None else {"k": self.k}


class PCASpec(_Signed):
    """The first latents / 2 principal components, each with both signs."""

    architecture: Literal["pca"] = "pca"


class ICASpec(_Signed):
    """latents / 2 independent components by FastICA (Hyvärinen, 1999), each with both signs."""

    architecture: Literal["ica"] = "ica"
    rounds: Annotated[int, Field(ge=1)] = 200
    """Iterations at the most."""


class NMFSpec(_Fitted):
    """Non-negative factors of rows less each dimension's smallest value (Lee and Seung, 1999)."""

    architecture: Literal["nmf"] = "nmf"
    fit_rows: Annotated[int, Field(ge=2)] = 16_384
    """See `PCASpec`; fewer, since this iteration is the slowest."""
    rounds: Annotated[int, Field(ge=1)] = 200
    """Iterations at the most."""


class KMeansSpec(_Fitted):
    """Each row is its nearest centroid (k-means++ start and Lloyd's iteration)."""

    architecture: Literal["kmeans"] = "kmeans"
    rounds: Annotated[int, Field(ge=1)] = 100
    """Iterations at the most."""
