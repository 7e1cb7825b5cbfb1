"""GroupMax: the largest of relu(p) in each of k equal runs of latents fires (sparsify).

    p = (x - b_dec) W_encᵀ + b_enc,  z = GroupMax_k(relu(p)),  x̂ = z W_dec + b_dec
    loss = FVU + α AuxK

Latents of one run compete for its one place. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reseed.sae import activations, parts
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.model import SAE
from reseed.sae.specs.groupmax import GroupMaxSpec

UNIT_ROWS = frozenset({"W_dec"})
BUFFERS: frozenset[str] = frozenset()


def initial(spec: GroupMaxSpec, start: Start) -> Parameters:
    """Parameters before training: decoder rows are the scaled encoder rows."""
    return parts.autoencoder(start)


def objective(p: Parameters, batch: Batch, spec: GroupMaxSpec, at: At) -> Objective:
    """Reconstruction of a batch."""
    x = batch.x
    pre = parts.pre_activations(p, x)
    z = activations.apply(pre, {"kind": "groupmax", "k": spec.k}, None)
    x_hat = z @ p["W_dec"] + p["b_dec"]
    error, scale = x - x_hat, squared_variation(x)
    fvu = loss = error.square().sum() / scale
    if spec.auxk_alpha > 0 and bool(at.dead.any()):
        loss = loss + spec.auxk_alpha * parts.auxk(pre, p["W_dec"], error.detach(), at.dead) / scale
    return Objective(loss, fvu.detach(), z.detach(), {}, x_hat, loss - fvu)


def freeze(p: Parameters, spec: GroupMaxSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    return parts.frozen(p, {"kind": "groupmax", "k": spec.k}, about)
