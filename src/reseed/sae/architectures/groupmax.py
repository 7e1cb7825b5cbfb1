"""GroupMax: the largest of relu(p) in each of k equal runs of latents fires (sparsify).

    p = (x - b_dec) W_encᵀ + b_enc,  z = GroupMax_k(relu(p)),  x̂ = z W_dec + b_dec
    loss = FVU + α AuxK

Latents of one run compete for its one place. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from reseed.sae import codes, parts
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters
from reseed.sae.model import SAE
from reseed.sae.parts import initial
from reseed.sae.settings import ArchitectureSpec


class GroupMaxSpec(ArchitectureSpec):
    """The largest of each of k equal runs of latents fires (sparsify, `activation: groupmax`)."""

    without: ClassVar[frozenset[str]] = frozenset({"k_start"})

    architecture: Literal["groupmax"] = "groupmax"
    k: Annotated[int, Field(ge=1)] = 32
    """Groups, and so latents that may fire at a time; divides `latents`."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error."""

    @model_validator(mode="after")
    def _possible(self) -> GroupMaxSpec:
        if self.latents % self.k:
            raise ValueError(
                f"latents = {self.latents} is no multiple of k = {self.k}; groupmax needs equal "
                "groups, change one of the two"
            )
        return self


def objective(p: Parameters, batch: Batch, spec: GroupMaxSpec, at: At) -> Objective:
    """Reconstruction of a batch."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = codes.groupmax(pre, spec.k)
    x_hat, scale, fvu = parts.reconstructed(p, z, x)
    loss = fvu + parts.weighted_auxk(p, pre, x - x_hat, scale, spec.auxk_alpha, at.dead)
    return Objective(loss, fvu.detach(), z.detach(), {}, x_hat, loss - fvu)


def freeze(p: Parameters, spec: GroupMaxSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    return parts.frozen(p, {"kind": "groupmax", "k": spec.k}, about)


GROUPMAX = Architecture(
    GroupMaxSpec, initial, objective, freeze, thaw=parts.thawed, thaws=frozenset({"groupmax"})
)
