"""What a study would take, measured on this machine by a short probe, before anything runs."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from reseed.activations.choice import Choice
from reseed.events import Events
from reseed.inputs import Inputs, existing
from reseed.matching.assignment import DENSE_BELOW, assign
from reseed.pipeline import locked
from reseed.sae.spec import SAESpec
from reseed.stability.power import sentences, trials_of
from reseed.stability.stage import stability_name
from reseed.study import SUBJECT, Study
from reseed.training.memory import free_memory, learner_bytes, passes
from reseed.training.state import Failed, Missing

if TYPE_CHECKING:
    from reseed.sae.architecture import Batch
    from reseed.training.spec import RunSpec

_PROBE = 1024
"""Latents in the assignment or the product that is timed."""
_ARRAYS_OF_A_MATCH = 6
"""Dense float64 arrays alive at a time while two SAEs are matched."""
_BYTES_A_LATENT = 32_000
"""Without the matrix: .5 GiB at 16,384 latents, 2.5 at 131,072 (docs/matching.md)."""
_PRODUCTS = 2.2
"""Time of a match without the matrix, in bare products of its size (docs/matching.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a plan."""

    name: str
    what: str
    seconds: float
    disk: int = 0
    """bytes"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done."""

    stages: list[Stage]
    runs: int
    missing: int
    failed: int
    choice: Choice
    memory: int
    """bytes at the most, estimated"""
    free_disk: int
    """bytes"""
    tells: list[str]
    """what the seeds will be able to tell"""

    @property
    def seconds(self) -> float:
        """All stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def disk(self) -> int:
        """Bytes that would be written."""
        return sum(stage.disk for stage in self.stages)


def make_plan(study: Study, events: Events) -> Plan:
    """Measure and add up. Opens the subject, and makes its tokens; starts nothing else.

    Raises:
        SpecError, SubjectError, StoreError: as `reseed run` would.
    """
    with locked(study, "reseed plan"):
        inputs = Inputs(study, events)
        inputs.look_up_sites()
        about = study.store.document(SUBJECT, "subject.json")
        missing = [run.spec for run in study.runs if isinstance(run.state, Missing)]
        failed = sum(isinstance(run.state, Failed) for run in study.runs)
        choice = inputs.choice()
        rows = about["training_rows"] + about["held_out_rows"]
        stages = [_harvest(study, inputs, choice, rows)] if missing else []
        if any(run.reads == "random_subject" for run in missing):
            stages.append(_second_harvest(study, inputs))
        stages += [_training(missing, about["sites"])] if missing else []
        stages.append(_analysis(study, about["sites"]))
    return Plan(
        stages=stages,
        runs=len(study.runs),
        missing=len(missing),
        failed=failed,
        choice=choice,
        memory=_memory(study, missing, about["sites"], inputs),
        free_disk=shutil.disk_usage(existing(study.folder)).free,
        tells=sentences(len(study.spec.seeds.init), len(study.spec.seeds.data)),
    )


def _harvest(study: Study, inputs: Inputs, choice: Choice, rows: int) -> Stage:
    from reseed.activations.shards import harvested

    if harvested(study.store, inputs.shards_made_from):
        return Stage(name="harvest", what="done", seconds=0.0)
    source = inputs.opened.source
    blocks = list(range(min(8, inputs.opened.blocks)))
    per_row = timed(lambda: source.read(blocks)) / max(int(source.rows[blocks].sum()), 1)
    if choice.keep == "live":
        return Stage(
            name="harvest",
            what=f"{rows:,} tokens live, {choice.passes} passes",
            seconds=per_row * rows * choice.passes,
        )
    what = f"{rows:,} tokens to shards, once"
    return Stage(name="harvest", what=what, seconds=per_row * rows, disk=choice.disk)


def _second_harvest(study: Study, inputs: Inputs) -> Stage:
    """Of the subject with random weights; the same sizes, so the same time."""
    other = inputs.of_random_subject
    about = study.with_random_weights().store.document(SUBJECT, "subject.json")
    rows = about["training_rows"] + about["held_out_rows"]
    found = _harvest(study.with_random_weights(), other, other.choice(), rows)
    return replace(found, name="harvest, random subject")


def _training(missing: list[RunSpec], sites: dict[str, int]) -> Stage:
    training = missing[0].training
    step = sum(
        count * _step_seconds(sae, sites[site], training.batch)
        for (sae, site), count in _counted(missing).items()
    )
    snapshots = len(training.snapshot_steps) + 1
    groups = _passes(missing, sites)
    largest = max(sum(learner_bytes(run, sites[run.site]) for run in group) for group in groups)
    return Stage(
        name="train",
        what=f"{len(missing)} runs of {training.steps:,} steps of {training.batch:,} tokens, in "
        f"{len(groups)} {'pass' if len(groups) == 1 else 'passes'} of at most {largest / 1e9:.2g} "
        "GB of weights and optimiser",
        seconds=step * training.steps,
        disk=sum(snapshots * 8 * r.sae.latents * sites[r.site] for r in missing),
    )


def _counted(runs: list[RunSpec]) -> dict[tuple[SAESpec, str], int]:
    shapes = [(run.sae, run.site) for run in runs]
    return {shape: shapes.count(shape) for shape in dict.fromkeys(shapes)}


def _step_seconds(sae: SAESpec, dimensions: int, batch: int) -> float:
    import torch

    from reseed.training.learner import Learner
    from reseed.training.spec import RunSpec, TrainingSpec

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(batch, dimensions))).float()
    training = TrainingSpec(tokens=100 * batch, batch=batch)
    spec = RunSpec(data="probe", site="probe", sae=sae, training=training, init_seed=0, data_seed=0)
    learner = Learner(spec, x, batches=_Random(batch, dimensions, sae.latents))
    return timed(lambda: learner.update(x), times=3)


class _Random:
    """Batches for architectures that read several at the start; as few as they can do with."""

    def __init__(self, batch: int, dimensions: int, latents: int) -> None:
        self._shape, self._most = (batch, dimensions), latents + batch

    def first(self, rows: int) -> Iterator[Batch]:
        import torch

        from reseed.sae.architecture import Batch

        numbers = np.random.default_rng(1)
        for _ in range(-(-min(rows, self._most) // self._shape[0])):
            x = torch.from_numpy(numbers.normal(size=self._shape)).float()
            yield Batch(x, x)

    last = first


def _analysis(study: Study, sites: dict[str, int]) -> Stage:
    """Matching, nulls and the rest; the assignments dominate."""
    runs = len(study.spec.seeds.init) * len(study.spec.seeds.data)
    pairs = len(list(combinations(range(runs), 2)))
    kinds = 1 + len(study.spec.controls.kinds)
    groups = study.groups() + [g for k in study.control_groups().values() for g in k.values()]
    if all(study.store.has(stability_name(group.name)) for group in groups) and (
        len(groups) == len({(run.spec.site, run.spec.sae) for run in study.runs}) * kinds
    ):
        return Stage(name="match", what="done", seconds=0.0)
    independent = runs * trials_of(len(study.spec.seeds.init), len(study.spec.seeds.data)) // 2
    nulls = independent * study.spec.stability.null_draws
    solves = 2 * (pairs * len(study.spec.training.snapshot_steps) + nulls)
    each = [_solve_seconds(sae.latents, max(sites.values())) for sae in study.spec.sae]
    total = len(sites) * len(study.spec.sae) * pairs * kinds
    return Stage(
        name="match",
        what=f"{total} pairs, {solves * len(sites) * len(study.spec.sae) * kinds} assignments",
        seconds=kinds * len(sites) * solves * sum(each),
        disk=kinds * sum(200 * sae.latents for sae in study.spec.sae) * len(sites) * pairs,
    )


def _solve_seconds(latents: int, dimensions: int) -> float:
    """Of one assignment, from one of `_PROBE` latents, or from one product of that size."""
    numbers = np.random.default_rng(0)
    if latents**2 <= DENSE_BELOW:
        similarity = numbers.normal(size=(_PROBE, _PROBE))
        return timed(lambda: assign(similarity), times=1) * (latents / _PROBE) ** 3
    rows = numbers.normal(size=(_PROBE, dimensions)).astype(np.float32)
    return _PRODUCTS * timed(lambda: rows @ rows.T) * (latents / _PROBE) ** 2


def _memory(study: Study, missing: list[RunSpec], sites: dict[str, int], inputs: Inputs) -> int:
    """Bytes at the most: what this process took for the probe, and what the work adds to it."""
    widest = max(sae.latents for sae in study.spec.sae)
    dense = widest**2 <= DENSE_BELOW
    matching = _ARRAYS_OF_A_MATCH * 8 * widest**2 if dense else _BYTES_A_LATENT * widest
    if not missing:
        return _peak() + matching
    rows = int(inputs.opened.source.rows.max()) * study.spec.activations.mix_blocks
    chunks = 3 * rows * sum(sites.values()) * 4
    groups = _passes(missing, sites)
    learners = max(sum(learner_bytes(run, sites[run.site]) for run in group) for group in groups)
    return _peak() + max(matching, chunks + learners)


def _passes(missing: list[RunSpec], sites: dict[str, int]) -> list[list[RunSpec]]:
    """The groups in which runs would be trained, by the memory that is free now."""
    sources = {(run.data_seed, run.reads) for run in missing}
    free = free_memory()
    return [
        group
        for source in sorted(sources, key=str)
        for group in passes(
            [run for run in missing if (run.data_seed, run.reads) == source], sites, free
        )
    ]


def _peak() -> int:
    """Bytes that this process has taken at the most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def timed(work: Callable[[], object], times: int = 2) -> float:
    """Seconds of a call: the fastest of several after one that warms up."""
    work()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
