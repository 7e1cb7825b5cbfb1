"""Transcoders: TopK from one site to another (arXiv 2406.11944; with TopK as arXiv 2501.18823).

    z = TopK(relu(x W_encᵀ + b_enc)),  ŷ = z W_dec + b_dec,  loss = FVU = Σ (ŷ - y)² / Σ (y - mean)²

Nothing is subtracted from the input, since b_dec belongs to the output. B batch, D input and E
output dimensions, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from reseed.sae import kernels
from reseed.sae.architecture import At, Batch, Objective, Parameters, Start, squared_variation
from reseed.sae.init import unit_rows
from reseed.sae.model import SAE
from reseed.sae.specs.transcoder import SkipTranscoderSpec, TranscoderSpec
from reseed.seeds import generator

UNIT_ROWS = frozenset({"W_dec"})
BUFFERS: frozenset[str] = frozenset()


def initial(spec: TranscoderSpec | SkipTranscoderSpec, start: Start) -> Parameters:
    """Parameters before training.

    Encoder rows as everywhere, with biases that centre the input; decoder rows in directions of
    their own, since the two sites have nothing in common yet.
    """
    numbers = generator("decoder-init", start.init_seed)
    rows = numbers.standard_normal((spec.latents, len(start.y_centre)), dtype="float32")
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.from_numpy(-(start.rows @ start.x_centre)),
        "W_dec": torch.from_numpy(unit_rows(rows)),
        "b_dec": torch.from_numpy(start.y_centre.copy()),
    }


def objective(
    p: Parameters, batch: Batch, spec: TranscoderSpec | SkipTranscoderSpec, at: At
) -> Objective:
    """The loss of a batch."""
    pre = batch.x @ p["W_enc"].T + p["b_enc"]
    z = kernels.dense(kernels.top_codes_plain(pre, spec.k), len(p["W_enc"]))
    y = z @ p["W_dec"] + p["b_dec"]
    if "W_skip" in p:
        y = y + batch.x @ p["W_skip"].T
    loss = (y - batch.y).square().sum() / squared_variation(batch.y)
    return Objective(loss, loss.detach(), z.detach(), {}, y)


def freeze(
    p: Parameters, spec: TranscoderSpec | SkipTranscoderSpec, about: Mapping[str, Any]
) -> SAE:
    """The transcoder that these parameters are; training and inference rule are the same."""
    kept: dict[str, Any] = {name: value.detach().clone() for name, value in p.items()}
    return SAE(**kept, activation={"kind": "topk", "k": spec.k}, centred=False, about=about)
