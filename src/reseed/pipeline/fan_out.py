"""A study on an engine: all stages that are made in parts, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from reseed.cluster.engine import Engine, EngineSpec, Needs, fan_out
from reseed.events import Events
from reseed.pipeline.parts import STAGES, Division, make_part
from reseed.pipeline.plan import Plan
from reseed.spec.subject import LanguageModelSpec, subject_beside
from reseed.study import Study
from reseed.subjects.inputs import Inputs

LOGS = "work/logs"


def engine_of(spec: EngineSpec, logs: Path) -> Engine:
    """The engine that a spec names.

    Args:
        spec: of the engine.
        logs: folder for what workers print.

    Raises:
        SpecError: if its extra is not installed, or there is no such scheduler here.
    """
    if spec.on == "slurm":
        from reseed.cluster.slurm import Slurm

        return Slurm(spec, logs)
    if spec.on == "ray":
        from reseed.cluster.ray import Ray

        return Ray(spec)
    from reseed.cluster.local import Local

    return Local(spec, logs)


_START_SECONDS = 10.0
"""Of a part: a process, its imports, opening the subject."""


class Estimate(NamedTuple):
    """What a study takes on an engine."""

    hours: float
    """until it is done"""
    worker_hours: float
    """that are paid for"""
    cost: float | None
    """in the unit of the price"""


def estimate(planned: Plan, engine: EngineSpec) -> Estimate:
    """From the times of one process here: stages that are made in parts divide evenly.

    Args:
        planned: of the study.
        engine: how many workers, and the price of one for an hour.
    """
    shared = [stage.seconds for stage in planned.stages if stage.name in STAGES and stage.seconds]
    busy = sum(shared) / engine.workers + _START_SECONDS * len(shared)
    hours = (busy + planned.seconds - sum(shared)) / 3600
    worker_hours = busy / 3600 * engine.workers
    price = engine.price
    return Estimate(hours, worker_hours, None if price is None else price * worker_hours)


def too_large_for_one_gpu(study: Study, engine: EngineSpec) -> str | None:
    """For people: whether a worker needs several GPUs to hold the subject; None if not."""
    from reseed.subjects.over_ranks.spread import too_large

    subject = subject_beside(study.spec.subject, study.base)
    if not isinstance(subject, LanguageModelSpec):
        return None
    memory = None if engine.gpu_gib is None else int(engine.gpu_gib * 2**30)
    return too_large(subject, memory, engine.holders("cuda"))


def make_on(study: Study, engine: EngineSpec, events: Events, device: str, place: str) -> None:
    """Make all stages but the last ones on an engine; the study is held by this process.

    `device` is where parts compute, `place` where this process does.

    Raises:
        SpecError: if the engine is not there.
        StoreError: if parts are missing after three tries.
        Interrupted: after a signal.
    """
    engine_there = engine_of(engine, study.folder.absolute() / LOGS)
    inputs = Inputs(study, events, place)
    inputs.decide()
    parts = Division(study, inputs, engine.workers)
    for name in inputs.shards():  # those made before: once here, not by every worker
        if study.store.has(name, inputs.shards_made_from):
            study.store.checked(name, "rows.safetensors")
    for stage in STAGES:
        ranks = engine.holders(device) if stage == "harvest" else engine.ranks
        needs = Needs(device, engine.gpus, ranks)
        total = len(parts.of(stage))
        if not parts.missing(stage):
            continue
        events.say(f"{stage}: {total} parts on {engine.on}, {engine.workers} workers")
        with events.short(stage):
            fan_out(
                engine_there,
                make_part,
                study.folder,
                lambda stage=stage: [str(part) for part in parts.missing(stage)],
                needs,
                events,
            )
