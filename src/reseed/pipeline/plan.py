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

from reseed.events import events_of
from reseed.evidence.sampler import example_bytes, example_rows
from reseed.interpretation.costs import cost_sentences
from reseed.matching.assignment import DENSE_BELOW, assign
from reseed.pipeline.power import matched_across, tells, trials_of
from reseed.runs import Failed, Missing, evidence_name, stability_name
from reseed.stability.factors.across import PARTNERS
from reseed.store import existing
from reseed.study import SUBJECT, Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.shards import Choice
from reseed.training.device import free_memory, learner_bytes, passes

if TYPE_CHECKING:
    from reseed.sae.architecture import Batch
    from reseed.spec.training import RunSpec


_PROBE = 1024
"""Latents in the assignment or the product that is timed."""

_ARRAYS_OF_A_MATCH = 6
"""Dense float64 arrays alive at a time while two SAEs are matched."""

_BYTES_A_LATENT = 32_000
"""Without the matrix: .5 GiB at 16,384 latents, 2.5 at 131,072 (docs/matching.md)."""

_PRODUCTS = 2.2
"""Time of a match without the matrix, in bare products of its size (docs/matching.md)."""

_SECONDS_A_ROW = 80e-6
"""Of the evidence of one run for a held-out token, besides encoding it (docs/evidence.md)."""

_BYTES_AN_EXAMPLE = 8
"""On disk, compressed (docs/evidence.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a plan."""

    name: str
    what: str
    seconds: float = 0.0
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


def plan(study: Study, *, progress: bool = False) -> Plan:
    """What a study would take, measured by a short probe.

    Opens the subject and makes its tokens; starts nothing else.

    Args:
        study: from `Study.load`.
        progress: whether to show it.

    Raises:
        SpecError, SubjectError, StoreError: as `run` would.
    """
    with study.locked("reseed plan"):
        inputs = Inputs(study, events_of(study.folder, progress))
        about = study.store.document(SUBJECT, "subject.json")
        sites: dict[str, int] = about["sites"]
        missing = [run.spec for run in study.runs if isinstance(run.state, Missing)]
        failed = sum(isinstance(run.state, Failed) for run in study.runs)
        choice = inputs.choice()
        stages = [_harvest(study, inputs, choice)] if missing else []
        if any(run.reads == "random_subject" for run in missing):
            other = inputs.of_random_subject  # of the same sizes, so it takes the same time
            second = _harvest(study.with_random_weights(), other, other.choice())
            stages.append(replace(second, name="harvest, random subject"))
        groups = _passes(missing, sites)
        learners = max((sum(learner_bytes(r, sites[r.site]) for r in g) for g in groups), default=0)
        if missing:
            stages.append(_training(missing, sites, len(groups), learners))
        stages += _evidence(study, sites, about["held_out_rows"])
        stages.append(_analysis(study, sites))
        chunks = 0
        if missing:  # three chunks of float32 rows at a time
            rows = int(inputs.opened.source.rows.max()) * study.spec.activations.mix_blocks
            chunks = 3 * rows * sum(sites.values()) * 4
    return Plan(
        stages=stages,
        runs=len(study.runs),
        missing=len(missing),
        failed=failed,
        choice=choice,
        memory=_peak() + max(_matching_bytes(study), _example_bytes(study), chunks + learners),
        free_disk=shutil.disk_usage(existing(study.folder)).free,
        tells=tells(study.spec, len(sites)) + cost_sentences(study),
    )


def _harvest(study: Study, inputs: Inputs, choice: Choice) -> Stage:
    from reseed.subjects.shards import harvested

    if harvested(study.store, inputs.shards_made_from):
        return Stage(name="harvest", what="done")
    about = study.store.document(SUBJECT, "subject.json")
    rows = about["training_rows"] + about["held_out_rows"]
    source = inputs.opened.source
    blocks = list(range(min(8, inputs.opened.blocks)))
    seconds = rows * timed(lambda: source.read(blocks)) / max(int(source.rows[blocks].sum()), 1)
    if choice.keep == "live":
        what = f"{rows:,} tokens live, {choice.passes} passes"
        return Stage(name="harvest", what=what, seconds=seconds * choice.passes)
    what = f"{rows:,} tokens to shards, once"
    return Stage(name="harvest", what=what, seconds=seconds, disk=choice.disk)


def _training(missing: list[RunSpec], sites: dict[str, int], passes: int, largest: int) -> Stage:
    training = missing[0].training
    snapshots = len(training.snapshot_steps) + 1
    return Stage(
        name="train",
        what=f"{len(missing)} runs of {training.steps:,} steps of {training.batch:,} tokens, in "
        f"{passes} {'pass' if passes == 1 else 'passes'} of at most {largest / 1e9:.2g} "
        "GB of weights and optimizer state",
        seconds=_step_seconds(missing, sites) * training.steps,
        disk=sum(snapshots * 8 * run.sae.latents * sites[run.site] for run in missing),
    )


def _step_seconds(runs: list[RunSpec], sites: dict[str, int]) -> float:
    """Of one step of all these runs; each kind of SAE at each site is timed once."""
    import torch

    from reseed.spec.training import RunSpec, TrainingSpec
    from reseed.training.learner import Learner

    batch, total = runs[0].training.batch, 0.0
    training = TrainingSpec(tokens=100 * batch, batch=batch)
    shapes = [(run.sae, sites[run.site], run.site) for run in runs]
    for shape in dict.fromkeys(shapes):
        sae, dimensions, _ = shape
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(batch, dimensions))).float()
        spec = RunSpec(data="", site="probe", sae=sae, training=training, init_seed=0, data_seed=0)
        learner = Learner(spec, x, batches=_Random(batch, dimensions, sae.latents))
        seconds = timed(lambda learner=learner, x=x: learner.update(x), times=3)
        total += shapes.count(shape) * seconds
    return total


def _evidence(study: Study, sites: dict[str, int], held_out: int) -> list[Stage]:
    """The pass over held-out text; nothing is said of a subject without text."""
    spec, runs = study.spec.evidence, [run.spec for run in study.runs]
    made = all(study.store.has(evidence_name(run.id)) for run in runs)
    bound = _example_bytes(study)
    if made or not bound:
        return []
    each = _step_seconds(runs, sites) / runs[0].training.batch + len(runs) * _SECONDS_A_ROW
    latents = sum(run.sae.latents for run in runs)
    return [
        Stage(
            name="evidence",
            what=f"{held_out:,} held-out tokens, {spec.examples} windows of {spec.window} for each "
            f"use and kind of {latents:,} latents; at most {bound / 1e9:.2g} GB of memory",
            seconds=held_out * each,
            disk=latents * example_rows(spec) * _BYTES_AN_EXAMPLE,
        )
    ]


def _example_bytes(study: Study) -> int:
    """Bytes that the examples of all runs take at the most, for they are sampled at once."""
    spec = study.spec.evidence
    if not spec.examples or (study.spec.text is None and not spec.toy_text):
        return 0
    return sum(example_bytes(run.spec.sae.latents, spec) for run in study.runs)


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
        return Stage(name="match", what="done")
    independent = runs * trials_of(len(study.spec.seeds.init), len(study.spec.seeds.data)) // 2
    nulls = independent * study.spec.stability.null_draws
    solves = 2 * (pairs * len(study.spec.training.snapshot_steps) + nulls)
    each = [_solve_seconds(sae.latents, max(sites.values())) for sae in study.spec.sae]
    total = len(sites) * len(study.spec.sae) * pairs * kinds
    # a pair across groups is matched by both views, and so is one draw of its null
    across = 4 * runs * min(PARTNERS, trials_of(len(study.spec.seeds.init), 1))
    between = [max(each[a], each[b]) for a, b in matched_across(study.spec.sae)]
    count = len(sites) * (solves * len(each) * kinds + across * len(between))
    return Stage(
        name="match",
        what=f"{total} pairs, {count} assignments",
        seconds=len(sites) * (kinds * solves * sum(each) + across * sum(between)),
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


def _matching_bytes(study: Study) -> int:
    widest = max(sae.latents for sae in study.spec.sae)
    dense = widest**2 <= DENSE_BELOW
    return _ARRAYS_OF_A_MATCH * 8 * widest**2 if dense else _BYTES_A_LATENT * widest


def _passes(missing: list[RunSpec], sites: dict[str, int]) -> list[list[RunSpec]]:
    """The groups in which runs would be trained, by the memory that is free now."""
    free = free_memory()
    by_source: dict[str, list[RunSpec]] = {}
    for run in missing:
        by_source.setdefault(f"{run.data_seed} {run.reads}", []).append(run)
    return [group for runs in by_source.values() for group in passes(runs, sites, free)]


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
