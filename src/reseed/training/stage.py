"""The door of training: makes the missing runs of a study, all of a data seed in one pass.

Where they do not fit into memory together, they are split over passes.

A run in work lies in `runs/ID.part` (one checkpoint file, replaced whole; snapshots), a finished
one in the piece `runs/ID`, a failed one leaves `runs/ID.failed.json`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from reseed.errors import StoreError, TrainingError
from reseed.events import Events
from reseed.files import json_bytes, parquet_bytes, write_bytes
from reseed.formats import own
from reseed.interrupts import Stop
from reseed.store import PIECE, Store, move_into_place, seal, snapshot_folder
from reseed.training.batches import RunBatches
from reseed.training.end_to_end import Downstream
from reseed.training.learner import Learner, Through
from reseed.training.memory import free_memory, passes
from reseed.training.spec import RunSpec
from reseed.training.state import (
    Failed,
    Missing,
    failure_file,
    part_folder,
    run_name,
    run_state,
)

METRICS = ("fvu", "l0", "dead")
_CHECKPOINT = "checkpoint.safetensors"
_EVENT_EVERY_STEPS = 100


class Batches(Protocol):
    """What runs learn from, a pure function of the number of the step."""

    def batch(self, index: int) -> Mapping[str, Tensor]:
        """Site to float32 `[B, D]`."""
        ...

    def through(self, index: int) -> Downstream | None:
        """The subject on from these rows; None if they cannot be put back into it."""
        ...


def train(
    runs: Sequence[RunSpec],
    stream_of: Callable[[int], Batches],
    store: Store,
    events: Events,
    stop: Stop,
) -> None:
    """Make the runs that are missing.

    Args:
        runs: of one study; all learn from the same activations.
        stream_of: the batches for a data seed.
        store: of the study.
        events: progress and metrics.
        stop: asked between steps; everything is saved before it raises.

    Raises:
        Interrupted: after a signal.
        SubjectError: if the activations are NaN or infinite.
        StoreError: if the disk is full or a checkpoint damaged.
    """
    missing = [run for run in runs if isinstance(run_state(run, store), Missing)]
    for data_seed in sorted({run.data_seed for run in missing}):
        of_seed = [run for run in missing if run.data_seed == data_seed]
        stream = stream_of(data_seed)
        dimensions = {site: x.shape[1] for site, x in stream.batch(0).items()}
        groups = passes(of_seed, dimensions, free_memory())
        if len(groups) > 1:
            events.say(
                f"{len(of_seed)} runs do not fit into the free memory together; "
                f"they are trained in {len(groups)} passes"
            )
        for together in groups:
            _train_together(together, stream, store, events, stop)


def _train_together(
    runs: Sequence[RunSpec], stream: Batches, store: Store, events: Events, stop: Stop
) -> None:
    first = stream.batch(0)
    work = [w for w in (_Work(run, first, stream, store) for run in runs) if w.alive]
    del first
    steps = max(run.training.steps for run in runs)
    start = min((w.learner.step for w in work), default=steps)
    with events.task("train", steps - start, "steps") as task, stop.deferred():
        for step in range(start, steps):
            batch, downstream = stream.batch(step), stream.through(step)
            turn = [w for w in work if w.alive and w.learner.step == step]  # others are ahead
            for w in turn:
                w.advance(batch, downstream, events, task.rate)
            made = [float(w.history[step, 0]) for w in turn if w.learner.step > step]
            note = f", FVU {np.mean(made):.3f}" if made else ""
            live = [w for w in work if w.alive]
            task.advance(1, f"{len(live) or len(made)} runs{note}")
            if not live:
                break
            if stop.requested is not None:
                for w in live:
                    w.checkpoint()
                stop.check()


class _Work:
    """A run in work and its folder."""

    def __init__(
        self, run: RunSpec, first: Mapping[str, Tensor], stream: Batches, store: Store
    ) -> None:
        self.run, self._store, self.folder = run, store, part_folder(run, store)
        batches = RunBatches(run, stream.batch)
        self.learner = Learner(run, first[run.site], first[run.target], batches=batches)
        self.alive = True
        self.history = torch.full((run.training.steps, len(METRICS)), torch.nan)
        self._every = max(1, run.training.checkpoint_tokens // run.training.batch)
        if (self.folder / _CHECKPOINT).exists():
            self._restore()
        elif (self.folder / PIECE).exists():  # sealed, and then the process was killed
            self._move()
            return
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._snapshot()
        if self.learner.finished:
            self._finish()

    def advance(
        self,
        batch: Mapping[str, Tensor],
        downstream: Downstream | None,
        events: Events,
        steps_per_second: float,
    ) -> None:
        """Make a step; a run that fails says so and takes no further part."""
        step = self.learner.step
        try:
            through = self._through(downstream)
            metrics = self.learner.update(batch[self.run.site], batch[self.run.target], through)
            self.history[step] = torch.tensor([metrics[name] for name in METRICS])
            done = self.learner.step
            if done in self.run.training.snapshot_steps:
                self.learner.check_weights()
                self._snapshot()
            if self.learner.finished:
                self._finish()
            elif done % self._every == 0:
                self.learner.check_weights()
                self.checkpoint()
        except TrainingError as error:
            self._fail(step, str(error), events)
            return
        if step % _EVENT_EVERY_STEPS == 0 or self.learner.finished:
            rate = round(steps_per_second * self.run.training.batch, 1)
            seen = {"tokens": self.learner.tokens, "tokens_per_second": rate}
            events.emit("metrics", run=self.run.id, **seen, **metrics)

    def _through(self, downstream: Downstream | None) -> Through | None:
        asked = self.run.sae.end_to_end
        if asked is None:
            return None
        assert downstream is not None, "runs end to end are given batches of whole blocks"
        return lambda reconstruction: downstream.loss(self.run.target, reconstruction, asked)

    def checkpoint(self) -> None:
        """Save everything that the next step depends on, in one file."""
        state = {**self.learner.state(), "history": self.history}
        write_bytes(self.folder / _CHECKPOINT, save_safetensors(state))
        progress = {"step": self.learner.step, "tokens": self.learner.tokens}
        write_bytes(self.folder / "progress.json", json_bytes(progress))

    def _restore(self) -> None:
        path = self.folder / _CHECKPOINT
        try:
            state = load_safetensors(path.read_bytes())
            self.history = state.pop("history")
            self.learner.restore(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}). Delete {self.folder} and run again; only this "
                "run starts over."
            ) from error

    def _snapshot(self) -> None:
        folder = self.folder / snapshot_folder(self.learner.step)
        own.write(folder, self.learner.sae().arrays())

    def _finish(self) -> None:
        """Turn the folder in work into a piece."""
        own.write(self.folder, self.learner.sae().arrays())
        write_bytes(self.folder / "spec.json", json_bytes(self.run.identity))
        write_bytes(self.folder / "metrics.parquet", parquet_bytes(self._metrics()))
        passing = ("progress.json", _CHECKPOINT)
        seal(self.folder, self.run.id, leave_out=passing)
        for name in passing:
            (self.folder / name).unlink(missing_ok=True)
        self._move()

    def _move(self) -> None:
        self.alive = False
        move_into_place(self.folder, self._store.path(run_name(self.run)))

    def _metrics(self) -> pl.DataFrame:
        tokens = (np.arange(len(self.history)) + 1) * self.run.training.batch
        columns = {name: self.history[:, i].numpy() for i, name in enumerate(METRICS)}
        return pl.DataFrame({"step": np.arange(len(self.history)), "tokens": tokens, **columns})

    def _fail(self, step: int, reason: str, events: Events) -> None:
        self.alive = False
        failed = Failed(step=step, reason=reason)
        self._store.write_json(failure_file(self.run), failed.model_dump())
        shutil.rmtree(self.folder, ignore_errors=True)
        events.emit("failed", run=self.run.id, step=step, reason=reason)
        events.say(f"run {self.run.id} failed at step {step}: {reason}. The other runs go on.")
