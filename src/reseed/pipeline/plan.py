"""What a study would take, measured on this machine by a short probe, before anything runs.

Every stage of `reseed.pipeline.progress` has a line, with the pieces that are still missing.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reseed.events import events_of
from reseed.evidence.sampler import example_bytes, example_rows
from reseed.interpretation.costs import cost_sentences
from reseed.matching.assignment import DENSE_BELOW
from reseed.pipeline.power import gammas, lost_text, off_centre, tells, warnings
from reseed.pipeline.probes import (
    NOTHING_READ,
    encode_seconds,
    read_rows,
    seconds_of_pairs,
    step_seconds,
)
from reseed.pipeline.progress import names_of
from reseed.runs import Failed, Missing
from reseed.store import existing
from reseed.study import SUBJECT, Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.shards import Choice
from reseed.training.device import free_memory, learner_bytes, passes, sharing

if TYPE_CHECKING:
    from reseed.spec.training import RunSpec


_ARRAYS_OF_A_MATCH = 6
"""Dense float64 arrays alive at a time while two SAEs are matched."""

_BYTES_A_LATENT = 32_000
"""Without the matrix: .5 GiB at 16,384 latents, 2.5 at 131,072 (docs/matching.md)."""

_SECONDS_A_ROW = 80e-6
"""Of the evidence of one run for a held-out token, besides encoding it (docs/evidence.md)."""

_SECONDS_A_SILENT_ROW = 5e-6
"""The same where the subject reads no text, so that no windows are sampled."""

_SECONDS_A_PAGE = 2.0
"""Of the report."""

_BYTES_AN_EXAMPLE = 8
"""On disk, compressed (docs/evidence.md)."""

_VOCABULARY, _BYTES_A_LENS = 100_000, 250
"""Logits of each latent, since a head is opened only then; their bytes on disk."""

_BYTES_A_MATCHED_LATENT = 200
"""On disk, for each pair."""

_OF_PAIRS = ("match", "structure", "stability", "across")
"""Stages that are measured on two dictionaries."""

_OF_SUBJECT = ("through the subject", "substitution")
"""Stages that are as slow as a token through the subject."""


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
    warnings: list[str]
    """what the report would say against the numbers afterwards"""

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
        events = events_of(study.folder, progress)
        inputs, started = Inputs(study, events), time.monotonic()
        missing = [run.spec for run in study.runs if isinstance(run.state, Missing)]
        rows = int(inputs.opened.source.rows.max()) if missing else 0
        opening = time.monotonic() - started
        about = study.store.document(SUBJECT, "subject.json")
        sites: dict[str, int] = about["sites"]
        training_rows = about["training_rows"]
        failed = sum(isinstance(run.state, Failed) for run in study.runs)
        choice, groups = inputs.choice(), _passes(missing, sites)
        learners = max((sum(learner_bytes(r, sites[r.site]) for r in g) for g in groups), default=0)
        stages = [Stage(name="open", what="the subject", seconds=opening)] if missing else []
        reads = [name for stage in _OF_SUBJECT for name in names_of(study).get(stage, ())]
        read = NOTHING_READ
        if missing or not all(map(study.store.has, reads)):
            read = read_rows(inputs.opened.source, inputs.opened.blocks)
        stages += _harvests(study, inputs, choice, missing, read.seconds)
        if missing:
            stages.append(_training(missing, sites, len(groups), learners))
        stages += _analysis(study, sites, read.seconds)
        chunks = 3 * rows * study.spec.activations.mix_blocks * sum(sites.values()) * 4
        events.emit("planned", stages={stage.name: round(stage.seconds, 1) for stage in stages})
    return Plan(
        stages=stages,
        runs=len(study.runs),
        missing=len(missing),
        failed=failed,
        choice=choice,
        memory=_peak() + max(_matching_bytes(study), _example_bytes(study), chunks + learners),
        free_disk=shutil.disk_usage(existing(study.folder)).free,
        tells=tells(study.spec, len(sites))
        + cost_sentences(study)
        + _shared(missing, sites)
        + gammas(read.gamma, read.rows),
        warnings=warnings(study.spec, training_rows)
        + off_centre(study.spec.sae, read.gamma)
        + lost_text(study.store),
    )


def _harvests(
    study: Study, inputs: Inputs, choice: Choice, missing: Sequence[RunSpec], seconds: float
) -> list[Stage]:
    out = [_harvest(study, inputs, choice, seconds)] if missing else []
    if any(run.reads == "random_subject" for run in missing):
        other = inputs.of_random_subject  # of the same sizes, so it takes the same time
        second = _harvest(study.with_random_weights(), other, other.choice(), seconds)
        out.append(replace(second, name="harvest, random subject"))
    return out


def _harvest(study: Study, inputs: Inputs, choice: Choice, seconds: float) -> Stage:
    if inputs.harvested():
        return Stage(name="harvest", what="done")
    about = study.store.document(SUBJECT, "subject.json")
    rows = about["training_rows"] + about["held_out_rows"]
    seconds *= rows
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
        seconds=step_seconds(missing, sites) * training.steps,
        disk=sum(snapshots * 8 * run.sae.latents * sites[run.site] for run in missing),
    )


def _analysis(study: Study, sites: dict[str, int], read: float) -> list[Stage]:
    """The stages after training, by the pieces that each misses."""
    store, runs = study.store, [run.spec for run in study.runs]
    names = names_of(study)
    left = {
        stage: sum(not store.has(name) for name in pieces) for stage, pieces in names.items()
    }  # fmt: skip
    shares = {stage: left[stage] / len(pieces) for stage, pieces in names.items()}
    held_out = study.store.document(SUBJECT, "subject.json")["held_out_rows"]
    encode = encode_seconds(runs, sites) if any(map(left.get, ("evidence", "logits"))) else 0.0
    pairs = seconds_of_pairs(study, sites) if any(map(left.get, _OF_PAIRS)) else {}
    seconds = {
        "evidence": held_out * (encode + len(runs) * _row_seconds(study)),
        "co-firing": held_out * encode,
        "through the subject": study.spec.evidence.through_tokens * (1 + len(runs)) * read,
        "logits": _VOCABULARY * encode,
        "substitution": _substitution_tokens(study, len(names.get("substitution", ()))) * read,
        **(pairs or dict.fromkeys(_OF_PAIRS, 0.0)),
    }
    out = [
        Stage(
            name=stage,
            what=f"{left[stage]} of {len(names[stage])} pieces{_more(study, stage, held_out)}",
            seconds=seconds[stage] * shares[stage],
            disk=round(_disk(study, stage) * shares[stage]),
        )
        if left[stage]
        else Stage(name=stage, what="done")
        for stage in names
        if stage in seconds
    ]
    return [*out, Stage(name="report", what="a page", seconds=_SECONDS_A_PAGE)]


def _row_seconds(study: Study) -> float:
    return _SECONDS_A_ROW if _example_bytes(study) else _SECONDS_A_SILENT_ROW


def _substitution_tokens(study: Study, groups: int) -> float:
    """Windows of a pair through the subject as they are, without the latent, with its partner."""
    from reseed.evidence.substitution.stage import LENGTH, WINDOWS  # which needs torch

    return groups * study.spec.evidence.substitution_pairs * 3 * 1.5 * WINDOWS * LENGTH


def _disk(study: Study, stage: str) -> float:
    runs, spec = study.runs, study.spec.evidence
    latents = sum(run.spec.sae.latents for run in runs)
    if stage == "evidence":
        return latents * example_rows(spec) * _BYTES_AN_EXAMPLE if _example_bytes(study) else 0.0
    if stage == "logits":
        return latents * _BYTES_A_LENS
    others = len(study.spec.seeds.init) * len(study.spec.seeds.data) - 1
    return latents * others * _BYTES_A_MATCHED_LATENT / 2 if stage == "match" else 0.0


def _more(study: Study, stage: str, held_out: int) -> str:
    spec, bound = study.spec.evidence, _example_bytes(study)
    if stage != "evidence":
        return ""
    text = f", {held_out:,} held-out tokens"
    if bound:
        latents = sum(run.spec.sae.latents for run in study.runs)
        text += f", {spec.examples} windows of {spec.window} for each use and kind of "
        text += f"{latents:,} latents; at most {bound / 1e9:.2g} GB of memory"
    return text


def _example_bytes(study: Study) -> int:
    """Bytes that the examples of all runs take at the most, for they are sampled at once."""
    spec = study.spec.evidence
    if not spec.examples or (study.spec.text is None and not spec.toy_text):
        return 0
    return sum(example_bytes(run.spec.sae.latents, spec) for run in study.runs)


def _matching_bytes(study: Study) -> int:
    widest = max(sae.latents for sae in study.spec.sae)
    dense = widest**2 <= DENSE_BELOW
    return _ARRAYS_OF_A_MATCH * 8 * widest**2 if dense else _BYTES_A_LATENT * widest


def _shared(missing: Sequence[RunSpec], sites: dict[str, int]) -> list[str]:
    sentences = [sharing(run, sites[run.site], free_memory()) for run in missing]
    return list(dict.fromkeys(sentence for sentence in sentences if sentence))


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
