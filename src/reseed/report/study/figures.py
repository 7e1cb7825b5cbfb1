"""What the figures are drawn from: columns of the store's tables, selected and shortened."""

from __future__ import annotations

from typing import Any

import polars as pl

from reseed.report.numbers import short
from reseed.report.study import over_seeds
from reseed.report.study.reading import GroupFacts, RunFacts

POINTS = 6000
"""Most points of a scatter plot."""

STEPS = 400
"""Most points of a training curve."""

_KINDS = {
    "observed": "observed",
    "N2 covariance-matched": "null",
    "N4 untrained pair": "untrained",
}

_CURVES = ("share", "lo", "hi", "null", "null_lo", "null_hi", "untrained")


def stride(rows: int, most: int) -> int:
    """Every how-many-th row is kept so that no more than `most` remain."""
    return max(1, -(-rows // most))


def group_data(group: GroupFacts) -> dict[str, Any]:
    """Everything that is drawn of a group."""
    out: dict[str, Any] = {
        "label": group.label,
        "runs": [run.seeds for run in group.runs],
        "training": [_training(run) for run in group.runs],
    }
    if not group.paired:
        return out
    tables = group.tables
    return out | {
        "headline": _headline(group.summary["headline"]),
        "tau": group.summary["headline"]["tau"],
        "cosines": cosines_data(tables["cosines"]),
        "shares": shares_data(tables["shares"]),
        "n_of_m": _n_of_m(tables["n_of_m"]),
        **over_seeds.data(group.summary, tables),
        "frequency": _frequency(tables["frequency"]),
        "latents": _latents(tables["latents"], group.summary),
        "trend": _columns(tables["trend"].filter(measure="shared"), "tokens", "value", "lo", "hi"),
    }


def _columns(table: pl.DataFrame, *names: str) -> dict[str, list[Any]]:
    return {name: short(table[name].to_list()) for name in names}


def _headline(found: dict[str, Any]) -> dict[str, Any]:
    one = found["shared"]["all"]
    null = one["null_covariance"]
    return {
        "value": one["value"],
        "interval": one["interval_95"],
        "null": None if null is None else short([null["mean"], null["lo"], null["hi"]]),
        "untrained": one["null_untrained"],
    }


def cosines_data(table: pl.DataFrame) -> dict[str, Any]:
    """Histograms of matched cosines by view and kind."""
    bins = table.filter(kind="observed", view="decoder")["bin"]
    out: dict[str, Any] = {"bin": short(bins.to_list())}
    for (kind, view), rows in table.group_by(["kind", "view"], maintain_order=True):
        out.setdefault(str(view), {})[_KINDS[str(kind)]] = short(rows["latents"].to_list())
    return out


def shares_data(table: pl.DataFrame) -> dict[str, Any]:
    """Curves over tau by measure and stratum."""
    # strata by firing rate have a figure of their own
    table = table.filter(~pl.col("stratum").str.starts_with("rate"))
    parts = table.partition_by(["measure", "stratum"], as_dict=True, maintain_order=True)
    there = [name for name in _CURVES if name in table.columns]
    curves = {
        f"{measure}/{stratum}": _columns(t, *there) for (measure, stratum), t in parts.items()
    }
    return {"tau": short(table["tau"].unique(maintain_order=True).to_list()), "curves": curves}


def _n_of_m(table: pl.DataFrame) -> dict[str, Any]:
    return {
        str(stratum): _columns(rows, "n", "m", "latents", "share", "binomial", "beta_binomial")
        for (stratum,), rows in table.group_by(["stratum"], maintain_order=True)
    }


def _frequency(table: pl.DataFrame) -> dict[str, list[Any]]:
    return _columns(table, "rate_lo", "rate_hi", "latents", "recurrence", "max_decoder_cos")


def _latents(table: pl.DataFrame, summary: dict[str, Any]) -> dict[str, Any]:
    """Live latents by how many other runs they are found in; every stride-th of them."""
    live = table.filter("alive")
    place = {run: number for number, run in enumerate(summary["runs"])}
    kept = live.gather_every(stride(len(live), POINTS)).with_columns(
        pl.col("run").replace_strict(place, return_dtype=pl.Int64)
    )
    names = ("firing_rate", "max_decoder_cos", "run", "latent")
    parts = kept.sort("n_matched", maintain_order=True).partition_by(
        "n_matched", maintain_order=True
    )
    return {
        "others": summary["independent"]["trials"],
        "found": [{"n": int(p["n_matched"][0]), **_columns(p, *names)} for p in parts],
    }


def _training(run: RunFacts) -> dict[str, list[Any]]:
    every = stride(len(run.metrics), STEPS)
    last = run.metrics.tail(1)
    kept = run.metrics.gather_every(every)
    if len(kept) and kept["step"][-1] != last["step"][0]:
        kept = pl.concat([kept, last])
    return _columns(kept, "tokens", "fvu", "dead")
