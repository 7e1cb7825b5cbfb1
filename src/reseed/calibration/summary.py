"""The headline numbers of a calibration, selected from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from reseed.calibration.recurrence import Recurrence
from reseed.calibration.truth import KINDS
from reseed.spec.analysis import CalibrationSpec
from reseed.stability.intervals import wilson
from reseed.subjects.toy_truth import Truth


def summarise(
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
    low, high = wilson(np.array([counts["stable"]]), len(table))
    there = table.filter(pl.col("verdict") != "absent")
    mean = there.select(pl.col("latents", "dimensions", "agreement", "null", "recurrence").mean())
    return {
        "planted": len(table),
        **counts,
        "stable_share": counts["stable"] / len(table),
        "stable_lo": float(low[0]),
        "stable_hi": float(high[0]),
        **mean.row(0, named=True),
    }
