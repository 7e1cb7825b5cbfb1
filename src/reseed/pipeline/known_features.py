"""The door of calibration: train on known features, judge what "found by N of M" tells."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from reseed.calibration.presets import PRESETS
from reseed.calibration.stage import calibrate_groups, check
from reseed.errors import SpecError, nearest
from reseed.events import Events, Sink, Stop
from reseed.pipeline.doors import events_of
from reseed.pipeline.run import run_study
from reseed.records import read_spec
from reseed.report.calibration import write_calibration
from reseed.runs import Run, calibration_name
from reseed.spec.study import StudySpec
from reseed.spec.subject import ToySpec
from reseed.study import Study

CALIBRATION = "calibration.json"

PAGE = "calibration.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a calibration found. Tables are read from its folder; columns in docs/calibration.md."""

    study: Study
    report: Path
    """the page"""
    summary: dict[str, Any]
    """as in `calibration.json`"""
    failed: list[Run]
    seconds: float
    """wall time of this call"""

    @property
    def table(self) -> pl.DataFrame:
        """The short table, one row for each architecture; live latents, M = `judges` runs.

        Columns: sae, runs, judges, live, features and subspace_latents (live latents a run that are
        one); auc, auc_lo, auc_hi; called, precision, recall (of "found by all M", with _lo, _hi),
        base; found_mean, found_any, found_all (true features in a run, any, all runs), most (what
        the width allows); false_match, false_non_match; coverage (of the
        interval of the posterior); subspaces_planted, subspaces_stable.
        """
        return pl.DataFrame([_row(group) for group in self.summary["groups"]])

    @property
    def roc(self) -> pl.DataFrame:
        """Recall, false alarms and precision of every threshold n of m, by label and stratum."""
        return self.read("detector")

    def read(self, name: str) -> pl.DataFrame:
        """A table of all architectures, with their label as `sae`.

        Args:
            name: "detector", "area", "recall", "discovered", "features", "latents", "pairwise",
                "coverage", "reliability" or "subspaces".

        Raises:
            StoreError: if it is missing or damaged.
        """
        store = self.study.store
        return pl.concat(
            [
                store.table(calibration_name(group["name"]), f"{name}.parquet").select(
                    pl.lit(group["label"]).alias("sae"), pl.all()
                )
                for group in self.summary["groups"]
            ]
        )


def calibrate(
    what: str | os.PathLike[str] = "laptop",
    *,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    sinks: Sequence[Sink] = (),
) -> Calibration:
    """Train SAEs on a subject whose features are known and judge recurrence by the truth.

    Args:
        what: a preset ("small", "laptop", "large", "full"), or the TOML or folder of a study of
            the toy.
        out: folder for the results; else `calibration-PRESET` here, or as for any study.
        progress: whether to show it.
        sinks: take every event besides `events.jsonl`.

    Raises:
        SpecError: if there is no such preset or study, its subject is not the toy, or too few runs
            are planned; nothing was started.
        StoreError: if the folder is damaged, full, read-only, busy or of another spec.

    Example:
        found = reseed.calibrate("small")
        found.table.select("sae", "auc", "precision")
    """
    study = open_calibration(what, out)
    with Stop().listening() as stop:
        return calibrate_study(study, events_of(study, progress, sinks), stop)


def open_calibration(
    what: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Study:
    """The study of a preset, or of a TOML or folder; checked to be one that can be calibrated.

    Raises:
        SpecError: as `calibrate`.
    """
    name = os.fspath(what)
    if name in PRESETS and not Path(name).exists():
        spec = read_spec(StudySpec, tomllib.loads(PRESETS[name]), f"preset {name}")
        study = Study(spec, Path(out or f"calibration-{name}"), PRESETS[name])
    elif not Path(name).exists():
        raise SpecError(
            f"no file or folder {name}, and no preset of that name; {nearest(name, PRESETS)}"
        )
    else:
        study = Study.load(name, out)
    if not isinstance(study.spec.subject, ToySpec):
        raise SpecError(
            f"{name}: its subject is a {study.spec.subject.kind}, whose features nobody knows; "
            'calibration needs kind = "toy" (presets: ' + ", ".join(PRESETS) + ")"
        )
    check(study.spec.calibration, len(study.spec.seeds.init) * len(study.spec.seeds.data))
    return study


def calibrate_study(study: Study, events: Events, stop: Stop, command: str = "") -> Calibration:
    """Make everything of a calibration that is not there yet.

    Args:
        study: from `open_calibration`.
        events: progress.
        stop: listens for signals.
        command: as shown to somebody who tries to start a second process.

    Raises:
        SpecError, StoreError: as `calibrate`.
        Interrupted: after a signal; the same call continues.
    """
    started = time.monotonic()
    command = command or "reseed calibrate"
    outcome = run_study(study, events, stop, command=command)
    spec = study.spec
    assert isinstance(spec.subject, ToySpec)
    with study.locked(command):
        groups = [group for group in study.groups() if len(group.runs) > 1]
        found = calibrate_groups(
            groups, spec.subject, spec.matching.tau, spec.calibration, study.store, events
        )
        summary = {
            "reseed": version("reseed"),
            "study": study.folder.resolve().name,
            "subject": spec.subject.model_dump(mode="json"),
            "training_tokens": spec.training.steps * spec.training.batch,
            "calibration": spec.calibration.model_dump(mode="json"),
            "failed": [run.id for run in outcome.failed],
            "groups": [
                {"name": group.name, **one} for group, one in zip(groups, found, strict=True)
            ],
        }
        study.store.write_json(CALIBRATION, summary)
        write_calibration(study.store, CALIBRATION, PAGE)
    return Calibration(
        study=study,
        report=study.folder / PAGE,
        summary=summary,
        failed=outcome.failed,
        seconds=time.monotonic() - started,
    )


def show_calibration(console: Console, summary: dict[str, Any]) -> None:
    """The short table of a calibration; fits 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD, title=summary["study"], title_justify="left", padding=(0, 1, 0, 0)
    )
    for head in (
        "",
        "AUC",
        "precision",
        "recall",
        "base",
        "features found",
        "coverage",
        "subspaces",
    ):
        table.add_column(head, justify="right" if head else "left")
    for group in summary["groups"]:
        one, recall = group["detector"]["feature"], group["recall"]
        covered = group["coverage"].get("posterior", {}).get("coverage")
        planted = group["subspaces"]
        table.add_row(
            group["label"].split(" · ")[-1],
            "–" if one["auc"] is None else f"{one['auc']:.3f}",
            *(
                "–" if one[name] is None else f"{one[name]:.0%}"
                for name in ("precision", "recall", "base")
            ),
            f"{recall['mean']:.0%} of {recall['of']:,}",
            "–" if covered is None else f"{covered:.0%}",
            f"{planted['stable']} of {planted['planted']}" if planted else "–",
        )
    console.print(table)
    for group in summary["groups"][:1]:
        console.print(
            f'precision, recall: of "found by all {group["judges"]} runs" for live latents that '
            f"are a true feature (cosine at least {group['feature']:g}); base: precision of "
            "calling every live latent; features found: true features that a run has a latent for; "
            "coverage: of the 95 % interval of reproducibility; subspaces: planted ones that come "
            "out as one span in every run.",
            style="dim",
        )


def _row(group: dict[str, Any]) -> dict[str, Any]:
    one, found, wrong = group["detector"]["feature"], group["recall"], group["pairwise"]
    keep = ("auc", "auc_lo", "auc_hi", "called", "precision", "precision_lo", "precision_hi",
            "recall", "recall_lo", "recall_hi", "base")  # fmt: skip
    interval = group["coverage"].get("posterior", {})
    subspaces = group["subspaces"] or {}
    return {
        "sae": group["label"],
        "runs": group["runs"],
        "judges": group["judges"],
        "live": group["live"],
        "features": group["kinds"]["feature"],
        "subspace_latents": group["kinds"]["subspace"],
        **{name: one[name] for name in keep},
        **{f"found_{name}": found[name] for name in ("mean", "any", "all")},
        "most": group["most_recall"],
        "false_match": wrong["false_match"],
        "false_non_match": wrong["false_non_match"],
        "coverage": interval.get("coverage"),
        "subspaces_planted": subspaces.get("planted", 0),
        "subspaces_stable": subspaces.get("stable", 0),
    }
