"""Runs in training: what moves them on step by step, and the folders that they lie in.

A run in work lies in `runs/ID.part` (one checkpoint file, replaced whole; snapshots), a finished
one in the piece `runs/ID`, a failed one leaves `runs/ID.failed.json`. Runs that are trained
together have one checkpoint of them all, so that they are always at the same step; it lies with the
one that is finished last. They become pieces one after the other: a process that is killed in
between trains on from the checkpoint and writes those that are still missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reseed.errors import StoreError, TrainingError, explained
from reseed.events import Events, Stop
from reseed.formats import own
from reseed.runs import Failed, failure_file, part_folder, run_name
from reseed.spec.training import RunSpec
from reseed.store import (
    PIECE,
    Store,
    file_sha256,
    json_bytes,
    move_into_place,
    parquet_bytes,
    read_sealed,
    seal,
    snapshot_folder,
    write_bytes,
    write_sealed,
)
from reseed.training.learner import Learner, Metrics, Through
from reseed.training.mutual import Together
from reseed.training.scale import Subject

METRICS = ("fvu", "l0", "dead")
CHECKPOINT = "checkpoint.safetensors"
_EVENT_EVERY_STEPS = 100

Rows = Mapping[str, Tensor]
"""Site to `[B, D]`"""


class RunFolder:
    """Where a run in work lies, until it is moved to its place as a piece of the store."""

    def __init__(self, run: RunSpec, store: Store) -> None:
        self.run, self._store, self.path = run, store, part_folder(run, store)
        self.kept: dict[str, str] = {}
        """snapshots, file to SHA-256 as it was written; part of the checkpoint"""

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
        """Keep the SAE as it is; that of the last step is the run itself."""
        if learner.finished:
            return
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
        progress = {"step": learner.step, "tokens": learner.tokens}
        write_bytes(self.path / "progress.json", json_bytes(progress))

    def finish(self, learner: Learner, history: Tensor) -> None:
        """Turn the folder into a piece after the last step; history is `[steps, METRICS]`."""
        self.check_kept()
        own.write(self.path, learner.sae().arrays())
        write_bytes(self.path / "spec.json", json_bytes(self.run.identity))
        columns = {name: history[:, i].numpy() for i, name in enumerate(METRICS)}
        tokens = (np.arange(len(history)) + 1) * self.run.training.batch
        metrics = pl.DataFrame({"step": np.arange(len(history)), "tokens": tokens, **columns})
        write_bytes(self.path / "metrics.parquet", parquet_bytes(metrics))
        passing = ("progress.json", CHECKPOINT)
        seal(self.path, run_name(self.run), self.run.id, leave_out=passing)
        with explained(self.path):
            for name in passing:
                (self.path / name).unlink(missing_ok=True)
        self.move()

    def move(self) -> None:
        """Put the sealed folder in its place."""
        move_into_place(self.path, self._store.path(run_name(self.run)))

    def fail(self, step: int, reason: str, events: Events) -> None:
        """Leave nothing of the run but why it failed."""
        failed = Failed(step=step, reason=reason)
        self._store.write(failure_file(self.run), failed.model_dump())
        self.clear()
        events.emit("failed", run=self.run.id, step=step, reason=reason)
        events.say(f"run {self.run.id} failed at step {step}: {reason}. The other runs go on.")


class Work:
    """A run in training, or all of an ensemble, in its order, that are trained together.

    `folders` are of those that are to become pieces of a store, by place; whatever was begun there
    goes on. Without any, nothing is written and what fails raises.
    """

    def __init__(
        self, learners: Sequence[Learner], folders: Mapping[int, RunFolder] | None = None
    ) -> None:
        self.together, self.run = Together(learners), learners[0].spec
        shape = self.run.training.steps, len(METRICS)
        self.history = [torch.full(shape, torch.nan) for _ in learners]
        self.folders = dict(folders or {})
        for number, folder in [*self.folders.items()]:
            if folder.sealed:
                folder.move()
                del self.folders[number]
        self.alive = bool(self.folders) or folders is None
        if self.alive and self.folders:
            self._begin()

    def _begin(self) -> None:
        if self._last.has_checkpoint:
            self._restore()
        else:
            for number, folder in self.folders.items():
                folder.clear()
                folder.snapshot(self.together.learners[number])
        if self.together.finished:
            self._finish()

    @property
    def step(self) -> int:
        """Steps made."""
        return self.together.step

    @property
    def runs(self) -> int:
        """How many runs will come of it."""
        return len(self.folders) or len(self.together.learners)

    def fvu(self, step: int) -> float:
        """Of a step that was made, the mean over its runs."""
        return float(torch.stack([history[step, 0] for history in self.history]).mean())

    def advance(
        self, batch: Rows, downstream: Subject | None, events: Events, steps_per_second: float
    ) -> None:
        """Make a step; what fails says so in its folder and takes no further part."""
        step, training, learners = self.step, self.run.training, self.together.learners
        try:
            rows = batch[self.run.site], batch[self.run.target]
            metrics = self.together.update(*rows, self._through(downstream))
            for history, values in zip(self.history, metrics, strict=True):
                history[step] = torch.tensor([values[name] for name in METRICS])
            done, every = self.step, max(1, training.checkpoint_tokens // training.batch)
            at_snapshot = done in training.snapshot_steps
            at_checkpoint = done % every == 0 and bool(self.folders)
            if at_snapshot or at_checkpoint or self.together.finished:
                self.together.check_weights()
            if at_snapshot:
                for number, folder in self.folders.items():
                    folder.snapshot(learners[number])
            if self.together.finished:
                self._finish()
            elif at_checkpoint:
                self.checkpoint()
        except TrainingError as error:
            if not self.folders:
                raise
            self.alive = False
            for folder in self.folders.values():
                folder.fail(step, str(error), events)
            return
        for number in self.folders:
            _tell(learners[number], metrics[number], events, steps_per_second)

    def _through(self, downstream: Subject | None) -> Through | None:
        end_to_end = self.run.sae.end_to_end
        if end_to_end is None:
            return None
        assert downstream is not None, "runs end to end are given batches of whole blocks"
        return lambda reconstruction: downstream.loss(self.run.target, reconstruction, end_to_end)

    def checkpoint(self) -> None:
        """Save everything that the next step depends on, in one file."""
        if not self.folders:
            return
        history = {f"history.{n}": history for n, history in enumerate(self.history)}
        state = {**self.together.state(), **history}
        about = {folder.run.id: folder.kept for folder in self.folders.values()}
        arrays = {name: value.numpy() for name, value in state.items()}
        write_sealed(self._last.path / CHECKPOINT, arrays, about)
        for number, folder in self.folders.items():
            folder.tell_progress(self.together.learners[number])

    @property
    def _last(self) -> RunFolder:
        """Of the run that is finished last: the place of the checkpoint."""
        return self.folders[max(self.folders)]

    def _restore(self) -> None:
        path = self._last.path / CHECKPOINT
        try:
            arrays, about = read_sealed(path)
            runs = sorted(folder.run.id for folder in self.folders.values())
            if not set(runs) <= set(about):
                raise StoreError(
                    f"{path} is of {', '.join(sorted(about)) or 'nothing'}, and was put in the "
                    f"place of {', '.join(runs)}"
                )
            for folder in self.folders.values():
                folder.kept = about[folder.run.id]
                folder.check_kept()
            state = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
            self.history = [state.pop(f"history.{n}") for n in range(len(self.history))]
            self.together.restore(state)
        except (StoreError, KeyError, RuntimeError) as error:
            several = len(self.together.learners) > 1
            what = (
                "the runs trained together start over" if several else "only this run starts over"
            )
            raise StoreError(f"{error}. Delete {path.parent} and run again; {what}.") from error

    def _finish(self) -> None:
        self.alive = False
        for number in sorted(self.folders):
            self.folders[number].finish(self.together.learners[number], self.history[number])


def _tell(learner: Learner, metrics: Metrics, events: Events, steps_per_second: float) -> None:
    if (learner.step - 1) % _EVENT_EVERY_STEPS == 0 or learner.finished:
        rate = round(steps_per_second * learner.spec.training.batch, 1)
        counts = {"tokens": learner.tokens, "tokens_per_second": rate}
        events.emit("metrics", run=learner.spec.id, **counts, **metrics)


def _on(device: str, batch: Rows) -> Rows:
    """A batch where it is learned from: sent there once for all runs."""
    return {site: rows.to(device) for site, rows in batch.items()}


def train_all(
    work: Sequence[Work],
    batch: Callable[[int], Rows],
    events: Events,
    *,
    name: str = "train",
    through: Callable[[int], Subject | None] = lambda step: None,
    stop: Stop | None = None,
    device: str = "cpu",
) -> None:
    """Train to the end: one loop, in which every batch is read once for all runs.

    All runs are alive; they may be at different steps. `batch` gives rows on the CPU, `through` the
    subject on from them; `stop` is asked between steps, and everything is saved before it raises.
    """
    steps = max((w.run.training.steps for w in work), default=0)
    start = min((w.step for w in work), default=steps)
    waiting = nullcontext() if stop is None else stop.deferred()
    with events.task(name, steps - start, "steps") as task, waiting:
        for step in range(start, steps):
            rows = _on(device, batch(step))
            turn = [w for w in work if w.alive and w.step == step]  # others are ahead
            for w in turn:
                w.advance(rows, through(step), events, task.rate)
            made = [w for w in turn if w.step > step]
            note = f", FVU {np.mean([w.fvu(step) for w in made]):.3f}" if made else ""
            live = [w for w in work if w.alive]
            task.advance(1, f"{sum(w.runs for w in live or made)} runs{note}")
            if not live:
                break
            if stop is not None and stop.requested is not None:
                for w in live:
                    w.checkpoint()
                stop.check()
