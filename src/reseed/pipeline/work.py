"""Plain processes that share a study, under any scheduler or none."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

from reseed.errors import BusyError, Interrupted, SpecError
from reseed.matching.geometry import products_on
from reseed.pipeline.asking import ASKED, ask_all
from reseed.pipeline.parts import POLL_SECONDS, STAGES, Division, Job, make, session
from reseed.pipeline.run import run_study
from reseed.screen import Screen
from reseed.store import ask_to_stop
from reseed.study import DATA_FILE, Study
from reseed.training.device import chosen

_LEAVING = 10.0
"""Seconds that the last may take from its end as a worker to giving the folder back."""


def work(
    study: Study,
    *,
    stage: str | None = None,
    share: tuple[int, int] = (1, 1),
    minutes: float | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> bool:
    """Make what is missing until nothing is left, beside any number of processes that do the same.

    Args:
        study: whose folder all of them see.
        stage: one stage alone, whose predecessors are done; left out, all and the page. `"explain"`
            and `"score"` ask the models that the study names, and are never done unasked.
        share: number and count of this process among them, from 1; where it begins.
        minutes: after which it saves and ends.
        device: where to compute.
        progress: whether to say what is done.

    Returns:
        Whether all is made; False when the time was up.

    Raises:
        SpecError: if there is no such stage.
        Interrupted: after a signal; everything is saved.
    """
    if stage is not None and stage not in (*STAGES, *ASKED):
        every = ", ".join((*STAGES, *ASKED))
        raise SpecError(f"there is no stage {stage!r}; stages are {every}")
    timer = threading.Timer(60 * (minutes or 0), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    ends = time.monotonic() + 60 * minutes if minutes else float("inf")
    try:
        if minutes:
            timer.start()
        with session(study, chosen(device), part="waiting") as job, products_on(job.device):
            if stage in ASKED:
                ask_all(job, stage, share, progress=progress)
                return True
            _open(job)
            for name in STAGES if stage is None else (stage,):
                _work_at(name, share, job, progress=progress)
            if stage is None:
                _finish(job)
    except Interrupted:
        if time.monotonic() >= ends:
            return False
        raise
    finally:
        timer.cancel()
    return True


def _open(job: Job) -> None:
    """Let one of all processes look up sites and cut the text, and settle what all must share."""
    study = job.study
    while not job.process.claim("open"):
        time.sleep(POLL_SECONDS)
    try:
        if not study.store.path(DATA_FILE).exists():
            with suppress(BusyError), study.locked("reseed work"):
                pass
        job.inputs.decide()
    finally:
        job.process.release("open")


def _work_at(stage: str, share: tuple[int, int], job: Job, *, progress: bool) -> None:
    """Make parts of a stage that nobody is at, beginning at this share, until none is missing."""
    number, of = share
    parts, process = Division(job.study, job.inputs, of), job.process
    while missing := parts.missing(stage):
        begin = (number - 1) * len(missing) // of
        claimed = False
        for part in [*missing[begin:], *missing[:begin]]:
            if not process.claim(str(part)):
                continue
            claimed = True
            try:
                if parts.lacks(part):  # not made by another in the meantime
                    process.say(part=str(part))
                    if progress:
                        Screen(stderr=True).print(str(part))
                    make(part, parts, job)
            finally:
                process.release(str(part))
        process.say(part="waiting")
        if not claimed:
            time.sleep(POLL_SECONDS)


def _finish(job: Job) -> None:
    """The last stages and the page, made by one of all; the others wait for it."""
    process = job.process
    first = process.claim("report")
    while not first and not process.claim("report"):
        time.sleep(POLL_SECONDS)
    try:
        if first:
            process.say(part="report")
            run_study(job.study, job.events, job.stop, command="reseed work", device=job.device)
    finally:
        process.release("report")


def cancel(study: Study, wait: float = 120.0) -> list[str]:
    """Ask all processes that work at a study, on any machine, to save and to end.

    Args:
        study: whose folder they see.
        wait: seconds until which they should be gone.

    Returns:
        Those that are still there. Whoever holds the study without being asked is among them:
        `reseed explain` and the like end by Ctrl-C where they run.
    """
    left, last = ask_to_stop(study.folder, wait), time.monotonic() + _LEAVING
    while not left and (holder := study.store.holder()) is not None:
        if time.monotonic() > last:
            return [holder]
        time.sleep(POLL_SECONDS)
    return left
