"""The doors in Python, for notebooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from reseed.errors import needs_train
from reseed.events import Events, JsonlSink, Sink
from reseed.formats import reading
from reseed.interrupts import Stop
from reseed.pipeline import Outcome, run_study
from reseed.planning import Plan, make_plan
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
) -> Outcome:
    """Make everything of a study that is not there yet; calling it again continues.

    Args:
        study: from `Study.load`.
        progress: whether to show it.
        sinks: take every event besides `events.jsonl`; for wandb, TensorBoard and the like.
        retry_failed: whether runs that failed are tried again.

    Returns:
        Path of the report, and the runs that failed.

    Raises:
        SpecError, SubjectError: if it cannot be done as written; nothing was started.
        StoreError: if the folder is damaged, full, read-only, busy or of another spec.
    """
    with Stop().listening() as stop:
        return run_study(study, events_of(study, progress, sinks), stop, retry_failed=retry_failed)


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

    return from_arrays(reading.read(os.fspath(path), format=format, inner=inner))


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
        from reseed.subjects.module_source import ModuleSource

    source = ModuleSource(module, sites, batches)
    rows = source.read(range(len(batches)))
    return {site: x.numpy() for site, x in rows.items()}
