"""A study of a subject whose features are known: what "found by N of M runs" is worth there."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from reseed.calibration.instrument import PIECE, make_instrument
from reseed.calibration.instrument import TABLES as INSTRUMENT
from reseed.calibration.stage import check, stage
from reseed.errors import SpecError, nearest
from reseed.events import Sink, session
from reseed.notebook.markup import ends, html_table, percent
from reseed.pipeline.run import run_study
from reseed.records import to_pandas
from reseed.report.calibration import calibration_data, write_calibration
from reseed.report.notebook.plots import plot_calibration
from reseed.runs import Run, calibration_name
from reseed.spec.refusals import read_spec
from reseed.spec.study import StudySpec
from reseed.spec.subject import ToySpec
from reseed.study import Study

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

CALIBRATION = "calibration.json"

PAGE = "calibration.html"

PRESETS = ("small", "laptop", "large", "full")
"""Studies that come with the package, `calibration/presets/NAME.toml`."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        saes = ", ".join(group["label"] for group in self.summary["groups"])
        return f"Calibration({self.study.folder}: {saes or 'nothing judged'})"

    def _repr_html_(self) -> str:
        """What "found by all of M runs" is worth, beside the share that exists, with counts."""
        rows: list[dict[str, object]] = [
            {
                "SAE": row["sae"],
                "precision": percent(row["precision"]),
                "95% interval": ends((row["precision_lo"], row["precision_hi"])),
                "share that exists": percent(row["base"]),
                "recall": percent(row["recall"]),
                "AUC": f"{row['auc']:.3f}" if row["auc"] is not None else None,
                "judges": row["judges"],
                "runs": row["runs"],
                "live latents of a run": row["live"],
            }
            for row in self.table.iter_rows(named=True)
        ]
        return html_table(repr(self), rows)

    @property
    def latents(self) -> pl.DataFrame:
        """The table "latents" of all architectures, with their label as `sae`."""
        return self.read("latents")

    def to_pandas(self) -> pandas.DataFrame:
        """`table` as a pandas frame; needs the extra `notebook`."""
        return to_pandas(self.table, "Calibration.to_pandas")

    def plot(self, figure: str = "roc", group: str | None = None) -> Figure:
        """A figure of the page as a Plotly figure.

        Args:
            figure: `"roc"` or `"rule"`.
            group: label of an architecture; left out, the first.

        Raises:
            SpecError: if there is no such figure or architecture.
        """
        drawn = [calibration_data(self.study.store, g) for g in self.summary["groups"]]
        return plot_calibration(drawn, figure, group)

    def read(self, name: str) -> pl.DataFrame:
        """A table of all architectures, with their label as `sae`.

        Args:
            name: "detector", "area", "recall", "discovered", "features", "latents", "pairwise",
                "coverage", "reliability" or "subspaces"; or one that is of none of them:
                "by_count", "by_distribution", "by_crowding".

        Raises:
            StoreError: if it is missing or damaged.
        """
        store = self.study.store
        if name in INSTRUMENT:
            return store.table(PIECE, f"{name}.parquet")
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

    Makes what is not there yet; calling it again continues.

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
        Interrupted: after a signal; the same call continues.

    Example:
        calibration = reseed.calibrate("small")
        calibration.table.select("sae", "auc", "precision")
    """
    study, started = open_calibration(what, out), time.monotonic()
    command, spec = "reseed calibrate", study.spec
    with session(study.folder, progress, sinks) as (events, stop):
        outcome = run_study(study, events, stop, command=command)
        with study.locked(command):
            summary = {
                "reseed": version("reseed"),
                "study": study.folder.resolve().name,
                "subject": spec.subject.model_dump(mode="json"),
                "training_tokens": spec.training.steps * spec.training.batch,
                "calibration": spec.calibration.model_dump(mode="json"),
                "failed": [run.id for run in outcome.failed],
                "groups": stage(study, events),
            }
            make_instrument(study.store)
            study.store.write(CALIBRATION, summary)
            study.record("calibration")
            write_calibration(study.store, CALIBRATION, PAGE)
    return Calibration(
        study=study,
        report=study.folder / PAGE,
        summary=summary,
        failed=outcome.failed,
        seconds=time.monotonic() - started,
    )


def open_calibration(
    what: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> Study:
    """The study of a preset, or of a TOML or folder; checked to be one that can be calibrated."""
    name = os.fspath(what)
    if Path(name).exists():
        study = Study.load(name, out)
    elif name in PRESETS:
        source = preset(name)
        spec = read_spec(StudySpec, tomllib.loads(source), f"preset {name}")
        study = Study(spec, Path(out or f"calibration-{name}"), source)
    else:
        raise SpecError(
            f"no file or folder {name}, and no preset of that name; {nearest(name, PRESETS)}"
        )
    if not isinstance(study.spec.subject, ToySpec):
        raise SpecError(
            f"{name}: its subject is a {study.spec.subject.kind}, whose features nobody knows; "
            'calibration needs kind = "toy" (presets: ' + ", ".join(PRESETS) + ")"
        )
    check(study.spec.calibration, len(study.spec.seeds.init) * len(study.spec.seeds.data))
    return study


def preset(name: str) -> str:
    """The TOML of one of `PRESETS`."""
    return (resources.files("reseed.calibration") / "presets" / f"{name}.toml").read_text("utf-8")


def _row(group: dict[str, Any]) -> dict[str, Any]:
    detector, recall, pairwise = group["detector"]["feature"], group["recall"], group["pairwise"]
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
        **{name: detector[name] for name in keep},
        **{f"found_{name}": recall[name] for name in ("mean", "any", "all")},
        "most": group["most_recall"],
        "false_match": pairwise["false_match"],
        "false_non_match": pairwise["false_non_match"],
        "coverage": interval.get("coverage"),
        "subspaces_planted": subspaces.get("planted", 0),
        "subspaces_stable": subspaces.get("stable", 0),
    }
