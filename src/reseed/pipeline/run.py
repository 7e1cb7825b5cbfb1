"""The stages of a study in order. Each makes what is missing, so running again continues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from reseed.cluster.engine import EngineSpec
from reseed.errors import StoreError
from reseed.events import Events, Sink, Stop, session
from reseed.evidence.display.logits import gather_logits
from reseed.evidence.stage import stage as gather
from reseed.matching.geometry import products_on
from reseed.matching.stage import stage as match
from reseed.pipeline.mixed import note, refuse_mixed
from reseed.pipeline.power import lost_text
from reseed.report.study import write_report
from reseed.runs import (
    Damaged,
    Done,
    Failed,
    Group,
    Missing,
    Run,
    forget_failure,
    stability_name,
    substitution_name,
    through_name,
)
from reseed.spec.statistics import Substitution
from reseed.spec.subject import PRECISION
from reseed.spec.summary import (
    SCHEMA_VERSION,
    Activations,
    ControlSummary,
    Factors,
    RunStates,
    StudyGroup,
    Summary,
    Training,
    document_of,
    read_record,
)
from reseed.stability.notes import notes
from reseed.stability.nulls import CONTROLS
from reseed.stability.stage import stage as assess
from reseed.stability.summary import read_summary
from reseed.store import working
from reseed.study import REPORT_FILE, SUBJECT, SUMMARY_FILE, Study
from reseed.subjects.inputs import Inputs
from reseed.subjects.norms import NORMS
from reseed.training.device import chosen
from reseed.training.shards.launch import joined


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
    engine: EngineSpec | None = None,
    mixed: bool = False,
) -> Outcome:
    """Make everything of a study that is not there yet; calling it again continues.

    Args:
        study: from `Study.load`.
        progress: whether to show it.
        sinks: take every event besides `events.jsonl`; for wandb, TensorBoard and the like.
        retry_failed: whether runs that failed are tried again.
        device: where the subject, trainings, encoding and products of matching compute: `"cpu"`,
            `"cuda"`, `"cuda:1"` and so on, or `"auto"` for a GPU if there is one.
        engine: where parts of the work are made by other processes; left out, all is made here.
        mixed: whether runs of one group may come from different arithmetic (processors, GPUs,
            versions); the page then says so.

    Returns:
        Path of the report, and the runs that failed.

    Raises:
        SpecError, SubjectError: if it cannot be done as written; nothing was started.
        StoreError: if the folder is damaged, full, read-only, busy or of another spec.
        Interrupted: after a signal; the same call continues.
    """
    with session(study.folder, progress, sinks) as (events, stop):
        options: dict[str, Any] = {"device": device, "engine": engine, "mixed": mixed}
        return run_study(study, events, stop, retry_failed=retry_failed, **options)


def run_study(
    study: Study,
    events: Events,
    stop: Stop,
    *,
    command: str = "reseed run",
    retry_failed: bool = False,
    device: str = "cpu",
    engine: EngineSpec | None = None,
    mixed: bool = False,
) -> Outcome:
    """What `run` does, with events and signals of the caller."""
    started, place = time.monotonic(), chosen(device, elsewhere=engine is not None)
    if engine is not None and engine.holders(device) > 1:  # too large for one GPU: not opened there
        place = "cpu"
    asked = working(study.folder, stop.end, part=command)  # `reseed cancel` reaches it
    with study.locked(command), asked, products_on(place):
        events.emit("session", command=command)
        if place != "cpu":
            events.say(f"subject, trainings, encoding and products of matching compute on {place}")
        inputs = Inputs(study, events, place, joined() if place != "cpu" else None)
        for run in study.runs:
            if isinstance(run.state, Damaged):
                raise StoreError(run.state.reason)
        if retry_failed:
            for run in study.runs:
                forget_failure(run.spec, study.store)
        if engine is not None:
            from reseed.pipeline.fan_out import make_on

            make_on(study, engine, events, device, place)
        if any(isinstance(run.state, Missing) for run in study.runs):
            from reseed.sae.arithmetic import arithmetic
            from reseed.training.stage import stage as train

            if not mixed and engine is None:  # before hours of training
                refuse_mixed(_begun(study), study.store, arithmetic(place))
            train(study, events, inputs, stop, place)
        if not mixed:  # before more is made, and once all is there
            refuse_mixed(study.all_groups(), study.store)
        match(study, events)
        gather(study, events, inputs)
        del inputs  # the subject is opened with its head now, and one is enough in memory
        gather_logits(study, events, place)
        factors = assess(study, events)
        if not mixed:
            refuse_mixed(study.all_groups(), study.store)
        _summarise(study, factors)
        study.record()
        with events.short("report"):
            write_report(study.store, REPORT_FILE)
    failed = [run for run in study.runs if isinstance(run.state, Failed)]
    return Outcome(study.folder / REPORT_FILE, failed, time.monotonic() - started)


def _begun(study: Study) -> list[Group]:
    """Groups of which some runs are there and others are not."""
    missing = {run.spec.group for run in study.runs if isinstance(run.state, Missing)}
    return [group for group in study.all_groups() if group.name in missing]


def _summarise(study: Study, factors: Factors | None) -> None:
    """Write `summary.json`: the headline numbers of all groups, keys in docs/summary.md."""
    store, runs, training = study.store, study.runs, study.spec.training
    about = store.document(SUBJECT, "subject.json")
    epochs = training.tokens / about["training_rows"]
    activations: dict[str, Any] = {
        "sites": about["sites"],
        "training_tokens": about["training_rows"],
        "held_out_tokens": about["held_out_rows"],
    }
    if study.spec.activations.max_norm is not None:
        activations["long_rows"] = store.document(NORMS, "about.json")
    if store.has(PRECISION):
        activations["change_from_float32"] = store.document(PRECISION, "change.json")
    summary = Summary(
        schema_version=SCHEMA_VERSION,
        reseed=version("reseed"),
        study=study.folder.resolve().name,
        subject=study.spec.subject.model_dump(mode="json"),
        activations=Activations(**activations),
        training=Training(
            tokens=training.steps * training.batch,
            epochs=epochs,
            init_seeds=list(study.spec.seeds.init),
            data_seeds=list(study.spec.seeds.data),
        ),
        runs=RunStates(
            done=[run.id for run in runs if isinstance(run.state, Done)],
            missing=[run.id for run in runs if isinstance(run.state, Missing)],
            failed={run.id: run.state.reason for run in runs if isinstance(run.state, Failed)},
        ),
        groups=[_study_group(study, group, epochs) for group in study.groups()],
        factors=factors,
    )
    store.write(SUMMARY_FILE, document_of(summary))


def _study_group(study: Study, group: Group, epochs: float) -> StudyGroup:
    """The numbers of a group beside its controls, with what weakens them."""
    numbers = read_summary(study.store, group.name)
    trend: dict[int, float] = {}
    nearest: dict[int, float] = {}
    if numbers.headline is not None:
        table = study.store.table(stability_name(group.name), "trend.parquet")
        trend, nearest = (
            dict(table.filter(measure=measure).select("tokens", "value").iter_rows())
            for measure in ("shared", "mmcs_decoder")
        )
    specs = [run.spec for run in study.runs if run.id in group.runs]
    pulled = any(spec.ensemble and spec.sae.mutual for spec in specs)
    sae = specs[0].sae
    promised, controls = sae.promised_l0, _controls(study, group.name)
    return StudyGroup(
        **{name: getattr(numbers, name) for name in numbers.model_fields_set},
        group=group.name,
        controls=controls,
        through_subject=_through(study, group.runs),
        substitution=_substitution(study, group),
        notes=[
            *notes(
                numbers,
                controls,
                trend,
                epochs,
                promised,
                nearest=nearest,
                pulled=pulled,
                subtracts=sae.subtracts or sae.center,
                goes_on=sae.published,
            ),
            *lost_text(study.store),
            *note(group, study.store),
        ],
    )


def _substitution(study: Study, group: Group) -> Substitution | None:
    """Whether counterparts stand in for each other; None if not asked for, or of one run."""
    name = substitution_name(group.name)
    if not study.spec.evidence.substitution_pairs or len(group.runs) < 2:
        return None
    document = study.store.document(name, "substitution.json")
    return read_record(Substitution, document, f"{name}/substitution.json")


def _through(study: Study, runs: Sequence[str]) -> dict[str, float] | None:
    """Means over the runs of what reconstructions do to the predictions; None if not asked for."""
    if not study.spec.evidence.through_tokens:
        return None
    each = [study.store.document(through_name(run), "through.json") for run in runs]
    return {key: sum(effects[key] for effects in each) / len(each) for key in each[0]}


def _controls(study: Study, group: str) -> dict[str, ControlSummary]:
    """What the control runs of a group share; None where fewer than two of a kind are done."""
    out: dict[str, ControlSummary] = {}
    groups = study.control_groups().get(group, {})
    for kind in study.spec.controls.kinds:
        control = groups.get(kind)
        numbers = None if control is None else read_summary(study.store, control.name)
        null, rules_out = CONTROLS[kind]
        out[kind] = ControlSummary(
            null=null,
            rules_out=rules_out,
            group=control and control.name,
            counts=numbers and numbers.counts,
            reconstruction=numbers and numbers.reconstruction,
            distance_from_init=numbers and numbers.distance_from_init,
            shared=numbers.headline.shared if numbers and numbers.headline else None,
        )
    return out


def rewrite_report(study: Study) -> Path:
    """Write the page of a study anew from what is in its folder. Needs no torch."""
    study.check_folder()
    if not study.store.path(SUMMARY_FILE).exists():
        raise StoreError(f"{study.folder} has no results yet; `reseed run` makes them")
    for group in study.all_groups():
        study.latent_table(group)  # which is refused if it is not of the last run of the stages
    with study.store.lock("reseed report"):
        write_report(study.store, REPORT_FILE)
    return study.folder / REPORT_FILE
