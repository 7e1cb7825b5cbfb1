"""The doors in Python, for notebooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from reseed.consensus_sae.average import Rule
from reseed.consensus_sae.stage import Asked, Consensus, make_consensus
from reseed.errors import SpecError, needs_train
from reseed.events import Events, JsonlSink, Sink, Stop
from reseed.formats import read
from reseed.pipeline.plan import Plan, make_plan
from reseed.pipeline.run import Outcome, run_study
from reseed.prediction.fit import Prediction
from reseed.prediction.stage import export_latents, predict_from
from reseed.study import Study

if TYPE_CHECKING:
    from torch import nn

    from reseed.sae.model import SAE


EVENTS_FILE = "events.jsonl"


def run(
    study: Study,
    *,
    progress: bool = True,
    sinks: Sequence[Sink] = (),
    retry_failed: bool = False,
    device: str = "cpu",
) -> Outcome:
    """Make everything of a study that is not there yet; calling it again continues.

    Args:
        study: from `Study.load`.
        progress: whether to show it.
        sinks: take every event besides `events.jsonl`; for wandb, TensorBoard and the like.
        retry_failed: whether runs that failed are tried again.
        device: where the subject and the trainings compute: `"cpu"`, `"cuda"`, `"cuda:1"` and so
            on, or `"auto"` for a GPU if there is one.

    Returns:
        Path of the report, and the runs that failed.

    Raises:
        SpecError, SubjectError: if it cannot be done as written; nothing was started.
        StoreError: if the folder is damaged, full, read-only, busy or of another spec.
    """
    with Stop().listening() as stop:
        events = events_of(study, progress, sinks)
        return run_study(study, events, stop, retry_failed=retry_failed, device=device)


def plan(study: Study, *, progress: bool = False) -> Plan:
    """What a study would take, measured by a short probe.

    Raises:
        SpecError, SubjectError, StoreError: as `run` would.
    """
    return make_plan(study, events_of(study, progress))


def events_of(study: Study, progress: bool, sinks: Sequence[Sink] = ()) -> Events:
    """Events of a study go to its folder, to other sinks, and to the terminal if wanted."""
    console = Console(stderr=True) if progress else None
    return Events(JsonlSink(study.store.path(EVENTS_FILE)), *sinks, console=console)


def load(
    path: str | os.PathLike[str], *, format: str | None = None, inner: str | None = None
) -> SAE:
    """Load an SAE that reseed or anybody else wrote, in raw activation units.

    Args:
        path: file or folder in any format of `docs/formats.md`, or `hf:OWNER/REPO/PATH@REVISION`.
        format: its name, where several fit.
        inner: which one, where a folder or a file holds several.

    Returns:
        The SAE; `about` says what was folded into its weights, and what to beware of.

    Raises:
        SpecError: if it is in no known format, or in several, or holds several SAEs.
        StoreError: if a file is damaged.
    """
    with needs_train("reseed.load"):
        from reseed.sae.model import from_arrays

    return from_arrays(read.read(os.fspath(path), format=format, inner=inner))


def harvest(
    module: nn.Module, sites: Sequence[str], batches: Sequence[Any]
) -> dict[str, NDArray[np.float32]]:
    """Read activations of any torch module into memory.

    Args:
        module: in the mode it is to be read in.
        sites: module paths or patterns, `:in` behind for the input.
        batches: inputs; each a tensor, a tuple or a dict of keyword arguments.

    Returns:
        Site to `[N, D]`, one row for each vector that the site gives.

    Raises:
        SpecError: if a site is unknown.
        SubjectError: if activations are NaN or infinite.
    """
    with needs_train("reseed.harvest"):
        from reseed.subjects.module import ModuleSource

    source = ModuleSource(module, sites, batches)
    rows = source.read(range(len(batches)))
    return {site: x.numpy() for site, x in rows.items()}


def consensus(
    study: Study,
    *,
    group: str | None = None,
    least: float | None = None,
    found_in: int | None = None,
    k: int | None = None,
    tokens: int | None = None,
    same_width: bool = True,
    progress: bool = True,
) -> Consensus:
    """One SAE of the families that come back, its encoder refitted; needs the activations.

    Decoder rows are the means of the members' (unit) rows and stay as they are; the encoder starts
    at the members' mean and is trained. It is kept in the study as `consensus/...` and evaluated on
    held-out tokens beside the mean that was not refitted, one SAE of the same width trained as
    the study trains, and the members. Described in docs/consensus.md; arXiv 2606.12138 pools
    features in this way.

    Args:
        study: with results.
        group: label or name of a group; may be left out if there is one only.
        least: smallest reproducibility of a family, .5 if `found_in` is not given either.
        found_in: smallest number of runs that a family is found in; 1 takes orphans too.
        k: latents that fire at a time; left out, that of the group.
        tokens: of the refit; left out, a quarter of those of a training.
        same_width: whether the SAE of the same width is trained, which costs a whole training.
        progress: whether to show it.

    Raises:
        SpecError: if too few families are left, or a setting cannot be.
        StoreError: if the study has not come this far, or is busy, damaged or full.
        TrainingError: if the refit runs into NaN or infinity.
    """
    groups = study.groups_named(group)
    if len(groups) > 1:
        labels = ", ".join(repr(one.label) for one in groups)
        raise SpecError(f"{study.folder} has {len(groups)} groups; name one of {labels}")
    rule = Rule(least=least, found_in=found_in)
    asked = Asked(rule=rule, k=k, tokens=tokens, same_width=same_width)
    with Stop().listening() as stop:
        return make_consensus(study, groups[0], asked, events_of(study, progress), stop)


def predict(
    train: Study | Sequence[Study],
    apply: Study | pl.DataFrame | None = None,
    *,
    group: str | None = None,
) -> Prediction:
    """Predict from single runs how reproducible each latent is; judged on runs not seen.

    Everything that one run shows is held against the firing rate alone: the gain on held-out runs
    has an interval, and `says` tells plainly when there is none. Described in docs/predict.md.

    Args:
        train: one or more studies with three or more runs in some group; groups are pooled.
        apply: a study, or a table of latents (`Study.latents`, or read from `reseed.export`), to
            predict; left out, the latents of `train` are predicted by models that did not see them.
        group: label or name; learn from this group only.

    Raises:
        SpecError: if there are too few runs, or the tables have no columns in common to learn from.
        StoreError: if a study has not come this far, or is damaged.
    """
    return predict_from([train] if isinstance(train, Study) else list(train), apply, group)


def export(
    study: Study,
    path: str | os.PathLike[str],
    *,
    where: str | None = None,
    group: str | None = None,
    columns: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002  (the command's word)
    overwrite: bool = False,
) -> pl.DataFrame:
    """Write one row for each latent, whole or filtered; columns in docs/latent_table.md.

    Args:
        study: with results.
        path: the file; `.parquet`, `.csv` or `.jsonl` unless `format` says it.
        where: a condition in SQL, e.g. `"alive AND n_matched >= 2"`.
        group: label or name; this group only.
        columns: which, in this order.
        format: `"parquet"`, `"csv"` or `"jsonl"`.
        overwrite: whether a file that is there may be replaced.

    Returns:
        The table as written.

    Raises:
        SpecError: if a name, the condition or the format is unknown, or the file exists.
        StoreError: if the study has no results, or the file cannot be written.
    """
    return export_latents(
        study,
        Path(path),
        where=where,
        group=group,
        columns=columns,
        kind=format,
        overwrite=overwrite,
    )[0]
