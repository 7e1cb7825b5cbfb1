"""ReLU with an L1 penalty on the codes and decoder rows of length 1 (arXiv 2309.08600).

    z = relu((x - b_dec) W_encᵀ + b_enc),  x̂ = z W_dec + b_dec
    loss = FVU + λ Σ |z| / (B σ √D),  σ² = Σ (x - mean over the batch)² / (B D)

FVU and the scaled L1 norm do not change with the unit that activations are measured in, so that
one λ means the same at every site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.init import unit_rows
from reseed.sae.model import SAE
from reseed.sae.specs.relu import ReLUSpec

UNIT_ROWS = frozenset({"W_dec"})
BUFFERS: frozenset[str] = frozenset()


def initial(spec: ReLUSpec, start: Start) -> Parameters:
    """Parameters before training: decoder rows are the normalised encoder rows."""
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.zeros(spec.latents),
        "W_dec": torch.from_numpy(unit_rows(start.rows)),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
    }


def objective(p: Parameters, batch: Batch, spec: ReLUSpec, at: At) -> Objective:
    """Reconstruction and penalty of a batch."""
    x = batch.x
    z = torch.relu((x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"])
    scale = squared_variation(x)
    x_hat = z @ p["W_dec"] + p["b_dec"]
    fvu = (x_hat - x).square().sum() / scale
    length = (scale / len(x)).sqrt()
    sparsity = at.penalty * spec.penalty * z.sum() / (len(x) * length)
    return Objective(fvu + sparsity, fvu.detach(), z.detach(), {}, x_hat, sparsity)


def freeze(p: Parameters, spec: ReLUSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    return SAE(
        W_enc=p["W_enc"].detach().clone(),
        W_dec=p["W_dec"].detach().clone(),
        b_enc=p["b_enc"].detach().clone(),
        b_dec=p["b_dec"].detach().clone(),
        activation={"kind": "relu"},
        about=about,
    )
