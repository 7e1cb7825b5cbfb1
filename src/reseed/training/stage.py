"""The door of training: makes the missing runs of a study, all of a data seed in one pass.

Where they do not fit into memory together, they are split over passes.

A run in work lies in `runs/ID.part` (one checkpoint file, replaced whole; snapshots), a finished
one in the piece `runs/ID`, a failed one leaves `runs/ID.failed.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reseed.events import Events, Stop
from reseed.runs import Missing, run_state
from reseed.spec.training import RunSpec
from reseed.store import Store
from reseed.training.device import free_memory, passes
from reseed.training.through import Downstream
from reseed.training.work import works


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
    device: str = "cpu",
) -> None:
    """Make the runs that are missing.

    Args:
        runs: of one study; all learn from the same activations.
        stream_of: the batches for a data seed.
        store: of the study.
        events: progress and metrics.
        stop: asked between steps; everything is saved before it raises.
        device: where they compute, as `device.chosen` gave it.

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
        groups = passes(of_seed, dimensions, _free(device))
        if len(groups) > 1:
            events.say(
                f"{len(of_seed)} runs do not fit into the free memory together; "
                f"they are trained in {len(groups)} passes"
            )
        for together in groups:
            _train_together(together, stream, store, events, stop, device)


def _train_together(
    runs: Sequence[RunSpec],
    stream: Batches,
    store: Store,
    events: Events,
    stop: Stop,
    device: str,
) -> None:
    first = stream.batch(0)
    work = works(runs, first, stream.batch, store, device)
    del first
    steps = max(run.training.steps for run in runs)
    start = min((w.step for w in work), default=steps)
    with events.task("train", steps - start, "steps") as task, stop.deferred():
        for step in range(start, steps):
            batch, downstream = _on(device, stream.batch(step)), stream.through(step)
            turn = [w for w in work if w.alive and w.step == step]  # others are ahead
            for w in turn:
                w.advance(batch, downstream, events, task.rate)
            made = [w for w in turn if w.step > step]
            note = f", FVU {np.mean([w.fvu(step) for w in made]):.3f}" if made else ""
            live = [w for w in work if w.alive]
            task.advance(1, f"{sum(w.runs for w in live or made)} runs{note}")
            if not live:
                break
            if stop.requested is not None:
                for w in live:
                    w.checkpoint()
                stop.check()


def _on(device: str, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch where it is learned from: sent there once for all runs."""
    return {site: rows.to(device) for site, rows in batch.items()}


def _free(device: str) -> int | None:
    if device == "cpu":
        return free_memory()
    return torch.cuda.mem_get_info(device)[0]
