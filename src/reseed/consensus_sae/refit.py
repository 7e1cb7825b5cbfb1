"""A new encoder for a dictionary that is kept: training with the decoder frozen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, TrainingError
from reseed.events import Events
from reseed.evidence.rows import Firing, Reader, firing_of
from reseed.records import SAEArrays
from reseed.sae.architecture import Parameters
from reseed.sae.architectures import topk
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.model import SAE
from reseed.spec.training import TrainingSpec
from reseed.subjects.source import BlockSource
from reseed.training.schedule import warmup_then_linear

LEARNED = ("W_enc", "b_enc", "b_dec")


def refit(
    start: SAEArrays,
    batch: Callable[[int], Tensor],
    spec: TopKSpec,
    training: TrainingSpec,
    show: Callable[[int, float], None] = lambda step, fvu: None,
) -> SAEArrays:
    """Train encoder and biases of a TopK SAE; its decoder rows stay as they are.

    The step is that of `reseed.sae.architectures.topk`, with the decoder's gradient left out;
    optimiser and schedule are those of training. Nothing is drawn at random: equal batches give
    equal results.

    Args:
        start: F latents with decoder rows of length 1.
        batch: number of a step to its float32 `[B, D]`.
        spec: latents, k and learning rate; F must be its latents.
        training: tokens, batch, warm-up and clipping.
        show: told the step and its FVU.

    Returns:
        The SAE with its new encoder; `about` is that of `start`.

    Raises:
        SpecError: if `start` does not fit `spec`.
        TrainingError: if loss or gradient are NaN or infinite.
    """
    if start.activation != {"kind": "topk", "k": spec.k} or len(start.W_enc) != spec.latents:
        raise SpecError(
            f"the SAE has {len(start.W_enc)} latents and the rule {dict(start.activation)}; to be "
            f"refitted are {spec.latents} latents with TopK of {spec.k}"
        )
    p: Parameters = {
        name: torch.from_numpy(np.array(getattr(start, name), dtype=np.float32))
        for name in (*LEARNED, "W_dec")
    }
    learned = {name: torch.nn.Parameter(p[name]) for name in LEARNED}
    p |= {name: value.data for name, value in learned.items()}
    optimizer = torch.optim.Adam(learned.values(), fused=True)
    silent = torch.zeros(spec.latents, dtype=torch.int64)
    for step in range(training.steps):
        x = batch(step)
        out = topk.step(p, x, spec, silent >= spec.dead_after)
        for name, parameter in learned.items():
            parameter.grad = out.gradients[name]
        norm = float(torch.nn.utils.clip_grad_norm_(learned.values(), training.clip))
        if not (math.isfinite(out.fvu) and math.isfinite(norm)):
            raise TrainingError(
                f"refitting the encoder: loss {out.fvu:.4g}, gradient norm {norm:.4g} at step "
                f"{step}; the usual cause is a learning rate ({spec.peak_lr:.3g} at its peak) that "
                "is too high"
            )
        for group in optimizer.param_groups:
            group["lr"] = warmup_then_linear(
                step, peak=spec.peak_lr, warmup=training.warmup, steps=training.steps
            )
        optimizer.step()
        silent += x.shape[0]
        silent[out.fired] = 0
        show(step, out.fvu)
    return topk.freeze(p, spec, start.about).arrays()


class HeldOut(NamedTuple):
    """What held-out rows say of one SAE."""

    fvu: float
    """of all rows together"""
    l0: float
    """latents that fire in a row"""
    dead: float
    """share of the latents that fire in none"""
    firing: pl.DataFrame
    """latent, fired, rate, mean_act, max_act"""


def evaluate(
    saes: Mapping[str, SAE],
    site: str,
    source: BlockSource,
    blocks: NDArray[np.int64],
    events: Events,
) -> dict[str, HeldOut]:
    """One pass over held-out blocks for all SAEs; the numbers are those of `reseed.evidence.stage`.

    Args:
        saes: by name; all of one site.
        site: where they read.
        source: of the activations.
        blocks: held-out ones.
        events: progress.

    Raises:
        SubjectError: if the rows are all alike.
        StoreError: if the activations are damaged.
    """
    readers = {name: Reader(sae, site) for name, sae in saes.items()}
    sums = firing_of(readers, source, blocks, events, "evaluate")
    return {name: _result(one) for name, one in sums.items()}


def _result(sums: Firing) -> HeldOut:
    whole, table = sums.reconstruction(), sums.table()
    dead = float((table["fired"] == 0).mean())  # pyright: ignore[reportArgumentType]
    return HeldOut(float(whole["fvu"]), float(whole["l0"]), dead, table)
