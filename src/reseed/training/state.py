"""Which runs exist, are missing or failed. Read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from reseed.errors import StoreError
from reseed.files import read_json
from reseed.records import Spec
from reseed.store import Store
from reseed.training.spec import RunSpec


class Done(Spec):
    """The run is there."""

    state: Literal["done"] = "done"


class Missing(Spec):
    """The run has not been started or not been finished."""

    state: Literal["missing"] = "missing"
    tokens_done: int = 0
    """At the last checkpoint."""


class Failed(Spec):
    """The run stopped by itself; it is not tried again unless asked for."""

    state: Literal["failed"] = "failed"
    step: int
    reason: str


class Progress(Spec):
    """How far a run in work has come at its last checkpoint; for people, nothing depends on it."""

    step: int
    tokens: int


T = TypeVar("T", bound=Spec)
RunState = Done | Missing | Failed


def run_name(run: RunSpec) -> str:
    """Name of the piece of a finished run."""
    return f"runs/{run.id}"


def part_folder(run: RunSpec, store: Store) -> Path:
    """Where a run in work lies."""
    return store.path(f"{run_name(run)}.part")


def failure_file(run: RunSpec) -> str:
    """Where the reason of a failed run lies."""
    return f"{run_name(run)}.failed.json"


def progress_file(run: RunSpec, store: Store) -> Path:
    """Where it lies how far a run in work has come."""
    return part_folder(run, store) / "progress.json"


def run_state(run: RunSpec, store: Store) -> RunState:
    """Whether a run is done, missing or failed."""
    if store.has(run_name(run)):
        return Done()
    failure = store.path(failure_file(run))
    if failure.exists():
        return _read(Failed, failure)
    progress = progress_file(run, store)
    return Missing(tokens_done=_read(Progress, progress).tokens if progress.exists() else 0)


def _read(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(f"{path} cannot be read. Delete it and run again.") from error


def forget_failure(run: RunSpec, store: Store) -> None:
    """Let a failed run be tried again."""
    store.path(failure_file(run)).unlink(missing_ok=True)
