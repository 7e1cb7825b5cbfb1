"""A study's work in parts, made by processes anywhere that see its folder.

A part is some pieces of one stage. Who makes it asks the store what is there, so that a part may be
started again, or twice at once: it costs time, and the bits stay the same.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reseed.errors import Interrupted, SpecError, StoreError, TrainingError, explained
from reseed.events import EVENTS_FOLDER, Events, JsonlSink, Stop
from reseed.evidence.display.logits import gather_logits
from reseed.evidence.stage import stage as gather
from reseed.matching.geometry import products_on
from reseed.matching.stage import stage as match
from reseed.pipeline.progress import names_of
from reseed.runs import Failed, run_name
from reseed.stability.stage import stage as assess
from reseed.store import Process, working
from reseed.study import Study
from reseed.subjects.inputs import DECIDED, Inputs
from reseed.training.device import chosen, units
from reseed.training.shards.launch import command, joined, world_size

if TYPE_CHECKING:
    from reseed.subjects.over_ranks.spread import ProcessGroup

STAGES = (
    "harvest", "train", "match", "evidence", "co-firing", "through the subject", "substitution",
    "logits", "structure", "stability",
)  # fmt: skip
"""Those that are made in parts, in order; each needs all of those before."""

_TOGETHER = ("train", "evidence", "through the subject", "logits")
"""Stages whose pieces share a pass over the rows: as few parts as there are workers."""

_PARTS_A_WORKER = 4
"""Of the other stages at the most, so that nobody waits long for the slowest."""

_LEAST_IN_A_PART = 8
"""Pieces, where a worker makes several parts: each costs a start."""

POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th of `of` parts of a stage, counted from 1."""

    stage: str
    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.stage} {self.number}/{self.of}"

    @classmethod
    def read(cls, text: str) -> Part:
        """What `str` gave.

        Raises:
            SpecError: if it is no part.
        """
        stage, _, share = text.rpartition(" ")
        number, of = read_share(share)
        if stage not in STAGES:
            raise SpecError(f"{text!r} is no part of a stage; stages are {', '.join(STAGES)}")
        return cls(stage, number, of)


def read_share(text: str) -> tuple[int, int]:
    """Number and count of a share like `3/16`.

    Raises:
        SpecError: if it is none.
    """
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise SpecError(f"{text!r} is no share; the third of sixteen is 3/16")
    return int(number), int(of)


Bundle = list[str]
"""Names of pieces that must be made together."""


class Division:
    """Which parts a study has and which are missing.

    Args:
        study: whose subject was opened once.
        inputs: its activations.
        workers: that share the work.
    """

    def __init__(self, study: Study, inputs: Inputs, workers: int) -> None:
        self._study, self._inputs, self._workers = study, inputs, workers

    def of(self, stage: str) -> list[Part]:
        """All parts of a stage."""
        return self._parts(stage, self._bundles(stage))

    def missing(self, stage: str) -> list[Part]:
        """Those that lack a piece."""
        bundles = self._bundles(stage)
        absent = set(self._absent(stage, [name for bundle in bundles for name in bundle]))
        return [
            part for part in self._parts(stage, bundles) if absent.intersection(_of(part, bundles))
        ]

    def lacks(self, part: Part) -> list[str]:
        """Names of the pieces of a part that are not there."""
        return self._absent(part.stage, _of(part, self._bundles(part.stage)))

    def _parts(self, stage: str, bundles: Sequence[Bundle]) -> list[Part]:
        share = 1
        if stage not in _TOGETHER:
            share = len(bundles) // (_LEAST_IN_A_PART * self._workers)
            share = max(1, min(_PARTS_A_WORKER, share))
        count = min(len(bundles), share * self._workers)
        return [Part(stage, number, count) for number in range(1, count + 1)]

    def _absent(self, stage: str, names: Sequence[str]) -> list[str]:
        """Those that are not there; runs that have failed are as good as made."""
        made_from = self._inputs.shards_made_from if stage == "harvest" else None
        absent = [name for name in names if not self._study.store.has(name, made_from)]
        if stage != "train" or not absent:
            return absent
        failed = {run_name(run.spec) for run in self._study.runs if isinstance(run.state, Failed)}
        return [name for name in absent if name not in failed]

    def _bundles(self, stage: str) -> list[Bundle]:
        """Names of the pieces of a stage; those that must be made together are one bundle."""
        if stage == "harvest":
            return [[name] for name in self._inputs.shards()]
        if stage != "train":
            return [[name] for name in names_of(self._study).get(stage, [])]
        # also those that fail meanwhile, so that parts stay what they are; runs of one data seed
        # lie side by side, so that a part reads the activations once
        runs = [run.spec for run in self._study.runs]
        runs.sort(key=lambda run: (run.reads or "", run.data_seed))
        return [[run_name(run) for run in unit] for unit in units(runs)]


def _of(part: Part, bundles: Sequence[Bundle]) -> list[str]:
    """Names of the pieces of a part."""
    ends = (len(bundles) * end // part.of for end in (part.number - 1, part.number))
    return [name for bundle in bundles[slice(*ends)] for name in bundle]


@dataclass
class Job:
    """This process at a study, beside others."""

    study: Study
    process: Process
    events: Events
    stop: Stop
    device: str
    """as `device.chosen` gave it"""
    ranks: ProcessGroup | None = None
    """that hold the subject together"""

    @cached_property
    def inputs(self) -> Inputs:
        """The activations; at the first use the subject's sites are looked up, if nobody did."""
        inputs = Inputs(self.study, self.events, self.device, self.ranks)
        inputs.hashed = False  # by whoever made them, and by the driver
        return inputs


def make_part(folder: str, part: str, device: str, ranks: int = 1) -> None:
    """Make the pieces of a part that are missing; the door of engines.

    Args:
        folder: of the study, whose inputs have been settled (`Inputs.decide`).
        part: as `str(Part)` gives it.
        device: where to compute.
        ranks: processes that share each run whose `blocks` is above 1, or hold the subject.

    Raises:
        Interrupted: after a signal; everything is saved.
        ReseedError: what a stage raises.
    """
    wanted, study = Part.read(part), shared(folder)
    if ranks > 1 and wanted.stage in ("train", "harvest") and world_size() == 1:
        _on_ranks(ranks, ["work", folder, "--part", part, "--device", device])
        return
    with session(study, chosen(device), part=part) as job, products_on(job.device):
        if wanted.stage == "harvest":
            job.ranks = joined()
        make(wanted, Division(study, job.inputs, wanted.of), job)


def _on_ranks(ranks: int, arguments: list[str]) -> None:
    """The same by several processes; what they print goes where this one's goes."""
    with Stop().listening() as stop, subprocess.Popen(command(ranks, arguments)) as started:
        try:
            code = started.wait()
        except Interrupted:
            started.send_signal(signal.SIGTERM)
            code = started.wait()
    if stop.requested is not None or code in (128 + signal.SIGTERM, -signal.SIGTERM):
        raise Interrupted(stop.requested or signal.SIGTERM)
    if code:
        raise TrainingError(f"{ranks} ranks ended with {code}; above is what they said")


def make(part: Part, parts: Division, job: Job) -> None:
    """Make a part; runs that another process is at are waited for, and fall to this one if it dies.

    Raises:
        StoreError: if a stage has not made what it should.
    """
    while names := parts.lacks(part):
        if part.stage == "harvest":
            job.inputs.harvest(names)
        elif part.stage == "train":
            from reseed.training.stage import stage as train

            train(job.study, job.events, job.inputs, job.stop, job.device, names)
        elif part.stage == "match":
            match(job.study, job.events, names)
        elif part.stage in ("structure", "stability"):
            assess(job.study, job.events, names)
        elif part.stage == "logits":
            gather_logits(job.study, job.events, job.device, names)
        else:
            gather(job.study, job.events, job.inputs, names)
        left = parts.lacks(part)
        if left and part.stage != "train":
            raise StoreError(
                f"{part.stage} has not made {', '.join(left[:3])}, since what it is made from is "
                "missing; `reseed run` makes all that is."
            )
        if left:
            time.sleep(POLL_SECONDS)


def shared(folder: str | Path) -> Study:
    """A study by its folder, as whoever prepared it saw it."""
    study = Study.load(folder)
    path = study.store.path(DECIDED)
    if path.exists() and (base := study.store.read_json(DECIDED).get("base")):
        study.base = Path(base)
    return study


@contextmanager
def session(study: Study, device: str, **about: str) -> Generator[Job, None, None]:
    """This process at a study beside others: its events, signals, and a name that they see."""
    with Stop().listening() as stop, working(study.folder, stop.end, **about) as process:
        folder = study.folder / EVENTS_FOLDER
        with explained(folder):
            folder.mkdir(exist_ok=True)
        events = Events(JsonlSink(folder / f"{process.id}.jsonl"))
        yield Job(study, process, events, stop, device, joined() if device != "cpu" else None)
