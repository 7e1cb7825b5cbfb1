"""The door of calibration: one piece for each group of runs, `calibration/GROUP`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from reseed.calibration.coverage import coverage
from reseed.calibration.detector import detect
from reseed.calibration.recall import TAUS, discovered, feature_table, pair_errors, recall
from reseed.calibration.recurrence import Recurrence, gather
from reseed.calibration.subspaces import subspace_table
from reseed.calibration.summary import summarise
from reseed.calibration.truth import explain
from reseed.errors import SpecError
from reseed.events import Events
from reseed.matching.stage import load_snapshot
from reseed.runs import Group, calibration_name, evidence_name, pair_name, pairs_of
from reseed.spec.analysis import CalibrationSpec
from reseed.spec.subject import ToySpec
from reseed.store import Store
from reseed.study import Study
from reseed.subjects.toy_truth import Truth, truth_of

TABLES = (
    "latents", "features", "detector", "area", "recall", "discovered", "pairwise", "coverage",
    "reliability", "subspaces",
)  # fmt: skip
"""Parquet files of a piece; columns in docs/calibration.md."""


def check(spec: CalibrationSpec, runs: int) -> None:
    """Refuse a calibration that could not tell anything.

    Args:
        spec: how many runs judge.
        runs: of each architecture, that are planned.

    Raises:
        SpecError: if fewer than two runs would be held out.
    """
    if runs < spec.subset + 2:
        raise SpecError(
            f"calibration.subset = {spec.subset} of {runs} runs leaves {runs - spec.subset} held "
            "out, and the truth is estimated from those; at least 2 are needed. Train more seeds, "
            "or lower calibration.subset"
        )


def stage(study: Study, events: Events) -> list[dict[str, Any]]:
    """Make the calibration of every group that is missing or older than what it is made from.

    Args:
        study: of the toy, with results; groups of fewer than two runs are left out.
        events: progress.

    Returns:
        name and summary of each group, as in `calibration/GROUP/summary.json`.

    Raises:
        StoreError: if a match, a run or its evidence is missing or damaged.
    """
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
    summary = summarise(group.label, recurrence, tables, truth, tau, spec)
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
