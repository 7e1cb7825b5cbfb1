"""Which stages a study has, which pieces each makes, and how far they have come. Without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reseed.events import read_events
from reseed.runs import (
    HELD_OUT_TEXT,
    Failed,
    Missing,
    Pair,
    Run,
    cofiring_name,
    evidence_name,
    logits_name,
    pair_name,
    pairs_of,
    part_folder,
    run_name,
    stability_name,
    structure_name,
    substitution_name,
    through_name,
    weights_name,
)
from reseed.spec.subject import LanguageModelSpec
from reseed.spec.training import RunSpec
from reseed.stability.factors.levels import across_name, levels_of, neighbours
from reseed.store import Store, workers
from reseed.study import REPORT_FILE, SUBJECT, SUMMARY_FILE, Study

StageState = Literal["done", "under way", "stopped", "waiting", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """How far a stage has come."""

    name: str
    """as in `events.jsonl`"""
    state: StageState
    done: float
    """of the unit: tokens of all runs for `train`, else pieces"""
    of: float
    unit: str
    seconds: float
    """taken so far, over all sessions"""
    rate: float | None
    """units a second of what is under way, as the working process said last"""
    rate_unit: str
    left: float | None
    """seconds: by the rate of what is under way, else as `reseed plan` estimated; None: unknown"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pieces:
    name: str
    done: float
    of: float
    unit: str = "pieces"


def names_of(study: Study) -> dict[str, list[str]]:
    """Stage to the pieces that it makes, for the runs that are planned and did not fail."""
    runs = [run.spec for run in study.runs if not isinstance(run.state, Failed)]
    groups: dict[str, list[RunSpec]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    question = {name: group for name, group in groups.items() if group[0].control is None}
    pairs, cofiring = _pairs(groups), _pairs(question)
    through = study.spec.evidence.through_tokens > 0
    substituted = study.spec.evidence.substitution_pairs > 0
    alone = [run.id for run in runs if run.reads is None]
    text = study.spec.text is not None or study.spec.evidence.toy_text
    lens = isinstance(study.spec.subject, LanguageModelSpec)
    several = {name: group[0] for name, group in question.items() if len(group) > 1}
    out = {
        "open": [SUBJECT],
        "train": [run_name(run) for run in runs],
        "match": [weights_name(run.id) for run in runs] + [pair_name(pair) for pair in pairs],
        "evidence": [evidence_name(run.id) for run in runs] + [HELD_OUT_TEXT] * text,
        "co-firing": [cofiring_name(pair) for pair in cofiring],
        "through the subject": [through_name(run) for run in alone] if through else [],
        "substitution": [substitution_name(name) for name in several] if substituted else [],
        "logits": [logits_name(run) for run in alone] if lens else [],
        "structure": [structure_name(pair) for pair in pairs],
        "stability": [stability_name(name) for name in groups],
        "across": _across(several),
    }
    return {stage: names for stage, names in out.items() if names}


def _pairs(groups: Mapping[str, Sequence[RunSpec]]) -> list[Pair]:
    return [pair for group in groups.values() for pair in pairs_of([run.id for run in group])]


def _across(groups: Mapping[str, RunSpec]) -> list[str]:
    """Names of the pieces in which groups are matched with each other; a run of each is given."""
    about = {
        name: {"site": run.site, **run.sae.model_dump(mode="json")} for name, run in groups.items()
    }
    return [across_name(two) for two in neighbours(levels_of(about))] if len(about) > 1 else []


def stages(study: Study) -> list[StageProgress]:
    """Every stage of a study in order, from its folder and what the working process says.

    Raises:
        StoreError: if sites are patterns that were not looked up yet.
    """
    events = read_events(study.folder, "session", "started", "progress", "finished", "planned")
    took: Counter[str] = Counter()
    for event in events:
        if event["event"] == "finished":
            took[event["task"]] += event.get("seconds", 0.0)
    working = _working(study)
    last = _under_way(events) if working else None
    planned = next((e["stages"] for e in reversed(events) if e["event"] == "planned"), {})
    return [_progress(pieces, took, last, planned, working) for pieces in _pieces(study, last)]


def _working(study: Study) -> bool:
    """Whether a process holds the study, or shares it."""
    shared = any(worker.alive for worker in workers(study.folder))
    return shared or study.store.holder() is not None


def run_states(study: Study) -> list[tuple[Run, str]]:
    """Each run and its state in words: done, under way, stopped, missing or failed."""
    working = _working(study)
    out: list[tuple[Run, str]] = []
    for run in study.runs:
        words = run.state.state
        if _tokens_saved(run, study.store) is not None:
            words = "under way" if working else "stopped"
        out.append((run, words))
    return out


def _tokens_saved(run: Run, store: Store) -> int | None:
    """At the last checkpoint of a run that was begun and not finished; None for others."""
    if not isinstance(run.state, Missing) or not part_folder(run.spec, store).exists():
        return None
    return run.state.tokens_done


def _pieces(study: Study, last: dict[str, Any] | None) -> list[_Pieces]:
    store, out = study.store, list[_Pieces]()
    for stage, names in names_of(study).items():
        there = sum(store.has(name) for name in names)
        if stage == "train":
            shards = _harvest(study, last)
            out += [shards] if shards else []
            out.append(_trained(study, last))
        else:
            out.append(_Pieces(name=stage, done=there, of=len(names)))
    page = all(store.path(name).exists() for name in (SUMMARY_FILE, REPORT_FILE))
    made = page and all(pieces.done == pieces.of for pieces in out)
    return [*out, _Pieces(name="report", done=int(made), of=1)]


def _harvest(study: Study, last: dict[str, Any] | None) -> _Pieces | None:
    """Shards, where activations are kept; None where they come live from the subject."""
    store = study.store
    index, now = store.has("activations/index"), last is not None and last["task"] == "harvest"
    if not (index or now or study.spec.activations.keep == "shards"):
        return None
    if now and last is not None:
        return _Pieces(name="harvest", done=last.get("done", 0), of=last["total"], unit="tokens")
    return _Pieces(name="harvest", done=int(index), of=1)


def _trained(study: Study, last: dict[str, Any] | None) -> _Pieces:
    """Tokens of all runs: those of finished runs, of checkpoints, and of the pass under way."""
    runs = [run for run in study.runs if not isinstance(run.state, Failed)]
    each = study.spec.training.steps * study.spec.training.batch
    done = 0.0
    for run in runs:
        done += run.state.tokens_done if isinstance(run.state, Missing) else each
    if last is not None and last["task"] == "train" and last.get("total"):
        begun = [saved for run in runs if (saved := _tokens_saved(run, study.store)) is not None]
        left = (last["total"] - last.get("done", 0)) * study.spec.training.batch
        done += max(0.0, len(begun) * (each - left) - sum(begun))
    return _Pieces(name="train", done=done, of=each * len(runs), unit="tokens")


def _under_way(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What the working process said last of the task that it has not finished."""
    last = None
    for event in events:
        if event["event"] in ("started", "progress"):
            last = event
        elif event["event"] == "session" or (last and event.get("task") == last["task"]):
            last = None
    return last


def _progress(
    pieces: _Pieces,
    took: Counter[str],
    last: dict[str, Any] | None,
    planned: dict[str, float],
    working: bool,
) -> StageProgress:
    rate, rate_unit = None, ""
    complete = pieces.done >= pieces.of
    left = None if complete else planned.get(pieces.name)
    if left is not None:
        left *= 1 - pieces.done / pieces.of
    state: StageState = "done" if complete else ("waiting" if working else "missing")
    if last is not None and last["task"] == pieces.name:
        state, rate, rate_unit = "under way", last.get("rate"), last.get("unit", "")
        if rate:
            left = (last["total"] - last["done"]) / rate
    elif not complete and not working and pieces.done:
        state = "stopped"
    return StageProgress(
        name=pieces.name,
        state=state,
        done=pieces.done,
        of=pieces.of,
        unit=pieces.unit,
        seconds=took[pieces.name],
        rate=rate,
        rate_unit=rate_unit,
        left=left,
    )
