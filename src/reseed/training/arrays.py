"""Training on activations that are already there, without a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, nearest
from reseed.events import Events
from reseed.sae.architectures import ARCHITECTURES, SAESpec
from reseed.sae.model import SAE
from reseed.seeds import digest
from reseed.spec.refusals import read_spec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.subjects.arrays import MemorySource
from reseed.subjects.source import Stream
from reseed.training.device import chosen
from reseed.training.learner import learners_of
from reseed.training.scale import BatchStream, measured
from reseed.training.work import Work, train_all

_SITE, _TARGET = "x", "target"

_MIX = 512


def train(
    x: Tensor | NDArray[Any],
    architecture: str = "topk",
    *,
    latents: int,
    init_seeds: Sequence[int] = (0, 1),
    tokens: int | None = None,
    data_seed: int = 0,
    batch: int = 1024,
    warmup_steps: int | None = None,
    clip: float = 1.0,
    scale: bool = True,
    target: Tensor | NDArray[Any] | None = None,
    device: str = "cpu",
    **settings: Any,
) -> list[SAE]:
    """Train one SAE for each init seed, all on the same batches in the same order.

    Args:
        x: `[N, D]` activations; rows are samples.
        architecture: one of `reseed architectures`, e.g. `"topk"`.
        latents: F, the width.
        init_seeds: decide where each training starts, and nothing else does.
        tokens: rows that each SAE sees, repeats counted; left out, each row once.
        data_seed: decides the order of the rows.
        batch: rows in a step; lowered to N if there are fewer.
        warmup_steps: left out, 1,000 or a tenth of all steps, whichever is less.
        clip: largest gradient norm.
        scale: train on rows scaled to a mean length of 1, so that the unit of x does not matter;
            the SAEs read rows as they are given.
        target: `[N, E]` what a transcoder is to give for each row of x; for no other architecture.
        device: where they compute: `"cpu"`, `"cuda"`, or `"auto"` for a GPU if there is one.
        settings: of the architecture, e.g. `k=32`, `lr=1e-3`, and options of all of them, e.g.
            `mutual={"alpha": 0.1}`; see `reseed.sae.specs` and docs/training_methods.md.

    Returns:
        The SAEs in the order of the seeds.

    Raises:
        SpecError: if a setting is unknown or cannot be; before any work.
        SubjectError: if x has NaN or infinity.
        TrainingError: if a training runs into NaN or infinity.

    Example:
        saes = reseed.train(x, latents=1024, k=32, init_seeds=[0, 1, 2], tokens=2_000_000)
    """
    place = chosen(device)
    if architecture not in ARCHITECTURES:
        raise SpecError(f"architecture {architecture!r}: {nearest(architecture, ARCHITECTURES)}")
    if not len(init_seeds) or len(set(init_seeds)) < len(init_seeds):
        raise SpecError(f"init_seeds = {list(init_seeds)} must name at least one seed, none twice")
    table = {"latents": latents, **settings, **({} if target is None else {"target": _TARGET})}
    sae = read_spec(ARCHITECTURES[architecture].settings, table, "train")
    if sae.end_to_end is not None:
        raise SpecError(
            "end_to_end trains through a language model, and rows alone have none; write it into a "
            "study with a [subject] of kind 'language_model'"
        )
    _check_mutual(sae, init_seeds)
    source = MemorySource({_SITE: x} if target is None else {_SITE: x, _TARGET: target})
    rows = int(source.rows.sum())
    training = read_spec(
        TrainingSpec,
        {
            "tokens": rows if tokens is None else tokens,
            "batch": min(batch, rows),
            "warmup_steps": warmup_steps,
            "clip": clip,
            "scale": scale,
        },
        "train",
    )
    blocks = np.arange(len(source.rows))
    rows_in_order = Stream(source, blocks, data_seed=data_seed, batch=training.batch, mix=_MIX)
    scales = measured(source, blocks, list(source.sites), Events()) if scale else None
    stream = BatchStream(rows_in_order, scales)
    spec = read_spec(
        RunSpec,
        {
            "data": digest([rows, *x.shape]),
            "site": _SITE,
            "sae": sae,
            "training": training,
            "init_seed": init_seeds[0],
            "data_seed": data_seed,
            "ensemble": () if sae.mutual is None else tuple(init_seeds),
        },
        "train",
    )
    learners = learners_of(spec, init_seeds, stream, place)
    units = [[learner] for learner in learners] if sae.mutual is None else [learners]
    train_all([Work(unit) for unit in units], stream.batch, Events(), device=place)
    return [learner.sae() for learner in learners]


def _check_mutual(sae: SAESpec, init_seeds: Sequence[int]) -> None:
    if sae.mutual is None:
        return
    if len(init_seeds) < 2:
        raise SpecError(f"init_seeds = {list(init_seeds)}: mutual needs two seeds at least")
    if sae.mutual.held_out:
        raise SpecError(
            "mutual.held_out is for studies; here, leave those seeds out of init_seeds and train "
            "them by a call of their own, without mutual"
        )
