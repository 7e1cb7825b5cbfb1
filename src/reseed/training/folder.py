"""The folder of a run in work, until it is moved to its place as a piece of the store."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reseed.events import Events
from reseed.formats import own
from reseed.runs import Failed, failure_file, part_folder, run_name
from reseed.spec.training import RunSpec
from reseed.store import (
    PIECE,
    Store,
    json_bytes,
    move_into_place,
    parquet_bytes,
    seal,
    snapshot_folder,
    write_bytes,
)
from reseed.training.learner import Learner

METRICS = ("fvu", "l0", "dead")
CHECKPOINT = "checkpoint.safetensors"


def empty_history(run: RunSpec) -> Tensor:
    """[steps, METRICS], of NaN."""
    return torch.full((run.training.steps, len(METRICS)), torch.nan)


class RunFolder:
    """Where a run in work lies.

    Args:
        run: the run.
        store: of the study.
    """

    def __init__(self, run: RunSpec, store: Store) -> None:
        self.run, self._store, self.path = run, store, part_folder(run, store)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return (self.path / CHECKPOINT).exists()

    @property
    def sealed(self) -> bool:
        """Whether it is whole, and was killed before it was moved."""
        return not self.has_checkpoint and (self.path / PIECE).exists()

    def clear(self) -> None:
        """Take out whatever is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def snapshot(self, learner: Learner) -> None:
        """Keep the SAE as it is."""
        own.write(self.path / snapshot_folder(learner.step), learner.sae().arrays())

    def tell_progress(self, learner: Learner) -> None:
        """Say how far the run has come; for people."""
        progress = {"step": learner.step, "tokens": learner.tokens}
        write_bytes(self.path / "progress.json", json_bytes(progress))

    def finish(self, learner: Learner, history: Tensor) -> None:
        """Turn the folder into a piece.

        Args:
            learner: after its last step.
            history: `[steps, METRICS]`.
        """
        own.write(self.path, learner.sae().arrays())
        write_bytes(self.path / "spec.json", json_bytes(self.run.identity))
        write_bytes(self.path / "metrics.parquet", parquet_bytes(self._metrics(history)))
        passing = ("progress.json", CHECKPOINT)
        seal(self.path, run_name(self.run), self.run.id, leave_out=passing)
        for name in passing:
            (self.path / name).unlink(missing_ok=True)
        self.move()

    def move(self) -> None:
        """Put the sealed folder in its place."""
        move_into_place(self.path, self._store.path(run_name(self.run)))

    def fail(self, step: int, reason: str, events: Events) -> None:
        """Leave nothing of the run but why it failed."""
        failed = Failed(step=step, reason=reason)
        self._store.write_json(failure_file(self.run), failed.model_dump())
        self.clear()
        events.emit("failed", run=self.run.id, step=step, reason=reason)
        events.say(f"run {self.run.id} failed at step {step}: {reason}. The other runs go on.")

    def _metrics(self, history: Tensor) -> pl.DataFrame:
        tokens = (np.arange(len(history)) + 1) * self.run.training.batch
        columns = {name: history[:, i].numpy() for i, name in enumerate(METRICS)}
        return pl.DataFrame({"step": np.arange(len(history)), "tokens": tokens, **columns})
