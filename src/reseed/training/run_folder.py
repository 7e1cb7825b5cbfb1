"""The folder of a run in work, and how it becomes a piece.

A run in work lies in `runs/ID.part/PROCESS` (one checkpoint file, replaced whole; snapshots), a
finished one in the piece `runs/ID`, a failed one leaves `runs/ID.failed.json`. The folder bears the
name of the process that moves the run on. Who takes over renames it, so that a process that was
taken for dead and wakes up can write nothing more there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from reseed.errors import StoreError, explained
from reseed.events import Events
from reseed.formats import own
from reseed.runs import OWNED, Failed, attempts, failure_file, part_folder, run_name
from reseed.sae.arithmetic import arithmetic
from reseed.spec.training import RunSpec
from reseed.store import (
    PIECE,
    Process,
    Store,
    file_sha256,
    json_bytes,
    move_into_place,
    parquet_bytes,
    seal,
    snapshot_folder,
    write_bytes,
    write_sealed,
)
from reseed.training.learner import Learner

METRICS = ("fvu", "l0", "dead")
CHECKPOINT = "checkpoint.safetensors"
_PASSING = ("progress.json", CHECKPOINT, OWNED)
"""No part of the piece, in the order in which they go; killed in between, the rest goes later."""
PARTS = "checkpoint"
"""Folder of what each block of a run has, where several ranks share it: STEP-BLOCK.safetensors."""


class TakenOverError(StoreError):
    """Another process has taken over a run; whatever is left of this one's work is in vain."""


class RunFolder:
    """Where a run in work lies, until it is moved to its place as a piece of the store.

    Args:
        run: what is trained.
        store: of the study.
        process: that has claimed the run; whatever was begun becomes its own.
        device: where it is trained.
    """

    def __init__(self, run: RunSpec, store: Store, process: Process, device: str = "cpu") -> None:
        self.run, self._store, self._device = run, store, device
        self._part = part_folder(run, store)
        self.path = self._part / process.id
        self.kept: dict[str, str] = {}
        """snapshots, file to SHA-256 as it was written; part of the checkpoint"""
        with explained(self.path):
            self._part.mkdir(parents=True, exist_ok=True)
            for folder in attempts(run, store):
                if folder != self.path and not self.path.exists():
                    os.rename(folder, self.path)
            self.path.mkdir(exist_ok=True)
            (self.path / OWNED).write_text("a process moves this run on\n", "ascii")

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return (self.path / CHECKPOINT).exists()

    @property
    def sealed(self) -> bool:
        """Whether it is complete, and was killed before it was moved."""
        return not self.has_checkpoint and (self.path / PIECE).exists()

    def clear(self) -> None:
        """Take out whatever is there."""
        with explained(self.path):
            for entry in self.path.iterdir():
                if entry.name != OWNED:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _check_owned(self) -> None:
        if not (self.path / OWNED).exists():
            raise TakenOverError(
                f"run {self.run.id} was taken over by another process, which took this one for "
                "dead since it was silent for ten minutes; it goes on there"
            )

    def checkpoint(
        self,
        arrays: Mapping[str, np.ndarray[Any, Any]],
        about: Any,
        learners: Sequence[Learner] = (),
    ) -> None:
        """Replace the checkpoint of this run, or of all that are trained together with it."""
        self._check_owned()
        for learner in learners:
            learner.write_parts(self.path / PARTS)
        write_sealed(self.path / CHECKPOINT, arrays, about)
        for learner in learners:
            self._drop_parts(learner.step)

    def _drop_parts(self, but: int | None = None) -> None:
        """Take out the parts of all checkpoints, but of that after this step."""
        parts = self.path / PARTS
        with explained(parts):
            for path in parts.glob("*"):
                if but is None or not path.name.startswith(f"{but:08d}-"):
                    path.unlink()
            if but is None and parts.exists():
                parts.rmdir()

    def snapshot(self, learner: Learner) -> None:
        """Keep the SAE as it is; that of the last step is the run itself."""
        if learner.finished:
            return
        self._check_owned()
        inner = snapshot_folder(learner.step)
        own.write(self.path / inner, learner.sae().arrays())
        files = (self.path / inner).iterdir()
        self.kept |= {f"{inner}/{file.name}": file_sha256(file) for file in files}

    def check_kept(self) -> None:
        """Refuse snapshots that are not as they were written."""
        for name, sha256 in self.kept.items():
            file = self.path / name
            if not file.is_file() or file_sha256(file) != sha256:
                what = "damaged: its checksum is wrong" if file.is_file() else "missing"
                raise StoreError(f"{file} is {what}")

    def tell_progress(self, learner: Learner) -> None:
        """Say how far the run has come; for people."""
        self._check_owned()
        progress = {"step": learner.step, "tokens": learner.tokens}
        write_bytes(self.path / "progress.json", json_bytes(progress))

    def finish(self, learner: Learner, history: Tensor) -> None:
        """Turn the folder into a piece after the last step; history is `[steps, METRICS]`."""
        self._check_owned()
        self.check_kept()
        own.write(self.path, learner.sae().arrays())
        write_bytes(self.path / "spec.json", json_bytes(self.run.identity))
        columns = {name: history[:, i].numpy() for i, name in enumerate(METRICS)}
        tokens = (np.arange(len(history)) + 1) * self.run.training.batch
        metrics = pl.DataFrame({"step": np.arange(len(history)), "tokens": tokens, **columns})
        write_bytes(self.path / "metrics.parquet", parquet_bytes(metrics))
        self._check_owned()
        passing = [*_PASSING, *(path.name for path in (self.path / PARTS).glob("*"))]
        seal(self.path, run_name(self.run), self.run.id, passing, arithmetic(self._device))
        self.move()

    def move(self) -> None:
        """Put the sealed folder in its place, unless another process was first."""
        name = run_name(self.run)
        with explained(self.path):
            for passing in _PASSING:
                (self.path / passing).unlink(missing_ok=True)
        self._drop_parts()
        moved = move_into_place(
            self.path, self._store.path(name), lambda: self._store.has(name, self.run.id)
        )
        if not moved:
            shutil.rmtree(self.path, ignore_errors=True)
        self._leave()

    def fail(self, step: int, reason: str, events: Events) -> None:
        """Leave nothing of the run but why it failed."""
        failed = Failed(step=step, reason=reason)
        self._store.write(failure_file(self.run), failed.model_dump())
        shutil.rmtree(self.path, ignore_errors=True)
        self._leave()
        events.emit("failed", run=self.run.id, step=step, reason=reason)
        events.say(f"run {self.run.id} failed at step {step}: {reason}. The other runs go on.")

    def _leave(self) -> None:
        if not attempts(self.run, self._store):
            shutil.rmtree(self._part, ignore_errors=True)
