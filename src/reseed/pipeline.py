"""The stages of a study in order. Each makes what is missing, so running again continues."""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reseed.activations.choice import Choice, choose, passes_over
from reseed.events import Events
from reseed.evidence.spec import evidence_name
from reseed.interrupts import Stop
from reseed.matching.stage import match_groups
from reseed.report.page import write_report
from reseed.seeds import digest
from reseed.stability.notes import notes
from reseed.stability.stage import assess, stability_name
from reseed.store import json_bytes
from reseed.study import DATA_FILE, SPEC_FILE, SUBJECT, Run, Study
from reseed.subjects.spec import LanguageModelSpec
from reseed.training.state import Done, Failed, Missing, forget_failure, run_name

if TYPE_CHECKING:
    from reseed.evidence.contexts import Places
    from reseed.subjects.opening import Opened
    from reseed.subjects.source import BlockSource

REPORT = "report.html"
SUMMARY = "summary.json"


class Outcome(NamedTuple):
    """What a run of the stages ended with."""

    report: Path
    failed: list[Run]
    seconds: float


def run_study(
    study: Study, events: Events, stop: Stop, *, command: str = "", retry_failed: bool = False
) -> Outcome:
    """Make everything of a study that is not there yet.

    Args:
        study: what to make.
        events: progress.
        stop: listens for signals.
        command: as shown to somebody who tries to start a second process.
        retry_failed: whether runs that failed are tried again.

    Raises:
        SpecError, SubjectError: if it cannot be done as written; nothing was started.
        StoreError: if the folder is damaged, full, read-only, busy or of another spec.
        Interrupted: after a signal; the same call continues.
    """
    started = time.monotonic()
    with locked(study, command):
        work = Work(study, events)
        work.look_up_sites()
        if retry_failed:
            for run in study.runs:
                forget_failure(run.spec, study.store)
        _train(study, work, events, stop)
        groups = study.groups()
        match_groups(
            [g.runs for g in groups], groups[0].steps if groups else [], study.store, events
        )
        _gather(study, work, events)
        assess(groups, study.spec.matching, study.spec.stability, study.store, events)
        _summarise(study)
        write_report(study.store, REPORT)
    failed = [run for run in study.runs if isinstance(run.state, Failed)]
    return Outcome(study.folder / REPORT, failed, time.monotonic() - started)


@contextmanager
def locked(study: Study, command: str) -> Generator[None, None, None]:
    """Hold the study's folder, checked to be this study's.

    Raises:
        StoreError: if it is busy, read-only or of another spec.
    """
    study.check_folder()
    store = study.store
    with store.lock(command or "reseed run"):
        study.check_folder()
        store.open_for_writing()
        if not store.path(DATA_FILE).exists() or store.read_json(DATA_FILE) != study.spec.data:
            store.write_json(DATA_FILE, study.spec.data)
        if study.source is not None:
            store.write_bytes(SPEC_FILE, study.source.encode())
        yield


class Work:
    """What the stages share: the subject, opened at most once and only if something needs it."""

    def __init__(self, study: Study, events: Events) -> None:
        self._study, self._events = study, events

    @cached_property
    def opened(self) -> Opened:
        """The subject."""
        _set_threads(self._study)
        from reseed.subjects.opening import open_subject

        spec = self._study.spec
        return open_subject(
            spec.subject,
            spec.text,
            spec.activations.sites,
            spec.activations.tokens,
            self._study.store,
            self._events,
        )

    @cached_property
    def split(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Blocks to train on, blocks held out."""
        from reseed.activations.stream import split_blocks

        blocks = self._study.store.document(SUBJECT, "subject.json")["blocks"]
        return split_blocks(blocks, self._study.spec.activations.held_out)

    def places(self) -> Places | None:
        """Where held-out rows stand in the text; None if the subject reads none."""
        subject = self._study.spec.subject
        if not isinstance(subject, LanguageModelSpec):
            return None
        from reseed.evidence.contexts import TextPlaces
        from reseed.subjects.language_model import load_tokenizer
        from reseed.subjects.opening import TOKENS
        from reseed.subjects.tokens import TokenBlocks

        return TextPlaces(TokenBlocks.open(self._study.store, TOKENS), load_tokenizer(subject))

    def look_up_sites(self) -> None:
        """Write which sites the patterns mean, so that the subject need not be opened again."""
        study, patterns = self._study, self._study.spec.activations.sites
        made_from = digest([study.spec.data, patterns])
        if study.store.has(SUBJECT, made_from):
            return
        from reseed.activations.stream import split_blocks

        sites, rows = dict(self.opened.source.sites), self.opened.source.rows
        training, held_out = split_blocks(self.opened.blocks, study.spec.activations.held_out)
        about = {
            "patterns": patterns,
            "sites": sites,
            "blocks": self.opened.blocks,
            "training_rows": int(rows[training].sum()),
            "held_out_rows": int(rows[held_out].sum()),
        }
        with study.store.piece(SUBJECT, made_from) as folder:
            (folder / "subject.json").write_bytes(json_bytes(about))

    def choice(self) -> Choice:
        """Live or shards."""
        study = self._study
        about = study.store.document(SUBJECT, "subject.json")
        data_seeds = {r.spec.data_seed for r in study.runs if isinstance(r.state, Missing)}
        return choose(
            study.spec.activations,
            rows=about["training_rows"] + about["held_out_rows"],
            dimensions=sum(about["sites"].values()),
            passes=passes_over(about["training_rows"], study.spec.training.tokens, len(data_seeds)),
            free_disk=shutil.disk_usage(existing(study.folder)).free,
        )

    @cached_property
    def source(self) -> BlockSource:
        """The activations: shards, harvested if they are not there, or the subject itself."""
        from reseed.activations.shards import RoundedSource, ShardSource, harvest, harvested

        study, spec = self._study, self._study.spec.activations
        choice = self.choice()
        made_from = digest([study.spec.data, study.sites(), spec.shard_blocks])
        whole = harvested(study.store, made_from)
        if choice.keep == "live" and not whole:
            self._events.say(f"activations live from the subject: {choice.reason}")
            return RoundedSource(self.opened.source, spec.dtype)
        _set_threads(study)
        if not whole:
            self._events.say(f"activations to shards: {choice.reason}")
            harvest(
                self.opened.source, self.opened.blocks, spec, study.store, made_from, self._events
            )
        return ShardSource(study.store)


def existing(path: Path) -> Path:
    """The nearest folder on the way up that exists."""
    return path if path.exists() else existing(path.absolute().parent)


def _set_threads(study: Study) -> None:
    if study.spec.training.threads:
        import torch

        torch.set_num_threads(study.spec.training.threads)


def _train(study: Study, work: Work, events: Events, stop: Stop) -> None:
    missing = [run.spec for run in study.runs if isinstance(run.state, Missing)]
    if not missing:
        return
    from reseed.activations.stream import Stream
    from reseed.training.stage import train

    spec = study.spec

    def stream_of(data_seed: int) -> Stream:
        return Stream(
            work.source,
            work.split[0],
            data_seed=data_seed,
            batch=spec.training.batch,
            mix=spec.activations.mix_blocks,
        )

    train(missing, stream_of, study.store, events, stop)


def _gather(study: Study, work: Work, events: Events) -> None:
    store = study.store
    done = [run.spec for run in study.runs if isinstance(run.state, Done)]
    evidence = study.spec.evidence.digest()
    made_from = {run.id: digest([store.checksum(run_name(run)), evidence]) for run in done}
    sites = {
        run.id: run.site for run in done if not store.has(evidence_name(run.id), made_from[run.id])
    }
    if not sites:
        return
    from reseed.evidence.stage import gather

    held_out = work.split[1]
    gather(
        sites, work.source, held_out, work.places(), study.spec.evidence, store, made_from, events
    )


def _summarise(study: Study) -> None:
    """Write `summary.json`: the headline numbers of all groups, keys in docs/summary.md."""
    store, runs = study.store, study.runs
    about = store.document(SUBJECT, "subject.json")
    epochs = study.spec.training.tokens / about["training_rows"]
    groups: list[dict[str, Any]] = []
    for group in study.groups():
        name = stability_name(group.name)
        one: dict[str, Any] = {"group": group.name, **store.document(name, "summary.json")}
        trend: dict[int, float] = {}
        if "headline" in one:
            table = store.table(name, "trend.parquet").filter(measure="shared")
            trend = dict(table.select("tokens", "value").iter_rows())
        groups.append({**one, "notes": notes(one, trend, epochs)})
    done = [run.id for run in runs if isinstance(run.state, Done)]
    missing = [run.id for run in runs if isinstance(run.state, Missing)]
    failed = {run.id: run.state.reason for run in runs if isinstance(run.state, Failed)}
    summary = {
        "reseed": version("reseed"),
        "study": study.folder.resolve().name,
        "subject": study.spec.subject.model_dump(mode="json"),
        "activations": {
            "sites": about["sites"],
            "training_tokens": about["training_rows"],
            "held_out_tokens": about["held_out_rows"],
        },
        "training": {
            "tokens": study.spec.training.steps * study.spec.training.batch,
            "epochs": epochs,
            "init_seeds": list(study.spec.seeds.init),
            "data_seeds": list(study.spec.seeds.data),
        },
        "runs": {"done": done, "missing": missing, "failed": failed},
        "groups": groups,
    }
    store.write_json(SUMMARY, summary)
