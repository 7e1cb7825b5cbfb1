"""Runs in training: what moves them on step by step.

Runs that are trained together have one checkpoint of them all, so that they are always at the same
step; it lies with the one that is finished last. They become pieces one after the other: a process
that is killed in between trains on from the checkpoint and writes those that are still missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from reseed.errors import StoreError, TrainingError
from reseed.events import Events, Stop
from reseed.store import read_sealed
from reseed.training.learner import Learner, Metrics, Through
from reseed.training.mutual import Together
from reseed.training.run_folder import CHECKPOINT, METRICS, PARTS, RunFolder, TakenOverError
from reseed.training.scale import Subject

_EVENT_EVERY_STEPS = 100

Rows = Mapping[str, Tensor]
"""Site to `[B, D]`"""


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
            read, written = self.run.rows
            rows = batch[read], batch[written]
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
        except TakenOverError as error:  # by a worker that took this one for dead; it goes on there
            self.alive = False
            events.say(str(error))
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
        self._last.checkpoint(arrays, about, self.together.learners)
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
            for learner in self.together.learners:
                learner.read_parts(self._last.path / PARTS)
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
