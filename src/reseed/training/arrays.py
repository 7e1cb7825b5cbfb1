"""Training on activations that are already there, without a study."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.errors import SpecError, SubjectError, nearest
from reseed.events import Events
from reseed.formats.starts.checksums import with_checksums
from reseed.sae.architectures import ARCHITECTURES, SAESpec
from reseed.sae.architectures.baselines import Fitted
from reseed.sae.model import SAE, refuse_bad
from reseed.sae.settings import ArchitectureSpec
from reseed.screen import Screen
from reseed.seeds import digest
from reseed.spec.refusals import read_spec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.subjects.arrays import MemorySource
from reseed.subjects.source import Stream
from reseed.training.device import chosen
from reseed.training.scale import BatchStream, means, measured
from reseed.training.shards.learner import learners_of
from reseed.training.work import Work, train_all

_SITE, _TARGET = "x", "target"

_MIX = 512

_AT_A_TIME = 65_536
"""Rows that are looked at together."""
_JUDGED = 16
"""Blocks at the end of the rows on which what came out is judged."""
_OFF = 0.25
"""Part of the L0 asked for that it may be off without a word."""

Matrix: TypeAlias = "Tensor | NDArray[Any] | Sequence[Sequence[float]] | Any"
"""`[N, D]` numbers: an array, a tensor, a frame, or a list of rows"""


def train(
    x: Matrix,
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
    target: Matrix | None = None,
    device: str = "cpu",
    progress: bool = False,
    **settings: Any,
) -> list[SAE]:
    """Train one SAE for each init seed, all on the same batches in the same order.

    Args:
        x: `[N, D]` activations; rows are samples. An array, tensor, frame or list of rows.
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
        progress: whether to show it.
        settings: of the architecture, e.g. `k=32`, `lr=1e-3`, and options of all of them, e.g.
            `mutual={"alpha": 0.1}`; see `reseed.sae.specs` and docs/training_methods.md.

    Returns:
        The SAEs in the order of the seeds.

    Raises:
        SpecError: if a setting is unknown or cannot be; before any work.
        SubjectError: if x is no matrix of numbers, or has NaN or infinity; before any work.
        TrainingError: if a training runs into NaN or infinity.

    Example:
        saes = reseed.train(x, latents=1024, k=32, init_seeds=[0, 1, 2], tokens=2_000_000)
    """
    place = chosen(device)
    if (name := str(architecture)) not in ARCHITECTURES:
        raise SpecError(f"architecture {architecture!r}: {nearest(name, ARCHITECTURES)}")
    if wrong := settings.keys() & {"seed", "seeds"}:
        raise SpecError(f"train: {wrong.pop()}: unknown key; did you mean 'init_seeds'?")
    init_seeds = _seeds(init_seeds)
    table = {"latents": latents, **settings, **({} if target is None else {"target": _TARGET})}
    sae = read_spec(ARCHITECTURES[name].settings, table, "train")
    if sae.end_to_end is not None:
        raise SpecError(
            "end_to_end trains through a language model, and rows alone have none; write it into a "
            "study with a [subject] of kind 'language_model'"
        )
    _check_mutual(sae, init_seeds)
    try:
        sae.check_seeds(init_seeds)
    except ValueError as error:
        raise SpecError(f"train: {error}") from error
    sae = with_checksums([sae], None, {})[0]
    given = {_SITE: x} if target is None else {_SITE: x, _TARGET: target}
    source = MemorySource({site: rows_of(site, matrix) for site, matrix in given.items()})
    events = Events(console=Screen(stderr=True) if progress else None)
    rows = int(source.rows.sum())
    training = read_spec(
        TrainingSpec,
        {
            "tokens": rows if tokens is None else tokens,
            "batch": min(batch, rows) if isinstance(batch, Real) else batch,
            "warmup_steps": warmup_steps,
            "clip": clip,
            "scale": scale,
        },
        "train",
    )
    sae.check_rows(training.steps * training.batch)
    sae.check_width(source.sites[_SITE])
    spec = read_spec(
        RunSpec,
        {
            "data": digest([rows, rows, source.sites[_SITE]]),
            "site": _SITE,
            "sae": sae,
            "training": training,
            "init_seed": init_seeds[0],
            "data_seed": data_seed,
            "ensemble": () if sae.mutual is None else tuple(init_seeds),
        },
        "train",
    )
    blocks = np.arange(len(source.rows))
    rows_in_order = Stream(source, blocks, data_seed=spec.data_seed, batch=training.batch, mix=_MIX)
    scales = measured(source, blocks, list(source.sites), events) if training.scale else None
    centres = means(source, blocks, [_SITE], events) if sae.center else None
    stream = BatchStream(rows_in_order, scales, centres)
    learners = learners_of(spec, init_seeds, stream, place)
    units = [[learner] for learner in learners] if sae.mutual is None else [learners]
    if isinstance(sae, Fitted):
        events.say(sae.found_from(training.steps * training.batch))
    train_all([Work(unit) for unit in units], stream.batch, events, device=place)
    saes = [learner.sae() for learner in learners]
    _judge(saes, source, sae)
    return saes


def _seeds(init_seeds: Any) -> tuple[int, ...]:
    if not isinstance(init_seeds, Iterable) or isinstance(init_seeds, str):
        raise SpecError(
            f"init_seeds = {init_seeds!r} is no list of seeds; each seed is a training, so name "
            "them all, e.g. init_seeds=[0, 1, 2]"
        )
    seeds: list[Any] = list(init_seeds)
    if any(isinstance(s, bool) or not isinstance(s, Integral) or s < 0 for s in seeds):
        raise SpecError(f"init_seeds = {seeds} are not all whole numbers from 0")
    if not seeds or len(set(seeds)) < len(seeds):
        raise SpecError(f"init_seeds = {seeds} must name at least one seed, none twice")
    return tuple(int(seed) for seed in seeds)


def rows_of(name: str, given: Matrix) -> Tensor | NDArray[Any]:
    """An array or tensor of floats out of what was given, NaN and infinity refused.

    Raises:
        SubjectError: saying what it is instead, or which row and column is not finite.
    """
    rows: Any = given
    if hasattr(rows, "to_numpy"):  # frames
        rows = rows.to_numpy()
    if not isinstance(rows, Tensor):
        try:
            rows = np.asarray(rows)
        except ValueError as error:
            raise SubjectError(f"{name}: no matrix can be made of it ({error})") from error
        if rows.dtype.kind not in "fiub" and rows.dtype.name != "bfloat16":
            raise SubjectError(
                f"{name}: it holds {rows.dtype}, not numbers; give the rows of activations, "
                "[N, D], as floats"
            )
        if rows.dtype.name not in ("float16", "float32", "float64"):
            rows = rows.astype(np.float32)
    elif rows.layout != torch.strided or rows.is_complex():
        raise SubjectError(f"{name}: a tensor of {rows.layout}, {rows.dtype}; give dense floats")
    elif not rows.is_floating_point():
        rows = rows.float()
    for first in range(0, len(rows) if rows.ndim == 2 else 0, _AT_A_TIME):
        part = rows[first : first + _AT_A_TIME]
        with np.errstate(over="ignore"):
            refuse_bad(torch.as_tensor(part).to("cpu", torch.float32), name, first)
    return rows


def _judge(saes: Sequence[SAE], source: MemorySource, spec: ArchitectureSpec) -> None:
    """Warn of an SAE that is worse than the mean of the rows, or far from the L0 asked for."""
    read = source.read(range(max(0, len(source.rows) - _JUDGED), len(source.rows)))
    x, y = read[_SITE], read.get(_TARGET, read[_SITE]).double()
    for sae in saes:
        codes = sae.encode_sparse(x)
        error = (sae.rebuild(x, codes).double() - y).square().sum()
        fvu = float(error / (y - y.mean(0)).square().sum())
        l0 = float((codes.values > 0).sum() / len(x))
        said = f"{spec.label}, init seed {sae.about['init_seed']}: "
        if fvu > 1:
            said += f"FVU is {fvu:.2f}, worse than giving the mean of all rows (1). "
        if spec.promised_l0 and abs(l0 / spec.promised_l0 - 1) > _OFF:
            said += f"{l0:.3g} latents fire in a row where {spec.promised_l0:g} were asked for. "
        if said.endswith(". "):
            warnings.warn(said + "Train on more tokens, or with another lr.", stacklevel=3)


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
