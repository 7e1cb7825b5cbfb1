"""Gated SAE (arXiv 2404.16014): one path decides what fires, the other how strongly.

    h = (x - b_dec) W_encᵀ,  g = h + b_gate
    z = 1[g > 0] relu(e^r h + b_mag),  x̂ = z W_dec + b_dec
    loss = FVU + λ Σ relu(g) / (B ℓ) + Σ (relu(g) W_dec' + b_dec' - x)² / Σ (x - mean)²

with W_dec' and b_dec' held constant, so that the gate learns to reconstruct without the decoder
learning from it, and ℓ² = Σ (x - mean over the batch)² / B. Decoder rows have length 1. With
p = e^r h + b_mag the gate is p > b_mag - e^r b_gate, so it is saved as JumpReLU, exactly. x [B, D],
g and z [B, F]; r, b_gate, b_mag [F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from reseed.sae import parts, torch
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters, Start
from reseed.sae.model import SAE
from reseed.sae.settings import PenalisedSpec


class GatedSpec(PenalisedSpec):
    """One encoder decides what fires, a rescaled one how strongly (arXiv 2404.16014)."""

    architecture: Literal["gated"] = "gated"


def initial(spec: GatedSpec, start: Start) -> Parameters:
    """Parameters before training; r and both biases are 0."""
    p = parts.autoencoder(start)
    zeros = p.pop("b_enc")
    return p | {"b_gate": zeros, "b_mag": zeros.clone(), "r_mag": zeros.clone()}


def objective(p: Parameters, batch: Batch, spec: GatedSpec, at: At) -> Objective:
    """Reconstruction, penalty on the gate and its own reconstruction of a batch."""
    x = batch.x
    h = (x - p["b_dec"]) @ p["W_enc"].T
    gate = h + p["b_gate"]
    z = (gate > 0) * torch.relu(p["r_mag"].exp() * h + p["b_mag"])
    x_hat, scale, fvu = parts.reconstructed(p, z, x)
    opened = torch.relu(gate)
    by_gate = opened @ p["W_dec"].detach() + p["b_dec"].detach()
    aux = (by_gate - x).square().sum() / scale
    length = (scale / len(x)).sqrt()
    sparsity = opened.sum() / (len(x) * length)
    beside = at.penalty * spec.penalty * sparsity + aux
    return Objective(fvu + beside, fvu.detach(), z.detach(), {}, x_hat, beside)


def freeze(p: Parameters, spec: GatedSpec, about: Mapping[str, Any]) -> SAE:
    """As JumpReLU with a threshold for each latent."""
    r, b_gate, b_mag = (p[name].detach() for name in ("r_mag", "b_gate", "b_mag"))
    encoder = {"W_enc": p["W_enc"].detach() * r.exp()[:, None], "b_enc": b_mag}
    return parts.frozen(dict(p) | encoder, {"kind": "jumprelu"}, about, b_mag - r.exp() * b_gate)


def thaw(sae: SAE, spec: GatedSpec, start: Start) -> Parameters:
    """To go on from JumpReLU, with r = 0: its threshold is what the two biases differ by."""
    assert sae.threshold is not None, "jumprelu has thresholds"
    p = parts.thawed(sae, spec, start)
    b = p.pop("b_enc")
    return p | {"b_gate": b - sae.threshold, "b_mag": b, "r_mag": torch.zeros_like(b)}


GATED = Architecture(
    GatedSpec, initial, objective, freeze, thaw=thaw, thaws=frozenset({"jumprelu"})
)
