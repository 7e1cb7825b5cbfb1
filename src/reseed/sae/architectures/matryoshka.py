"""Matryoshka BatchTopK (arXiv 2503.17547): each prefix of the latents reconstructs alone.

    z = the k B largest of relu((x - b_dec) W_encᵀ + b_enc)
    x̂_m = z[:, :m] W_dec[:m] + b_dec
    loss = Σ_m Σ (x̂_m - x)² / Σ (x - mean)² + α AuxK,  m over the prefixes and the whole

Threshold and saved form are those of BatchTopK. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae import parts
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.architectures.batchtopk import BatchSpec
from reseed.sae.lazy import torch
from reseed.sae.model import SAE

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


UNIT_ROWS = frozenset({"W_dec"})

BUFFERS = frozenset({"threshold"})


def initial(spec: MatryoshkaSpec, start: Start) -> Parameters:
    """Parameters before training; a threshold of -1 stands for none yet."""
    return parts.autoencoder(start) | {"threshold": torch.tensor(-1.0)}


def objective(p: Parameters, batch: Batch, spec: MatryoshkaSpec, at: At) -> Objective:
    """Reconstruction by every prefix; `fvu` is that of the whole."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = parts.batch_top(pre, spec.k)
    scale = squared_variation(x)
    loss = torch.zeros((), dtype=x.dtype, device=x.device)
    error, fvu = x - p["b_dec"], loss
    for first, end in pairwise((0, *spec.widths)):
        error = error - z[:, first:end] @ p["W_dec"][first:end]
        fvu = error.square().sum() / scale
        loss = loss + fvu
    if spec.auxk_alpha > 0 and bool(at.dead.any()):
        loss = loss + spec.auxk_alpha * parts.auxk(pre, p["W_dec"], error.detach(), at.dead) / scale
    codes = z.detach()
    threshold = parts.running_threshold(p["threshold"], codes, spec.threshold_momentum)
    return Objective(loss, fvu.detach(), codes, {"threshold": threshold})


def freeze(p: Parameters, spec: MatryoshkaSpec, about: Mapping[str, Any]) -> SAE:
    """As JumpReLU with the running threshold; before the first step by the batch rule."""
    return parts.batch_frozen(p, spec.k, about)
