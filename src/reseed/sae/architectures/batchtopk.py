"""BatchTopK (arXiv 2412.06410): the k B largest pre-activations of a batch fire.

    z = the k B largest of relu((x - b_dec) W_encᵀ + b_enc),  x̂ = z W_dec + b_dec
    loss = FVU + α AuxK
    θ ← m θ + (1 - m) min {z : z > 0}

After training rows come one by one, so it is saved as JumpReLU: relu(p) where p > θ. The paper
takes θ as the mean over batches of the smallest code that fires; the running mean follows it
through training, as in the libraries. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae import parts
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.lazy import torch
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec, check_k


class BatchSpec(ArchitectureSpec):
    """What all architectures with the batch rule have in common."""

    k: Annotated[int, Field(ge=1)] = 32
    """Latents that fire in a row, on average over a batch."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of the auxiliary loss that lets dead latents explain the error."""
    threshold_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the running mean of the smallest code that fires, which is the threshold at inference."""

    @model_validator(mode="after")
    def _possible(self) -> BatchSpec:
        check_k(self.k, self.latents)
        return self

    @property
    def promised_l0(self) -> float | None:
        """See `ArchitectureSpec`."""
        return self.k

    @property
    def loops(self) -> bool:
        """See `ArchitectureSpec`."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {"k": self.k}


class BatchTopKSpec(BatchSpec):
    """The k B largest pre-activations of a batch fire; saved as JumpReLU (arXiv 2412.06410)."""

    architecture: Literal["batchtopk"] = "batchtopk"


UNIT_ROWS = frozenset({"W_dec"})

BUFFERS = frozenset({"threshold"})


def initial(spec: BatchTopKSpec, start: Start) -> Parameters:
    """Parameters before training; a threshold of -1 stands for none yet."""
    return parts.autoencoder(start) | {"threshold": torch.tensor(-1.0)}


def objective(p: Parameters, batch: Batch, spec: BatchTopKSpec, at: At) -> Objective:
    """Reconstruction by the batch rule, and the threshold's next value."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = parts.batch_top(pre, spec.k)
    x_hat = z @ p["W_dec"] + p["b_dec"]
    error, scale = x - x_hat, squared_variation(x)
    fvu = loss = error.square().sum() / scale
    if spec.auxk_alpha > 0 and bool(at.dead.any()):
        loss = loss + spec.auxk_alpha * parts.auxk(pre, p["W_dec"], error.detach(), at.dead) / scale
    codes = z.detach()
    threshold = parts.running_threshold(p["threshold"], codes, spec.threshold_momentum)
    return Objective(loss, fvu.detach(), codes, {"threshold": threshold}, x_hat, loss - fvu)


def freeze(p: Parameters, spec: BatchTopKSpec, about: Mapping[str, Any]) -> SAE:
    """As JumpReLU with the running threshold; before the first step by the batch rule."""
    return parts.batch_frozen(p, spec.k, about)
