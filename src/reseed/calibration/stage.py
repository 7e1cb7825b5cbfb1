"""The door of calibration: one piece for each group of runs, `calibration/GROUP`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from reseed.calibration.coverage import coverage
from reseed.calibration.detector import Recurrence, detect, gather
from reseed.calibration.recall import TAUS, discovered, feature_table, pair_errors, recall
from reseed.calibration.truth import KINDS, explain, subspace_table
from reseed.errors import SpecError
from reseed.events import Events
from reseed.matching.stage import load_snapshot
from reseed.runs import Group, calibration_name, evidence_name, pair_name, pairs_of
from reseed.spec.analysis import CalibrationSpec
from reseed.spec.subject import ToySpec
from reseed.stability.proportions import wilson
from reseed.store import Store
from reseed.study import Study
from reseed.subjects.toy_truth import Truth, truth_of

TABLES = (
    "latents", "features", "detector", "area", "recall", "discovered", "pairwise", "coverage",
    "reliability", "subspaces",
)  # fmt: skip
"""Parquet files of a piece; columns in docs/calibration.md."""


def check(spec: CalibrationSpec, runs: int) -> None:
    """Refuse a calibration that could not tell anything."""
    if runs < spec.subset + 2:
        raise SpecError(
            f"calibration.subset = {spec.subset} of {runs} runs leaves {runs - spec.subset} held "
            "out, and the truth is estimated from those; at least 2 are needed. Train more seeds, "
            "or lower calibration.subset"
        )


def stage(study: Study, events: Events) -> list[dict[str, Any]]:
    """Make the calibration of every group that is missing or older than what it is made from."""
    toy, store = study.spec.subject, study.store
    assert isinstance(toy, ToySpec)
    tau, spec = study.spec.matching.tau, study.spec.calibration
    groups = [group for group in study.groups() if len(group.runs) > 1]
    truth = truth_of(toy)
    with events.task("calibrate", len(groups), "groups") as task:
        for group in groups:
            pieces = [pair_name(pair) for pair in pairs_of(group.runs)]
            pieces += [name for run in group.runs for name in (evidence_name(run), f"runs/{run}")]
            sums = [store.checksum(piece) for piece in pieces]
            inputs = [sums, toy.digest(), tau, spec.digest(), list(group.steps)]
            write = partial(_calibrated, group, truth, tau, spec, store)
            store.make(calibration_name(group.name), inputs, write)
            task.advance(1)
    return [
        {"name": group.name, **store.document(calibration_name(group.name), "summary.json")}
        for group in groups
    ]


def _calibrated(
    group: Group, truth: Truth, tau: float, spec: CalibrationSpec, store: Store
) -> dict[str, Any]:
    """The files of the piece of a group."""
    runs, end = group.runs, group.steps[-1]
    decoders = [load_snapshot(store, run, end).W_dec for run in runs]
    explained = {run: explain(W, truth, spec) for run, W in zip(runs, decoders, strict=True)}
    rates = {run: store.table(evidence_name(run), "firing.parquet")["rate"] for run in runs}
    matches = {pair: store.table(pair_name(pair), f"{end:08d}.parquet") for pair in pairs_of(runs)}
    recurrence = gather(
        runs, matches, explained, {run: rate.to_numpy() for run, rate in rates.items()}, tau
    )
    detected = detect(recurrence, spec.bins)
    covered = coverage(recurrence, judges(spec, len(runs)), spec.bins)
    tables = {
        "latents": _latents(runs, explained, recurrence),
        "features": feature_table(recurrence, truth),
        "detector": detected.curve,
        "area": detected.area,
        "recall": recall(recurrence, truth, spec.bins),
        "discovered": discovered(recurrence, truth),
        "pairwise": pair_errors(matches, explained, sorted({*TAUS, tau})),
        "coverage": covered.table,
        "reliability": covered.reliability,
        "subspaces": subspace_table(recurrence, decoders, explained.values(), truth, spec),
    }
    summary = _summary(group.label, recurrence, tables, truth, tau, spec)
    return {f"{name}.parquet": tables[name] for name in TABLES} | {"summary.json": summary}


def judges(spec: CalibrationSpec, runs: int) -> int:
    """M of the headline: as asked for, or fewer where runs failed."""
    return min(spec.subset, max(2, runs - 2), runs)


def _latents(
    runs: Sequence[str], explained: Mapping[str, pl.DataFrame], recurrence: Recurrence
) -> pl.DataFrame:
    return pl.concat(
        explained[run].select(
            pl.lit(run).alias("run"),
            pl.all(),
            pl.Series("firing_rate", recurrence.rate[place]),
            pl.Series("n_matched", recurrence.found[place].sum(axis=1)),
            pl.lit(len(runs)).alias("n_runs"),
        )
        for place, run in enumerate(runs)
    )


def _summary(
    label: str,
    recurrence: Recurrence,
    tables: Mapping[str, pl.DataFrame],
    truth: Truth,
    tau: float,
    spec: CalibrationSpec,
) -> dict[str, Any]:
    """What the short table, the page and the docs quote; keys in docs/calibration.md."""
    runs, latents = recurrence.rate.shape
    size = int(tables["coverage"]["m"][0]) if len(tables["coverage"]) else min(spec.subset, runs)
    return {
        "label": label,
        "runs": runs,
        "latents": latents,
        "live": float((recurrence.rate > 0).sum(axis=1).mean()),
        "tau": tau,
        "feature": spec.feature,
        "judges": size,
        "kinds": _kinds(recurrence),
        "detector": _detector(tables, size),
        "found_by_all_but_no_feature": _false_alarms(recurrence, tables["latents"]),
        "recall": tables["recall"].row(0, named=True) | {"of": len(truth.single)},
        "most_recall": min(1.0, latents / len(truth.single)),
        "pairwise": tables["pairwise"].filter(pl.col("tau") == tau).row(0, named=True),
        "coverage": _coverage(tables["coverage"]),
        "subspaces": _subspaces(tables["subspaces"]),
    }


def _kinds(recurrence: Recurrence) -> dict[str, float]:
    """Live latents of each kind, mean over runs; and how many of those are dead."""
    live = recurrence.rate > 0
    return {kind: float(((recurrence.kind == kind) & live).sum(axis=1).mean()) for kind in KINDS}


def _detector(tables: Mapping[str, pl.DataFrame], size: int) -> dict[str, Any]:
    """On live latents: area, and the rule "found by all M"."""
    live = (pl.col("stratum") == "live") & (pl.col("m") == size)
    out: dict[str, Any] = {}
    for label in tables["area"]["label"].unique(maintain_order=True):
        here = live & (pl.col("label") == label)
        area = tables["area"].filter(here)
        if not len(area):
            continue
        by_all = tables["detector"].filter(here & (pl.col("n") == size))
        keep = by_all.select(
            "called",
            *(
                f"{n}{end}"
                for n in ("precision", "recall", "false_alarm")
                for end in ("", "_lo", "_hi")
            ),
        )
        chosen = area.select("base", "auc", "auc_lo", "auc_hi")
        out[str(label)] = chosen.row(0, named=True) | keep.row(0, named=True)
    return out


def _false_alarms(recurrence: Recurrence, latents: pl.DataFrame) -> dict[str, Any]:
    """Live latents found by all runs that are no feature: what they are instead, summed over runs.

    `near` are those of kind none whose cosine to a feature is at least 0.7.
    """
    every = latents.filter(
        (pl.col("firing_rate") > 0) & (pl.col("n_matched") == len(recurrence.rate) - 1)
    )
    wrong = every.filter(pl.col("kind") != "feature")
    near = (pl.col("feature_cos") >= 0.7) & (pl.col("kind") == "none")
    return {
        "found_by_all": len(every),
        "no_feature": len(wrong),
        **{kind: int((wrong["kind"] == kind).sum()) for kind in KINDS[1:]},
        "near": len(wrong.filter(near)),
        "median_rate": float(np.median(wrong["firing_rate"])) if len(wrong) else None,
    }


def _coverage(table: pl.DataFrame) -> dict[str, Any]:
    if not len(table):
        return {}
    live = table.filter(pl.col("stratum") == "live")
    names = ("coverage", "coverage_lo", "coverage_hi", "raw", "width", "held_out")
    return {row["rule"]: {name: row[name] for name in names} for row in live.iter_rows(named=True)}


def _subspaces(table: pl.DataFrame) -> dict[str, Any] | None:
    """None if none was planted."""
    if not len(table):
        return None
    counts = {
        name: int((table["verdict"] == name).sum()) for name in ("stable", "partial", "absent")
    }
    stable = counts["stable"] / len(table)
    low, high = wilson(np.array(stable), len(table))
    there = table.filter(pl.col("verdict") != "absent")
    mean = there.select(pl.col("latents", "dimensions", "agreement", "null", "recurrence").mean())
    return {
        "planted": len(table),
        **counts,
        "stable_share": stable,
        "stable_lo": float(low),
        "stable_hi": float(high),
        **mean.row(0, named=True),
    }
