"""Matryoshka BatchTopK (arXiv 2503.17547): each prefix of the latents reconstructs alone.

    z = the k B largest of relu((x - b_dec) W_encᵀ + b_enc)
    x̂_m = z[:, :m] W_dec[:m] + b_dec
    loss = Σ_m Σ (x̂_m - x)² / Σ (x - mean)² + α AuxK,  m over the prefixes and the whole

Threshold and saved form are those of BatchTopK. x [B, D], z [B, F].
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from reseed.sae import parts
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.model import SAE
from reseed.sae.specs.matryoshka import MatryoshkaSpec

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
