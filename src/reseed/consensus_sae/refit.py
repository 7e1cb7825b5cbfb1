"""A new encoder for a dictionary that is kept: training with the decoder frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from reseed.errors import SpecError, TrainingError
from reseed.events import Events
from reseed.records import SAEArrays
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.model import from_arrays
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.training.learner import Learner
from reseed.training.scale import unraw
from reseed.training.work import Work, train_all

_SITE = "x"


def refit(
    start: SAEArrays,
    batch: Callable[[int], Tensor],
    spec: TopKSpec,
    training: TrainingSpec,
    events: Events,
    scale: float = 1.0,
    device: str = "cpu",
) -> SAEArrays:
    """Train encoder and biases of a TopK SAE; its unit decoder rows stay.

    A training with the decoder frozen, on the plain path, with the learning rate of `spec` and none
    of its options. `batch` gives the `[B, D]` of a step, which are `scale` times raw rows. Nothing
    is drawn at random. `device` is where it computes.

    Returns:
        The SAE with its new encoder; `about` is that of `start`.
    """
    if start.activation != {"kind": "topk", "k": spec.k} or len(start.W_enc) != spec.latents:
        raise SpecError(
            f"the SAE has {len(start.W_enc)} latents and the rule {dict(start.activation)}; to be "
            f"refitted are {spec.latents} latents with TopK of {spec.k}"
        )
    run = RunSpec(
        data="",
        site=_SITE,
        sae=TopKSpec(
            latents=spec.latents,
            k=spec.k,
            lr=spec.peak_lr,
            dead_after=spec.dead_after,
            auxk_alpha=spec.auxk_alpha,
        ),
        training=training,
        init_seed=0,
        data_seed=0,
        control="frozen_decoder",
    )
    scaled = unraw(from_arrays(start), scale)
    parameters = {name: getattr(scaled, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    scales = {_SITE: scale}
    learner = Learner(
        run, batch(0), plain=True, parameters=parameters, scales=scales, device=device
    )
    try:
        train_all(
            [Work([learner])],
            lambda step: {_SITE: batch(step)},
            events,
            name="refit",
            device=device,
        )
    except TrainingError as error:
        raise TrainingError(f"refitting the encoder: {error}") from error
    return replace(learner.sae().arrays(), about=start.about)
