"""The door of calibration: one piece for each group of runs, `calibration/GROUP`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from reseed.calibration.coverage import coverage
from reseed.calibration.detector import detect
from reseed.calibration.recall import TAUS, discovered, feature_table, pair_errors, recall
from reseed.calibration.recurrence import Recurrence, gather
from reseed.calibration.subspaces import SCHEMA, subspace_table
from reseed.calibration.summary import summarise
from reseed.calibration.truth import explain
from reseed.errors import SpecError
from reseed.events import Events
from reseed.matching.stage import load_snapshot
from reseed.runs import Group, Pair, calibration_name, evidence_name, pair_name, pairs_of
from reseed.seeds import digest
from reseed.spec.analysis import CalibrationSpec
from reseed.spec.subject import ToySpec
from reseed.store import Store, json_bytes, parquet_bytes
from reseed.subjects.toy_truth import Truth, truth_of

TABLES = (
    "latents", "features", "detector", "area", "recall", "discovered", "pairwise", "coverage",
    "reliability", "subspaces",
)  # fmt: skip
"""Parquet files of a piece; columns in docs/calibration.md."""

VERSION = 1


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


def calibrate_groups(
    groups: Sequence[Group],
    toy: ToySpec,
    tau: float,
    spec: CalibrationSpec,
    store: Store,
    events: Events,
) -> list[dict[str, Any]]:
    """Make the calibration of every group that is missing or older than what it is made from.

    Args:
        groups: of finished runs; those with fewer than two are left out.
        toy: what they were trained on.
        tau: of the shared rule.
        spec: thresholds.
        store: of the study.
        events: progress.

    Returns:
        The summary of each group, as in `calibration/GROUP/summary.json`.

    Raises:
        StoreError: if a match, a run or its evidence is missing or damaged.
    """
    able = [group for group in groups if len(group.runs) > 1]
    truth = truth_of(toy)
    with events.task("calibrate", len(able), "groups") as task:
        for group in able:
            made_from = _made_from(group, toy, tau, spec, store)
            if not store.has(calibration_name(group.name), made_from):
                _calibrate(group, truth, tau, spec, store, made_from)
            task.advance(1)
    return [store.document(calibration_name(group.name), "summary.json") for group in able]


def _made_from(group: Group, toy: ToySpec, tau: float, spec: CalibrationSpec, store: Store) -> str:
    pieces = [pair_name(pair) for pair in pairs_of(group.runs)]
    pieces += [name for run in group.runs for name in (evidence_name(run), f"runs/{run}")]
    sums = [store.checksum(piece) for piece in pieces]
    return digest([VERSION, sums, toy.digest(), tau, spec.digest(), list(group.steps)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What the store holds of a group."""

    decoders: list[np.ndarray[Any, np.dtype[np.float32]]]
    firing: Mapping[str, pl.DataFrame]
    tables: Mapping[Pair, pl.DataFrame]
    explained: Mapping[str, pl.DataFrame]


def _read(group: Group, truth: Truth, spec: CalibrationSpec, store: Store) -> _Read:
    end = group.steps[-1]
    decoders = [load_snapshot(store, run, end).W_dec for run in group.runs]
    return _Read(
        decoders=decoders,
        firing={run: store.table(evidence_name(run), "firing.parquet") for run in group.runs},
        tables={
            pair: store.table(pair_name(pair), f"{end:08d}.parquet")
            for pair in pairs_of(group.runs)
        },
        explained={
            run: explain(W, truth, spec) for run, W in zip(group.runs, decoders, strict=True)
        },
    )


def _calibrate(
    group: Group,
    truth: Truth,
    tau: float,
    spec: CalibrationSpec,
    store: Store,
    made_from: str,
) -> None:
    read = _read(group, truth, spec, store)
    rates = {run: table["rate"].to_numpy() for run, table in read.firing.items()}
    seen = gather(group.runs, read.tables, read.explained, rates, tau)
    found = _tables(group, read, seen, truth, tau, spec)
    summary = summarise(group.label, seen, found, truth, tau, spec)
    with store.piece(calibration_name(group.name), made_from) as folder:
        for name in TABLES:
            (folder / f"{name}.parquet").write_bytes(parquet_bytes(found[name]))
        (folder / "summary.json").write_bytes(json_bytes(summary))


def _tables(
    group: Group,
    read: _Read,
    seen: Recurrence,
    truth: Truth,
    tau: float,
    spec: CalibrationSpec,
) -> dict[str, pl.DataFrame]:
    size = judges(spec, len(group.runs))
    detected = detect(seen, spec.bins)
    covered = coverage(seen, size, spec.bins)
    inside = [
        read.explained[run].select(
            pl.when(pl.col("kind") == "subspace").then("subspace").fill_null(-1)
        )["subspace"]
        for run in group.runs
    ]
    captured = [one.to_numpy() for one in inside]
    subspaces = pl.DataFrame(schema=SCHEMA)
    if len(truth.bases):
        subspaces = subspace_table(seen, read.decoders, captured, truth, spec)
    taus = sorted({*TAUS, tau})
    return {
        "latents": _latents(group, read, seen),
        "features": feature_table(seen, truth),
        "detector": detected.curve,
        "area": detected.area,
        "recall": recall(seen, truth, spec.bins),
        "discovered": discovered(seen, truth),
        "pairwise": pair_errors(read.tables, read.explained, taus),
        "coverage": covered.table,
        "reliability": covered.reliability,
        "subspaces": subspaces,
    }


def judges(spec: CalibrationSpec, runs: int) -> int:
    """M of the headline: as asked for, or fewer where runs failed."""
    return min(spec.subset, max(2, runs - 2), runs)


def _latents(group: Group, read: _Read, seen: Recurrence) -> pl.DataFrame:
    frames = [
        read.explained[run].select(
            pl.lit(run).alias("run"),
            pl.all(),
            pl.Series("firing_rate", seen.rate[place]),
            pl.Series("n_matched", seen.found[place].sum(axis=1)),
            pl.lit(len(group.runs)).alias("n_runs"),
        )
        for place, run in enumerate(group.runs)
    ]
    return pl.concat(frames)
