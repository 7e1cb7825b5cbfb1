"""What a study would take, measured on this machine by a short probe, before anything runs."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from reseed.events import Events
from reseed.evidence.examples.samples import example_bytes, example_rows
from reseed.interpretation.estimate import asks
from reseed.matching.assignment import DENSE_BELOW, assign
from reseed.pipeline.power import of_factors, sentences, trials_of
from reseed.runs import Failed, Missing, evidence_name, stability_name
from reseed.sae.architectures.names import SAESpec
from reseed.stability.factors.across import PARTNERS, neighbours
from reseed.stability.factors.stage import levels_of
from reseed.store import existing
from reseed.study import SUBJECT, Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.stream import Choice
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
    with study.locked("reseed plan"):
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
        stages += _evidence(study, about["sites"], about["held_out_rows"])
        stages.append(_analysis(study, about["sites"]))
    return Plan(
        stages=stages,
        runs=len(study.runs),
        missing=len(missing),
        failed=failed,
        choice=choice,
        memory=_memory(study, missing, about["sites"], inputs),
        free_disk=shutil.disk_usage(existing(study.folder)).free,
        tells=_tells(study, len(about["sites"])) + asks(study),
    )


def _tells(study: Study, sites: int) -> list[str]:
    seeds, training = study.spec.seeds, study.spec.training
    levels = _levels(study.spec.sae)
    what = "k" if all("k" in one for one in levels) else "architecture"
    shapes = [(one["latents"], one[what]) for one in levels]
    snapshots = len(training.snapshot_steps) - 1
    groups = of_factors(shapes, sites, snapshots, len(seeds.init) * len(seeds.data), what)
    return sentences(len(seeds.init), len(seeds.data)) + groups


def _harvest(study: Study, inputs: Inputs, choice: Choice, rows: int) -> Stage:
    from reseed.subjects.shards import harvested

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

    from reseed.spec.training import RunSpec, TrainingSpec
    from reseed.training.learner import Learner

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(batch, dimensions))).float()
    training = TrainingSpec(tokens=100 * batch, batch=batch)
    spec = RunSpec(data="probe", site="probe", sae=sae, training=training, init_seed=0, data_seed=0)
    learner = Learner(spec, x, batches=_Random(batch, dimensions, sae.latents))
    return timed(lambda: learner.update(x), times=3)


def _evidence(study: Study, sites: dict[str, int], held_out: int) -> list[Stage]:
    """The pass over held-out text; nothing is said of a subject without text."""
    spec, runs = study.spec.evidence, [run.spec for run in study.runs]
    made = all(study.store.has(evidence_name(run.id)) for run in runs)
    if made or not _samples_examples(study):
        return []
    step = sum(
        count * _step_seconds(sae, sites[site], study.spec.training.batch)
        for (sae, site), count in _counted(runs).items()
    )
    each = step / study.spec.training.batch + len(runs) * _SECONDS_A_ROW
    latents, bound = sum(run.sae.latents for run in runs), _example_memory(study)
    return [
        Stage(
            name="evidence",
            what=f"{held_out:,} held-out tokens, {spec.examples} windows of {spec.window} for each "
            f"use and kind of {latents:,} latents; at most {bound / 1e9:.2g} GB of memory",
            seconds=held_out * each,
            disk=latents * example_rows(spec) * _BYTES_AN_EXAMPLE,
        )
    ]


def _samples_examples(study: Study) -> bool:
    return study.spec.evidence.examples > 0 and (
        study.spec.text is not None or study.spec.evidence.toy_text
    )


def _example_memory(study: Study) -> int:
    """Bytes that the examples of all runs take at the most, for they are sampled at once."""
    if not _samples_examples(study):
        return 0
    return sum(example_bytes(run.spec.sae.latents, study.spec.evidence) for run in study.runs)


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
    # a pair across groups is matched by both views, and so is one draw of its null
    across = 4 * runs * min(PARTNERS, trials_of(len(study.spec.seeds.init), 1))
    between = [max(each[a], each[b]) for a, b in _neighbours(study.spec.sae)]
    count = len(sites) * (solves * len(each) * kinds + across * len(between))
    return Stage(
        name="match",
        what=f"{total} pairs, {count} assignments",
        seconds=len(sites) * (kinds * solves * sum(each) + across * sum(between)),
        disk=kinds * sum(200 * sae.latents for sae in study.spec.sae) * len(sites) * pairs,
    )


def _levels(saes: Sequence[SAESpec]) -> list[dict[str, Any]]:
    """What the SAEs of a site are compared by, see `reseed.stability.factors.stage`."""
    return list(levels_of({str(at): _about(sae) for at, sae in enumerate(saes)}).values())


def _about(sae: SAESpec) -> dict[str, Any]:
    return {"site": "", **sae.model_dump(mode="json")}


def _neighbours(saes: Sequence[SAESpec]) -> list[tuple[int, int]]:
    """Places of the SAEs that are matched across groups: they differ in one of width and k."""
    levels = {str(at): one for at, one in enumerate(_levels(saes))}
    return [(int(two.small), int(two.large)) for two in neighbours(levels)]


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
    matching = max(matching, _example_memory(study))
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
