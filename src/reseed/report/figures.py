"""What the figures are drawn from: columns of the tables, as short as a page can carry them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.report.facts import GroupFacts
from reseed.report.html import rate
from reseed.spec.statistics import Components, Headline, Range
from reseed.spec.summary import StudyGroup, Summary

POINTS = 6000
"""Most points of a scatter plot."""

STEPS = 400
"""Most points of a training curve."""

MEASURES = {
    SHARED.id: "shared at tau",
    "chance_corrected": "chance-corrected",
    "shared_live": "shared, live latents",
    MATCH_AT_FDR: "match at FDR 5%",
    PW_MCC.id: "mean matched cosine",
}
"""Measures over the groups of a study, in words."""

FACTORS = {"latents": "width", "k": "k", "tokens": "tokens seen"} | {
    name: name for name in ("site", "architecture")
}
"""What differs between groups, in words."""

_PARTS = {
    "feature": "found whatever the seeds",
    "init": "goes with the init seed",
    "data": "goes with the data seed",
    "both": "goes with neither alone",
}

_KINDS = {"observed": "observed", "N2": "null", "N4": "untrained"}
"""First word of what a histogram is of, to its name in the script."""


def short(values: Iterable[Any]) -> list[float | int | None]:
    """Numbers with four significant digits, so that the page stays small; NaN becomes None."""
    return [_short(value) for value in values]


def _short(value: Any) -> float | int | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int):
        return value
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded


def columns(table: pl.DataFrame, *names: str) -> dict[str, list[float | int | None]]:
    """Columns of numbers for the page."""
    return {name: short(table[name].to_list()) for name in names}


def split(table: pl.DataFrame, keys: Sequence[str], *names: str) -> dict[str, dict[str, Any]]:
    """Columns of each part of a table, under the values of its keys: `shared/live`."""
    parts = table.partition_by(keys, as_dict=True, maintain_order=True)
    return {"/".join(map(str, key)): columns(part, *names) for key, part in parts.items()}


def stride(rows: int, most: int) -> int:
    """Every how-many-th row is kept so that no more than `most` remain."""
    return max(1, -(-rows // most))


# -- agreement of two or more SAEs ---------------------------------------------------------------


def agreement_data(
    headline: Mapping[str, Any], null: Range | None, cosines: pl.DataFrame, curve: pl.DataFrame
) -> dict[str, Any]:
    """The headline number with tau, histograms of matched cosines, shares over tau.

    Args:
        headline: `tau`, and the `value`, `interval` and `untrained` of the shared share.
        null: of that share.
        cosines: latents by `kind`, `view` and `bin`.
        curve: share by `measure`, `stratum` and `tau`.
    """
    ends = null and short([null.mean, null.lo, null.hi])
    bins = cosines.filter(kind="observed", view="decoder")["bin"]
    views: dict[str, Any] = {"bin": short(bins.to_list())}
    for (kind, view), rows in cosines.group_by(["kind", "view"], maintain_order=True):
        name = _KINDS[str(kind).split()[0]]
        views.setdefault(str(view), {})[name] = short(rows["latents"].to_list())
    drawn = ("share", "lo", "hi", "null", "null_lo", "null_hi", "untrained")
    names = [name for name in drawn if name in curve.columns]
    strata = curve.filter(~pl.col("stratum").str.starts_with("rate"))
    return {
        "headline": {name: headline[name] for name in ("value", "interval")}
        | {"null": ends, "untrained": headline["untrained"]},
        "tau": headline["tau"],
        "cosines": views,
        "shares": {
            "tau": short(curve["tau"].unique(maintain_order=True).to_list()),
            "curves": split(strata, ["measure", "stratum"], *names),
        },
    }


# -- a group of runs -----------------------------------------------------------------------------


def headline_data(headline: Headline, tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """`agreement_data` of a group, out of its tables `cosines` and `shares`."""
    share = headline.shared["all"]
    number = {
        "tau": headline.tau,
        "value": share.value,
        "interval": share.interval_95,
        "untrained": share.null_untrained,
    }
    return agreement_data(number, share.null_covariance, tables["cosines"], tables["shares"])


def n_of_m_data(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """How many runs latents are found in, by stratum."""
    return split(table, ["stratum"], "n", "m", "latents", "share", "binomial", "beta_binomial")


def group_data(group: GroupFacts) -> dict[str, Any]:
    """Everything that is drawn of a group."""
    out: dict[str, Any] = {
        "label": group.label,
        "runs": [run.seeds for run in group.runs],
        "training": [_training(run.metrics) for run in group.runs],
    }
    tables, summary = group.tables, group.summary
    if summary.headline is None:
        return out
    frequency = ("rate_lo", "rate_hi", "latents", "recurrence", "max_decoder_cos")
    laws, unseen = summary.only_in_one or {}, summary.unseen
    only = split(tables["only_in_one"], ["stratum"], "m", "share", "lo", "hi", "fitted")
    return out | {
        **headline_data(summary.headline, tables),
        "strata": _strata(summary, tables["strata"]),
        "reproducibility": _reproducibility(tables["reproducibility"]),
        "n_of_m": n_of_m_data(tables["n_of_m"]),
        "only_in_one": {name: rows | {"c": _short(laws[name].c)} for name, rows in only.items()},
        "accumulation": columns(tables["accumulation"], "m", "features")
        | {"chao2": unseen and unseen.chao2, "ice": unseen and unseen.ice},
        "components": _components(summary.components),
        "frequency": columns(tables["frequency"], *frequency),
        "latents": _latents(tables["latents"], summary),
        "trend": columns(tables["trend"].filter(measure=SHARED.id), "tokens", "value", "lo", "hi"),
    }


def _training(metrics: pl.DataFrame) -> dict[str, list[Any]]:
    last = metrics.tail(1)
    kept = metrics.gather_every(stride(len(metrics), STEPS))
    if len(kept) and kept["step"][-1] != last["step"][0]:
        kept = pl.concat([kept, last])
    return columns(kept, "tokens", "fvu", "dead")


def _latents(latents: pl.DataFrame, summary: StudyGroup) -> dict[str, Any]:
    """Live latents by how many other runs they are found in; every stride-th of them."""
    live = latents.filter("alive")
    place = {run: number for number, run in enumerate(summary.runs)}
    kept = live.gather_every(stride(len(live), POINTS)).with_columns(
        pl.col("run").replace_strict(place, return_dtype=pl.Int64)
    )
    names = ("firing_rate", "max_decoder_cos", "run", "latent")
    ordered = kept.sort("n_matched", maintain_order=True)
    parts = ordered.partition_by("n_matched", maintain_order=True)
    return {
        "others": summary.independent.trials if summary.independent else 0,
        "parts": [{"n": int(p["n_matched"][0]), **columns(p, *names)} for p in parts],
    }


def _strata(summary: StudyGroup, strata: pl.DataFrame) -> dict[str, Any]:
    live = summary.headline.shared.get("live") if summary.headline else None
    null = live and live.null_covariance
    rows = strata.drop_nulls("shared")
    names = [
        _bin(row) if str(row["stratum"]).startswith("rate") else row["stratum"]
        for row in rows.iter_rows(named=True)
    ]
    shares = [f"{name}{end}" for name in ("shared", "found") for end in ("", "_lo", "_hi")]
    drawn = columns(rows, "latents", *shares, "untrained")
    return drawn | {"name": names, "null": null and _short(null.mean)}


def _bin(row: Mapping[str, Any]) -> str:
    if row["rate_hi"] == 0:
        return "dead"
    low, high = rate(row["rate_lo"]), rate(row["rate_hi"])
    return high if low == high else f"{low.removesuffix('%')}–{high}"


def _reproducibility(latents: pl.DataFrame) -> dict[str, Any]:
    """By bin of firing rate, for the number of other runs that most latents have."""
    names = ("n_matched", "latents", "recurrence_mean", "recurrence_lo", "recurrence_hi")
    most = latents.filter(pl.col("n_seeds") == pl.col("n_seeds").max())
    parts = most.drop_nulls("recurrence_mean").partition_by("rate_bin", maintain_order=True)
    bins = [{"name": _bin(p.row(0, named=True)), **columns(p, *names)} for p in parts]
    return {"trials": int(most["n_seeds"][0]) - 1 if len(most) else 0, "bins": bins}


def _components(components: Components | None) -> dict[str, Any] | None:
    if components is None:
        return None
    parts = [components.parts[name] for name in _PARTS]
    ends = [part.interval_95 or (None, None) for part in parts]
    return {
        "name": list(_PARTS.values()),
        "value": short(part.value for part in parts),
        "lo": short(low for low, _ in ends),
        "hi": short(high for _, high in ends),
    }


# -- all groups of a study -----------------------------------------------------------------------


def factors_data(summary: Summary, cells: pl.DataFrame | None) -> dict[str, Any]:
    """Agreement of every group and what goes with each factor; empty without a comparison."""
    factors = summary.factors
    if factors is None or cells is None:
        return {}
    labels = {group["group"]: group["label"] for group in factors.groups}
    shown = cells.with_columns(pl.col("group").replace_strict(labels).alias("label"))
    names = ("label", "site", "architecture", "latents", "k", "tokens")
    drawn = {
        MEASURES[measure]: rows.select(names).to_dict(as_series=False)
        | columns(rows, "value", "lo", "hi")
        for measure in factors.measures
        if len(rows := shown.filter(measure=measure))
    }
    words = FACTORS | {"not additive": "their combination"}
    spread = {
        MEASURES[measure]: {
            "name": [words[name] for name in numbers.spread.parts],
            "share": short(part.share for part in numbers.spread.parts.values()),
            "by_seeds": short(part.by_seeds for part in numbers.spread.parts.values()),
        }
        for measure, numbers in factors.measures.items()
    }
    return {"factors": {"cells": drawn, "spread": spread, "mean": MEASURES[PW_MCC.id]}}
