"""What a batch says to a TopK SAE, on a CPU, without one array of the size of the dense codes.

The same loss and gradients as `topk.step`, its plain twin, but gradients of the two matrices are
kept as the entries that they are made of. The encoder product is the only dense work left.

B batch, D dimensions, F latents, K active.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.sae import encode, workers
from reseed.sae import step_kernels as loops
from reseed.sae.architecture import Parameters
from reseed.sae.architectures.topk import auxk_size
from reseed.sae.encode import Screen
from reseed.sae.kernels import Codes
from reseed.sae.specs.topk import TopKSpec

Floats = NDArray[np.float32]

ROWS = 128
"""Batch rows of a piece of work."""
LATENTS = 512
"""Latents of a piece of work; sums are added piece by piece, so it decides how they are rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one batch says; see `topk.Step`."""

    x: Floats
    """[B, D] what the encoder read"""
    residual: Floats
    """[B, D], or [2 B, D] with those of the auxiliary loss behind"""
    entries: loops.Entries
    b_enc: Floats
    """[F] gradient"""
    b_dec: Floats
    """[D] gradient"""
    norm: float
    """of the gradient of all that is trained"""
    fvu: float
    l0: float
    fired: Tensor
    """[F] bool"""


def find(
    p: Parameters,
    x: Tensor,
    spec: TopKSpec,
    dead: Tensor,
    screen: Screen,
    *,
    trained: frozenset[str],
    threads: int,
) -> Found:
    """Loss and gradients of a batch.

    Args:
        p: the parameters, float32.
        x: `[B, D]` float32.
        spec: k and the weight of the auxiliary loss.
        dead: `[F]` bool, latents silent for longer than `dead_after`.
        screen: of W_enc as it is now.
        trained: names of the parameters that the norm is of.
        threads: to use.
    """
    W_enc, b_enc = p["W_enc"].numpy(), p["b_enc"].numpy()
    rows = np.ascontiguousarray(x.numpy())
    centred = np.empty_like(rows)
    scale = loops.centre(rows, p["b_dec"].numpy(), rows.mean(0), centred)
    step = np.float32(2.0 / scale) if scale > 0 else np.float32(np.nan)
    codes = encode.codes(centred, W_enc, b_enc, screen, spec.k, threads)
    parts = [_decoded(codes, p, centred, np.float32(-1.0), step, threads)]
    if spec.auxk_alpha > 0 and bool(dead.any()):
        left = parts[0].residual, np.float32(scale / 2.0)
        parts.append(_auxiliary(p, centred, *left, spec, dead, screen, threads))
    entries = _by_latent(parts, len(W_enc))
    residual = parts[0].residual if len(parts) == 1 else np.concatenate([q.residual for q in parts])
    b_dec = parts[0].residual.sum(0)
    bias, through, squared = _norms(entries, centred, residual, W_enc, trained, threads)
    b_dec -= through
    squared += float(np.square(b_dec, dtype=np.float64).sum())
    fired = torch.zeros(len(W_enc), dtype=torch.bool)
    fired[codes.latents[codes.values > 0]] = True
    return Found(
        x=centred,
        residual=residual,
        entries=entries,
        b_enc=bias,
        b_dec=b_dec,
        norm=math.sqrt(squared) if squared >= 0 else math.nan,
        fvu=float(parts[0].loss.sum()) / scale if scale > 0 else math.nan,
        l0=float((codes.values > 0).sum()) / len(rows),
        fired=fired,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Codes of a batch with what they leave."""

    codes: Codes
    residual: Floats
    flow: Floats
    loss: NDArray[np.float64]


def _decoded(
    codes: Codes, p: Parameters, start: Floats, before: np.float32, after: np.float32, threads: int
) -> _Part:
    values, latents = codes.values.numpy(), codes.latents.numpy()
    residual, flow, loss = np.empty_like(start), np.empty_like(values), np.empty(len(start))
    W_dec = p["W_dec"].numpy()

    def work(piece: int) -> None:
        first, stop = piece * ROWS, min(len(start), (piece + 1) * ROWS)
        loops.decode(
            first, stop, values, latents, W_dec, start, before, after, residual, flow, loss
        )

    workers.run(work, range(math.ceil(len(start) / ROWS)), threads)
    return _Part(codes, residual, flow, loss)


def _auxiliary(
    p: Parameters,
    x: Floats,
    residual: Floats,
    unit: np.float32,
    spec: TopKSpec,
    dead: Tensor,
    screen: Screen,
    threads: int,
) -> _Part:
    """The same for the auxiliary loss, by the same loops on the rows of dead latents."""
    rows = dead.nonzero()[:, 0]
    active, share = auxk_size(x.shape[1], len(rows))
    W_enc, b_enc = p["W_enc"][rows].numpy(), p["b_enc"][rows].numpy()
    found = encode.codes(x, W_enc, b_enc, screen.of(rows), active, threads)
    codes = Codes(found.values, rows[found.latents])
    weight = np.float32(spec.auxk_alpha * share / unit)
    return _decoded(codes, p, residual, unit, weight, threads)


def _by_latent(parts: list[_Part], latents: int) -> loops.Entries:
    starts = np.zeros(latents + 1, np.int64)
    given = [(q.codes.values.numpy(), q.flow, q.codes.latents.numpy()) for q in parts]
    for values, _, chosen in given:
        loops.count_entries(values, chosen, starts)
    starts = np.cumsum(starts)
    fill, count = starts[:-1].copy(), int(starts[-1])
    rows, both = np.empty(count, np.int32), np.empty((2, count), np.float32)
    for i, (values, flow, chosen) in enumerate(given):
        loops.place_entries(values, flow, chosen, i * len(values), fill, rows, both[0], both[1])
    return loops.Entries(starts, rows, both[0], both[1])


def _norms(
    entries: loops.Entries,
    x: Floats,
    residual: Floats,
    W_enc: Floats,
    trained: frozenset[str],
    threads: int,
) -> tuple[Floats, Floats, float]:
    """Gradient of b_enc, what it sends through the encoder to b_dec, and the squared norm."""
    latents, dimensions = W_enc.shape
    pieces = math.ceil(latents / LATENTS)
    bias, squared = np.empty(latents, np.float32), np.empty(pieces)
    through = np.empty((pieces, dimensions), np.float32)
    encoder, decoder = "W_enc" in trained, "W_dec" in trained

    def work(piece: int) -> None:
        stretch = piece * LATENTS, min(latents, (piece + 1) * LATENTS)
        squared[piece] = loops.norms(
            *stretch, *entries, x, residual, W_enc, encoder, decoder, bias, through[piece]
        )

    workers.run(work, range(pieces), threads)
    return bias, cast("Floats", through.sum(0)), float(squared.sum())
