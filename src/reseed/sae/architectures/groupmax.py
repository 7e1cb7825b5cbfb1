"""GroupMax: the largest of relu(p) in each of k equal runs of latents fires (sparsify).

    p = (x - b_dec) W_encᵀ + b_enc,  z = GroupMax_k(relu(p)),  x̂ = z W_dec + b_dec
    loss = FVU + α AuxK

Latents of one run compete for its one place. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae import parts, rules
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec, check_k


class GroupMaxSpec(ArchitectureSpec):
    """The largest of each of k equal runs of latents fires (sparsify, `activation: groupmax`)."""

    architecture: Literal["groupmax"] = "groupmax"
    k: Annotated[int, Field(ge=1)] = 32
    """Groups, and so latents that may fire at a time; divides `latents`."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error."""

    @model_validator(mode="after")
    def _possible(self) -> GroupMaxSpec:
        check_k(self.k, self.latents)
        if self.latents % self.k:
            raise ValueError(
                f"latents = {self.latents} is no multiple of k = {self.k}; groupmax needs equal "
                "groups, change one of the two"
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`."""
        return frozenset({"k_start"})


UNIT_ROWS = frozenset({"W_dec"})

BUFFERS: frozenset[str] = frozenset()


def initial(spec: GroupMaxSpec, start: Start) -> Parameters:
    """Parameters before training: decoder rows are the scaled encoder rows."""
    return parts.autoencoder(start)


def objective(p: Parameters, batch: Batch, spec: GroupMaxSpec, at: At) -> Objective:
    """Reconstruction of a batch."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = rules.apply(pre, {"kind": "groupmax", "k": spec.k}, None)
    x_hat = z @ p["W_dec"] + p["b_dec"]
    error, scale = x - x_hat, squared_variation(x)
    fvu = loss = error.square().sum() / scale
    if spec.auxk_alpha > 0 and bool(at.dead.any()):
        loss = loss + spec.auxk_alpha * parts.auxk(pre, p["W_dec"], error.detach(), at.dead) / scale
    return Objective(loss, fvu.detach(), z.detach(), {}, x_hat, loss - fvu)


def freeze(p: Parameters, spec: GroupMaxSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    return parts.frozen(p, {"kind": "groupmax", "k": spec.k}, about)
