"""The parameters that a run starts from: those of its architecture, as its options change them.

Control runs in which parts of the SAE stay at their random start (arXiv 2602.14111).

F latents, D dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from reseed.formats.starts.checksums import read_start
from reseed.sae.architecture import Batch, BatchSource, Parameters, Start
from reseed.sae.architectures import architecture
from reseed.sae.model import from_arrays
from reseed.sae.parts import (
    geometric_median,
    independent_rows,
    restarted,
    squared_variation,
    starting_rows,
)
from reseed.seeds import digest
from reseed.spec.training import HELD, RunSpec
from reseed.training.scale import Scales, off_mean, raw

_LEAST = 1e-12


def first_parameters(
    spec: RunSpec,
    first: Batch,
    batches: BatchSource,
    restarts: int = 0,
    scales: Scales | None = None,
    centre: Tensor | None = None,
) -> Parameters:
    """Parameters before training, float32 on the CPU.

    The init seed decides what is drawn at random, from other numbers after each of the `restarts`.
    `scales` are what the batches were multiplied by, by site; `centre` `[D]` what was then taken
    out of those that are read.
    """
    sae, seed = spec.sae, restarted(spec.init_seed, restarts)
    if sae.published is not None:
        return _published(spec, seed, first, batches, scales or {}, centre)
    x_centre = geometric_median(first.x).numpy()
    y_centre = x_centre if first.y is first.x else geometric_median(first.y).numpy()
    rows = starting_rows(sae.init, sae.latents, seed, first.x.numpy(), x_centre)
    x_length = float(squared_variation(first.x) / len(first.x)) ** 0.5
    start = Start(rows, x_centre, y_centre, seed, x_length, batches)
    p = architecture(sae.name).initial(sae, start)
    if sae.tied_init is None:
        return p
    if sae.tied_init:
        directions = p["W_enc"] / _length(p["W_enc"]).clamp_min(_LEAST)
    else:
        directions = torch.from_numpy(independent_rows(tuple(p["W_dec"].shape), seed))
    return {**p, "W_dec": directions * _length(p["W_dec"])}


def _published(
    spec: RunSpec,
    seed: int,
    first: Batch,
    batches: BatchSource,
    scales: Scales,
    centre: Tensor | None,
) -> Parameters:
    """Those of the SAE to go on from, in units of these batches, with what the seed adds.

    With noise ν a row w becomes w + ν |w| u, u uniform on the sphere, at a cosine of about
    1 / √(1 + ν²) to w; decoder rows keep their length. Without noise nothing is drawn.
    """
    sae, (D, E) = spec.sae, (first.x.shape[1], first.y.shape[1])
    arrays = replace(read_start(sae, (D, E)), about={})
    read, written = (1.0 / scales.get(site, 1.0) for site in (spec.site, spec.target))
    start = Start(
        np.zeros((0, D), np.float32),
        np.zeros(D, np.float32),
        np.zeros(E, np.float32),
        seed,
        float(squared_variation(first.x) / len(first.x)) ** 0.5,
        batches,
    )
    thaw = architecture(sae.name).thaw
    assert thaw is not None, "checked with its rule"
    scaled = raw(from_arrays(arrays), read, written)
    if centre is not None:
        scaled = off_mean(scaled, -centre, written=spec.target == spec.site)
    p = thaw(scaled, sae, start)
    if not sae.init_noise:
        return p
    for name in ("W_enc", "W_dec"):
        lengths = _length(p[name])
        u = independent_rows(tuple(p[name].shape), int(digest([name, seed], 15), 16))
        moved = p[name] + sae.init_noise * lengths * torch.from_numpy(u)
        p[name] = moved * lengths / _length(moved) if name == "W_dec" else moved
    return p


def aligned(p: Parameters) -> Parameters:
    """The same with <encoder row, decoder row> = 1 for each latent (arXiv 2605.18629).

    Of the rows with that product, the one nearest to the encoder row given: what is added lies
    along the decoder row. Differentiable in both matrices, `[..., F, D]`. (The source is known by
    its abstract: that the product is 1 is its, the projection is ours.)
    """
    return {**p, "W_enc": torch.addcmul(p["W_enc"], _along(p), p["W_dec"])}


def through_aligned(p: Parameters, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by W_enc and W_dec as they are, from that by the encoder rows that `aligned` makes.

    With e, d the rows, a = (1 - e d) / d², g the gradient and s = (g d) / d²:
    g - s d for the encoder row, a g - s e - 2 a s d for the decoder row.
    """
    W_enc, W_dec, along = p["W_enc"], p["W_dec"], _along(p)
    share = _dot(gradient, W_dec) / _dot(W_dec, W_dec).clamp_min(_LEAST)
    decoder = torch.mul(gradient, along).addcmul_(W_enc, -share).addcmul_(W_dec, -2 * along * share)
    return torch.addcmul(gradient, -share, W_dec), decoder


def _along(p: Parameters) -> Tensor:
    """What encoder rows lack of a product of 1, in decoder rows; `[..., F, 1]`."""
    square = _dot(p["W_dec"], p["W_dec"]).clamp_min(_LEAST)
    return (1.0 - _dot(p["W_enc"], p["W_dec"])) / square


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b).unsqueeze(-1)


def _length(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True)


FROZEN = {control: rows for control, rows in HELD.items() if control != "soft_frozen_decoder"}
"""The rows that a control never changes; biases are trained."""

LEAST_COSINE = 0.8
"""What a decoder row of `soft_frozen_decoder` keeps to where it started."""


def keep_near(rows: Tensor, start: Tensor, least: float = LEAST_COSINE) -> None:
    """Turn rows back, in place, until each has at least this cosine to where it started.

    A row that went too far becomes the nearest unit vector that has not: it keeps its direction
    across the start. Both are `[F, D]`, of length 1.
    """
    cosine = (rows * start).sum(1)
    far = (cosine < least).nonzero()[:, 0]
    if not len(far):
        return
    first = start[far]
    across = rows[far] - cosine[far, None] * first
    length = torch.linalg.vector_norm(across, dim=1, keepdim=True)
    # a row that points exactly away from its start has no direction across it: back to the start
    turned = least * first + (1.0 - least**2) ** 0.5 * across / length.clamp_min(1e-12)
    turned /= torch.linalg.vector_norm(turned, dim=1, keepdim=True)
    rows[far] = turned
