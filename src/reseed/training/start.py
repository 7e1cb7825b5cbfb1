"""The parameters that a run starts from: those of its architecture, as its options change them."""

from __future__ import annotations

import torch
from torch import Tensor

from reseed.sae.architecture import (
    Batch,
    Batches,
    Parameters,
    architecture,
    geometric_median,
    squared_variation,
    start,
)
from reseed.sae.init import independent_rows, restarted, starting_rows
from reseed.training.spec import RunSpec

_LEAST = 1e-12


def first_parameters(
    spec: RunSpec, first: Batch, batches: Batches, restarts: int = 0
) -> Parameters:
    """Parameters before training, float32 on the CPU.

    Args:
        spec: the run; its init seed decides what is drawn at random.
        first: the first batch of its stream.
        batches: all that it will learn from.
        restarts: how often it has started again; each time from other numbers.

    Raises:
        SpecError: if the start takes rows of the batch and it has too few.
    """
    sae, seed = spec.sae, restarted(spec.init_seed, restarts)
    x_centre = geometric_median(first.x).numpy()
    y_centre = None if first.y is first.x else geometric_median(first.y).numpy()
    rows = starting_rows(sae.init, sae.latents, seed, first.x.numpy(), x_centre)
    x_length = float(squared_variation(first.x) / len(first.x)) ** 0.5
    start_here = start(sae.latents, seed, x_centre, y_centre, x_length, batches, rows)
    p = architecture(sae.name).initial(sae, start_here)
    if sae.tied_init is None:
        return p
    if sae.tied_init:
        directions = p["W_enc"] / _length(p["W_enc"]).clamp_min(_LEAST)
    else:
        directions = torch.from_numpy(independent_rows(tuple(p["W_dec"].shape), seed))
    return {**p, "W_dec": directions * _length(p["W_dec"])}


def aligned(p: Parameters) -> Parameters:
    """The same with <encoder row, decoder row> = 1 for each latent (arXiv 2605.18629).

    Of the rows with that product, the one nearest to the encoder row given: what is added lies
    along the decoder row. Differentiable in both matrices. (The source is known by its abstract:
    that the product is 1 is its, the projection is ours.)

    Args:
        p: W_enc and W_dec `[..., F, D]` among them.
    """
    W_enc, W_dec = p["W_enc"], p["W_dec"]
    missing = 1.0 - (W_enc * W_dec).sum(-1, keepdim=True)
    square = W_dec.square().sum(-1, keepdim=True).clamp_min(_LEAST)
    return {**p, "W_enc": W_enc + missing / square * W_dec}


def _length(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
