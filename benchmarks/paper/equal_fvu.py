"""Overlap of dictionaries of several sizes where they reconstruct equally well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

import reseed
from benchmarks.paper.claims import Claim, Number, Row, Told, direction, groups_of, told

_LAST = 0.02
"""Share of the steps before a snapshot whose batches tell its FVU."""


def at_equal_fvu(
    study: reseed.Study, title: str, key: Callable[[Any], Any], paper: str, way: int
) -> Claim:
    """A claim that overlap rises (1) or falls (-1) with what `key` gives of an `[[sae]]`."""
    groups = sorted(groups_of(study), key=lambda told: key(told.made.sae))
    curves = [_curve(study, group) for group in groups]
    target = max(float(curve["fvu"][-1]) for curve in curves)
    numbers = [between(curve, target) for curve in curves]
    early = [curve["fvu"][0] < target for curve in curves]
    return Claim(
        title=title,
        study=study.folder.name,
        verdict=direction(numbers, way),
        rows=[
            Row(what="the paper", paper=paper),
            *(
                Row(
                    what=f"{group.group.label}, at FVU {target:.3f}",
                    ours="reached before its first snapshot, where it is " * before + told(number),
                    share=number,
                )
                for group, number, before in zip(groups, numbers, early, strict=True)
            ),
        ],
        how="Where the others reach the final FVU of the worst one: a straight line between the "
        "snapshots around it, or the first snapshot, where it is higher if overlap rises with "
        "tokens. FVU is that of the training batches before a snapshot; the learning rate has not "
        "fallen yet at the earlier ones.",
    )


def _curve(study: reseed.Study, group: Told) -> pl.DataFrame:
    """Tokens, share with its interval, and mean FVU of the runs at each snapshot and the end."""
    trend = study.store.table(f"stability/{group.group.name}", "trend.parquet").sort("tokens")
    trend = trend.filter(pl.col("measure") == "shared", pl.col("tokens") > 0)
    metrics = [run.metrics() for run in study.runs if run.id in group.group.runs]

    def fvu(tokens: int) -> float:
        last = pl.col("tokens").is_between((1 - _LAST) * tokens, tokens)
        means = [table.filter(last)["fvu"].mean() for table in metrics]
        return float(np.mean(np.array(means, np.float64)))

    return trend.with_columns(pl.Series("fvu", [fvu(tokens) for tokens in trend["tokens"]]))


def between(curve: pl.DataFrame, target: float) -> Number:
    """The share where the FVU falls to the target; at the first snapshot if it is below there."""
    fvu = np.minimum.accumulate(curve["fvu"].to_numpy())
    value, low, high = (
        None if curve[name].null_count() else float(np.interp(-target, -fvu, curve[name]))
        for name in ("value", "lo", "hi")
    )
    return {"value": value, "interval_95": None if None in (low, high) else (low, high)}
