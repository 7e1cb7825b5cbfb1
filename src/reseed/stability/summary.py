"""The headline numbers of a group, each with its interval, its nulls and its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching import measures
from reseed.stability import shares
from reseed.stability.intervals import mean_over_pairs
from reseed.stability.nulls import chance_corrected
from reseed.stability.shares import PairTable


def headline(
    curves: pl.DataFrame,
    tau: float,
    *,
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    nulls: Sequence[PairTable],
    members: Mapping[str, NDArray[np.bool_]],
) -> dict[str, Any]:
    """Every measure at tau on every stratum, and the means.

    Args:
        curves: from `share_table`.
        tau: the threshold.
        end: tables of all pairs at the end of training.
        start: the same at its start.
        nulls: covariance-matched draws.
        members: all latents of each run.
    """
    at = curves.filter((pl.col("tau") - tau).abs() < 0.005)
    out: dict[str, Any] = {"tau": tau}
    for row in at.iter_rows(named=True):
        null = None
        if row["null"] is not None:
            null = {"mean": row["null"], "lo": row["null_lo"], "hi": row["null_hi"]}
        one = _number(row["share"], (row["lo"], row["hi"]), null, row["untrained"])
        out.setdefault(row["measure"], {})[row["stratum"]] = one
    for measure in measures.MEANS:
        each = np.array([shares.mean_score(t, measure, members) for t in end])
        mean, low, high = mean_over_pairs([t.pair for t in end], each)
        chance = shares.null_means(nulls, measure)
        before = np.mean([shares.mean_score(t, measure, members) for t in start])
        null = {"mean": chance.mean(), "lo": chance.min(), "hi": chance.max()}
        out[measure.id] = {"all": _number(float(mean), (low, high), null, float(before))}
    return out


def _number(
    value: float | None, interval: tuple[Any, Any], null: dict[str, Any] | None, untrained: Any
) -> dict[str, Any]:
    """One headline number; what could not be told is null (the interval of fewer than 3 runs)."""
    return {
        "value": _plain(value),
        "interval_95": None if _plain(interval[0]) is None else [_plain(x) for x in interval],
        "null_covariance": None if null is None else {k: _plain(v) for k, v in null.items()},
        "null_untrained": _plain(untrained),
        "chance_corrected": None
        if null is None or value is None
        else _plain(chance_corrected(value, float(null["mean"]))),
    }


def _plain(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def reconstruction(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Held-out reconstruction of the runs of a group: mean and range over runs."""
    out: dict[str, Any] = {"held_out_tokens": runs[0]["rows"]}
    for name in ("fvu", "l0"):
        values = [one[name] for one in runs]
        out[name] = {"mean": float(np.mean(values)), "lo": min(values), "hi": max(values)}
    return out
