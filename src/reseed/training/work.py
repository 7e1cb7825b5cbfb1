"""What the pass over the activations moves on: a run in work, or runs that are trained together.

One alone has its checkpoint in its own folder. Runs that are trained together have one checkpoint
of them all, so that they are always at the same step; it lies with the one that is finished last.
They become pieces one after the other: a process that is killed in between trains on from the
checkpoint and writes those that are still missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from reseed.errors import StoreError, TrainingError
from reseed.events import Events
from reseed.spec.training import RunSpec
from reseed.store import Store, write_bytes
from reseed.training.device import units
from reseed.training.folder import CHECKPOINT, METRICS, RunFolder, empty_history
from reseed.training.learner import Learner, Metrics, RunBatches, Through
from reseed.training.mutual import Together
from reseed.training.through import Downstream

_EVENT_EVERY_STEPS = 100


Rows = Mapping[str, Tensor]
"""Site to `[B, D]`"""
Make = Callable[[RunSpec], Learner]


class Work(Protocol):
    """One run, or several that cannot be told apart in time."""

    alive: bool
    """whether it is neither finished nor failed"""

    @property
    def step(self) -> int:
        """Steps made."""
        ...

    @property
    def runs(self) -> int:
        """How many runs will come of it."""
        ...

    def fvu(self, step: int) -> float:
        """Of a step that was made, the mean over its runs."""
        ...

    def advance(
        self, batch: Rows, downstream: Downstream | None, events: Events, steps_per_second: float
    ) -> None:
        """Make a step; what fails says so and takes no further part."""
        ...

    def checkpoint(self) -> None:
        """Save everything that the next step depends on, in one file."""
        ...


class One:
    """A run in work and its folder."""

    def __init__(self, run: RunSpec, make: Make, store: Store) -> None:
        self.run, self.folder = run, RunFolder(run, store)
        self.learner, self.alive = make(run), True
        self.history, self.runs = empty_history(run), 1
        self._every = _checkpoint_every(run)
        if self.folder.has_checkpoint:
            self._restore()
        elif self.folder.sealed:
            self.alive = False
            self.folder.move()
            return
        else:
            self.folder.clear()
            self.folder.snapshot(self.learner)
        if self.learner.finished:
            self._finish()

    @property
    def step(self) -> int:
        """See `Work`."""
        return self.learner.step

    def fvu(self, step: int) -> float:
        """See `Work`."""
        return float(self.history[step, 0])

    def advance(
        self, batch: Rows, downstream: Downstream | None, events: Events, steps_per_second: float
    ) -> None:
        """See `Work`."""
        step = self.learner.step
        try:
            through = self._through(downstream)
            metrics = self.learner.update(batch[self.run.site], batch[self.run.target], through)
            self.history[step] = torch.tensor([metrics[name] for name in METRICS])
            done = self.learner.step
            if done in self.run.training.snapshot_steps:
                self.learner.check_weights()
                self.folder.snapshot(self.learner)
            if self.learner.finished:
                self._finish()
            elif done % self._every == 0:
                self.learner.check_weights()
                self.checkpoint()
        except TrainingError as error:
            self.alive = False
            self.folder.fail(step, str(error), events)
            return
        _tell(self.learner, metrics, events, steps_per_second)

    def _through(self, downstream: Downstream | None) -> Through | None:
        asked = self.run.sae.end_to_end
        if asked is None:
            return None
        assert downstream is not None, "runs end to end are given batches of whole blocks"
        return lambda reconstruction: downstream.loss(self.run.target, reconstruction, asked)

    def checkpoint(self) -> None:
        """See `Work`."""
        state = {**self.learner.state(), "history": self.history}
        write_bytes(self.folder.path / CHECKPOINT, save_safetensors(state))
        self.folder.tell_progress(self.learner)

    def _restore(self) -> None:
        path = self.folder.path / CHECKPOINT
        try:
            state = load_safetensors(path.read_bytes())
            self.history = state.pop("history")
            self.learner.restore(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise _damaged(path, error, "only this run starts over") from error

    def _finish(self) -> None:
        self.alive = False
        self.folder.finish(self.learner, self.history)


class Several:
    """Runs that are trained together, and the folders of those that are missing.

    Args:
        missing: runs of one ensemble that are not there yet, in its order.
        make: a learner of a run.
        store: of the study.
    """

    def __init__(self, missing: Sequence[RunSpec], make: Make, store: Store) -> None:
        run = missing[0]
        all_runs = [run.model_copy(update={"init_seed": seed}) for seed in run.ensemble]
        learners = [make(one) for one in all_runs]
        self.together = Together(learners)
        self.history = [empty_history(run) for _ in all_runs]
        self._run, self._every = run, _checkpoint_every(run)
        self._folders: dict[int, RunFolder] = {}
        for one in missing:
            folder = RunFolder(one, store)
            if folder.sealed:
                folder.move()
            else:
                self._folders[all_runs.index(one)] = folder
        self.alive, self.runs = bool(self._folders), len(self._folders)
        if not self.alive:
            return
        if self._last.has_checkpoint:
            self._restore()
        else:
            for number, folder in self._folders.items():
                folder.clear()
                folder.snapshot(learners[number])
        if learners[0].finished:
            self._finish()

    @property
    def step(self) -> int:
        """See `Work`."""
        return self.together.step

    def fvu(self, step: int) -> float:
        """See `Work`."""
        return float(torch.stack([one[step, 0] for one in self.history]).mean())

    def advance(
        self, batch: Rows, downstream: Downstream | None, events: Events, steps_per_second: float
    ) -> None:
        """See `Work`."""
        step, training = self.step, self._run.training
        try:
            metrics = self.together.update(batch[self._run.site], batch[self._run.target])
            for history, one in zip(self.history, metrics, strict=True):
                history[step] = torch.tensor([one[name] for name in METRICS])
            if self.step in training.snapshot_steps:
                self.together.check_weights()
                for number, folder in self._folders.items():
                    folder.snapshot(self.together.learners[number])
            if self.together.learners[0].finished:
                self._finish()
            elif self.step % self._every == 0:
                self.together.check_weights()
                self.checkpoint()
        except TrainingError as error:
            self.alive = False
            for folder in self._folders.values():
                folder.fail(step, str(error), events)
            return
        for number in self._folders:
            _tell(self.together.learners[number], metrics[number], events, steps_per_second)

    def checkpoint(self) -> None:
        """See `Work`."""
        state = {f"history.{n}": history for n, history in enumerate(self.history)}
        write_bytes(
            self._last.path / CHECKPOINT, save_safetensors({**self.together.state(), **state})
        )
        for number, folder in self._folders.items():
            folder.tell_progress(self.together.learners[number])

    @property
    def _last(self) -> RunFolder:
        """Of the run that is finished last: the place of the checkpoint."""
        return self._folders[max(self._folders)]

    def _restore(self) -> None:
        path = self._last.path / CHECKPOINT
        try:
            state = load_safetensors(path.read_bytes())
            self.history = [state.pop(f"history.{n}") for n in range(len(self.history))]
            self.together.restore(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise _damaged(path, error, "the runs trained together start over") from error

    def _finish(self) -> None:
        self.alive = False
        for number in sorted(self._folders):
            self._folders[number].finish(self.together.learners[number], self.history[number])


def works(
    runs: Sequence[RunSpec],
    first: Rows,
    batch: Callable[[int], Rows],
    store: Store,
    device: str = "cpu",
) -> list[Work]:
    """What is to be moved on for these runs, all missing; those already whole are put in place.

    Args:
        runs: of one data seed; those of an ensemble are all here.
        first: first batch of the stream, by site.
        batch: of the stream, by number.
        store: of the study.
        device: where they compute; `first` and `batch` are on the CPU.
    """

    def make(run: RunSpec) -> Learner:
        rows = first[run.site], first[run.target]
        return Learner(run, *rows, batches=RunBatches(run, batch), device=device)

    out: list[Work] = []
    for unit in units(runs):
        several = bool(unit[0].ensemble)
        one = Several(unit, make, store) if several else One(unit[0], make, store)
        if one.alive:
            out.append(one)
    return out


def _checkpoint_every(run: RunSpec) -> int:
    return max(1, run.training.checkpoint_tokens // run.training.batch)


def _damaged(path: Path, error: Exception, what: str) -> StoreError:
    return StoreError(
        f"{path} cannot be read ({error}). Delete {path.parent} and run again; {what}."
    )


def _tell(learner: Learner, metrics: Metrics, events: Events, steps_per_second: float) -> None:
    if (learner.step - 1) % _EVENT_EVERY_STEPS == 0 or learner.finished:
        rate = round(steps_per_second * learner.spec.training.batch, 1)
        seen = {"tokens": learner.tokens, "tokens_per_second": rate}
        events.emit("metrics", run=learner.spec.id, **seen, **metrics)
