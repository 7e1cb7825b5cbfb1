"""The stages of a study in order. Each makes what is missing, so running again continues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from reseed.errors import StoreError
from reseed.events import Events, Sink, Stop, session
from reseed.evidence.stage import stage as gather
from reseed.matching.stage import stage as match
from reseed.report.study import write_report
from reseed.runs import Done, Failed, Missing, Run, forget_failure, stability_name, through_name
from reseed.spec.subject import PRECISION
from reseed.stability.factors.compare import compare_groups
from reseed.stability.notes import notes
from reseed.stability.nulls import null_of_control
from reseed.stability.stage import assess
from reseed.stability.structure import structure_groups
from reseed.study import SUBJECT, Study
from reseed.subjects.inputs import Inputs
from reseed.training.device import chosen

REPORT = "report.html"

SUMMARY = "summary.json"


class Outcome(NamedTuple):
    """What a run of the stages ended with."""

    report: Path
    failed: list[Run]
    seconds: float


def run(
    study: Study,
    *,
    progress: bool = True,
    sinks: Sequence[Sink] = (),
    retry_failed: bool = False,
    device: str = "cpu",
) -> Outcome:
    """Make everything of a study that is not there yet; calling it again continues.

    Args:
        study: from `Study.load`.
        progress: whether to show it.
        sinks: take every event besides `events.jsonl`; for wandb, TensorBoard and the like.
        retry_failed: whether runs that failed are tried again.
        device: where the subject and the trainings compute: `"cpu"`, `"cuda"`, `"cuda:1"` and so
            on, or `"auto"` for a GPU if there is one.

    Returns:
        Path of the report, and the runs that failed.

    Raises:
        SpecError, SubjectError: if it cannot be done as written; nothing was started.
        StoreError: if the folder is damaged, full, read-only, busy or of another spec.
        Interrupted: after a signal; the same call continues.
    """
    with session(study.folder, progress, sinks) as (events, stop):
        return run_study(study, events, stop, retry_failed=retry_failed, device=device)


def run_study(
    study: Study,
    events: Events,
    stop: Stop,
    *,
    command: str = "reseed run",
    retry_failed: bool = False,
    device: str = "cpu",
) -> Outcome:
    """What `run` does, with events and signals of the caller.

    Args:
        study: what to make.
        events: progress.
        stop: listens for signals.
        command: as shown to somebody who tries to start a second process.
        retry_failed: whether runs that failed are tried again.
        device: where the subject and the trainings compute.
    """
    started, place = time.monotonic(), chosen(device)
    with study.locked(command):
        if place != "cpu":
            events.say(f"the subject and the trainings compute on {place}")
        inputs = Inputs(study, events, place)
        if retry_failed:
            for run in study.runs:
                forget_failure(run.spec, study.store)
        if any(isinstance(run.state, Missing) for run in study.runs):
            from reseed.training.stage import stage as train

            train(study, events, inputs, stop, place)
        match(study, events)
        groups = study.all_groups()
        together = [g.runs for g in groups]
        if groups:
            last = groups[0].steps[-1]
            structure_groups(together, last, study.spec.matching, study.store, events)
        gather(study, events, inputs)
        assess(groups, study.spec.matching, study.spec.stability, study.store, events)
        factors = compare_groups(study.groups(), study.spec.matching, study.store, events)
        _summarise(study, factors)
        write_report(study.store, REPORT)
    failed = [run for run in study.runs if isinstance(run.state, Failed)]
    return Outcome(study.folder / REPORT, failed, time.monotonic() - started)


def _summarise(study: Study, factors: dict[str, Any] | None) -> None:
    """Write `summary.json`: the headline numbers of all groups, keys in docs/summary.md."""
    store, runs = study.store, study.runs
    about = store.document(SUBJECT, "subject.json")
    epochs = study.spec.training.tokens / about["training_rows"]
    groups: list[dict[str, Any]] = []
    for group in study.groups():
        name = stability_name(group.name)
        about_group = {"group": group.name, **store.document(name, "summary.json")}
        trend: dict[int, float] = {}
        if "headline" in about_group:
            table = store.table(name, "trend.parquet").filter(measure="shared")
            trend = dict(table.select("tokens", "value").iter_rows())
        about_group["controls"] = _controls(study, group.name)
        about_group["through_subject"] = _through(study, group.runs)
        specs = [run.spec for run in runs if run.id in group.runs]
        pulled = any(spec.ensemble and spec.sae.mutual for spec in specs)
        promised = specs[0].sae.promised_l0
        about_group["notes"] = notes(about_group, trend, epochs, promised, pulled=pulled)
        groups.append(about_group)
    done = [run.id for run in runs if isinstance(run.state, Done)]
    missing = [run.id for run in runs if isinstance(run.state, Missing)]
    failed = {run.id: run.state.reason for run in runs if isinstance(run.state, Failed)}
    activations = {
        "sites": about["sites"],
        "training_tokens": about["training_rows"],
        "held_out_tokens": about["held_out_rows"],
    }
    if store.has(PRECISION):
        activations["change_from_float32"] = store.document(PRECISION, "change.json")
    summary = {
        "reseed": version("reseed"),
        "study": study.folder.resolve().name,
        "subject": study.spec.subject.model_dump(mode="json"),
        "activations": activations,
        "training": {
            "tokens": study.spec.training.steps * study.spec.training.batch,
            "epochs": epochs,
            "init_seeds": list(study.spec.seeds.init),
            "data_seeds": list(study.spec.seeds.data),
        },
        "runs": {"done": done, "missing": missing, "failed": failed},
        "groups": groups,
        "factors": factors,
    }
    store.write_json(SUMMARY, summary)


def _through(study: Study, runs: Sequence[str]) -> dict[str, float] | None:
    """Means over the runs of what reconstructions do to the predictions; None if not asked for."""
    if not study.spec.evidence.through_tokens:
        return None
    each = [study.store.document(through_name(run), "through.json") for run in runs]
    return {key: sum(effects[key] for effects in each) / len(each) for key in each[0]}


def _controls(study: Study, group: str) -> dict[str, Any]:
    """What the control runs of a group share; null where fewer than two of a kind are done."""
    out: dict[str, Any] = {}
    groups = study.control_groups().get(group, {})
    kept = ("counts", "reconstruction", "distance_from_init")
    for kind in study.spec.controls.kinds:
        null = null_of_control(kind)
        out[kind] = {"null": null.id, "rules_out": null.rules_out}
        out[kind] |= dict.fromkeys(("group", *kept, "shared"))
        if kind in groups:
            name = groups[kind].name
            summary = study.store.document(stability_name(name), "summary.json")
            out[kind] |= {"group": name} | {key: summary[key] for key in kept}
            if "headline" in summary:
                out[kind]["shared"] = summary["headline"]["shared"]
    return out


def rewrite_report(study: Study) -> Path:
    """Write the page of a study anew from what is in its folder. Needs no torch."""
    study.check_folder()
    if not study.store.path(SUMMARY).exists():
        raise StoreError(f"{study.folder} has no results yet; `reseed run` makes them")
    with study.store.lock("reseed report"):
        write_report(study.store, REPORT)
    return study.folder / REPORT
