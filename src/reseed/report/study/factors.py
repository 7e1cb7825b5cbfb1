"""What width, k and tokens do, over all groups of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from reseed.report.html import Html, Inside, choice, figure, pair, table, tag
from reseed.report.numbers import (
    NONE,
    cosine,
    cosine_range,
    mean_and_range,
    percent,
    percent_range,
    short,
)

_FACTORS = {
    "latents": "width",
    "k": "k",
    "tokens": "tokens seen",
    "site": "site",
    "architecture": "architecture",
}

_MEASURES = {
    "shared": "shared at tau",
    "chance_corrected": "chance-corrected",
    "shared_live": "shared, live latents",
    "match_at_fdr": "match at FDR 5%",
    "pw_mcc": "mean matched cosine",
}

_MEAN = "pw_mcc"

_PARTS = _FACTORS | {"not additive": "their combination"}


def factors_data(summary: Mapping[str, Any], cells: pl.DataFrame | None) -> dict[str, Any]:
    """What the figures are drawn from; empty where groups were not compared."""
    found = summary.get("factors")
    if found is None or cells is None:
        return {}
    labels = {one["group"]: one["label"] for one in found["groups"]}
    shown = cells.with_columns(pl.col("group").replace_strict(labels).alias("label"))
    names = ("label", "site", "architecture", "latents", "k", "tokens")
    drawn = {
        _MEASURES[measure]: {name: rows[name].to_list() for name in names}
        | {name: short(rows[name].to_list()) for name in ("value", "lo", "hi")}
        for measure in found["measures"]
        if len(rows := shown.filter(measure=measure))
    }
    spread = {
        _MEASURES[measure]: _spread(one["spread"]) for measure, one in found["measures"].items()
    }
    return {"factors": {"cells": drawn, "spread": spread, "mean": _MEASURES[_MEAN]}}


def _spread(found: Mapping[str, Any]) -> dict[str, Any]:
    parts = found["parts"]
    return {
        "name": [_PARTS[name] for name in parts],
        "share": short(one["share"] for one in parts.values()),
        "by_seeds": short(one["by_seeds"] for one in parts.values()),
    }


def factors_section(summary: Mapping[str, Any]) -> Html | None:
    """Sentences, figures and tables; None where groups were not compared."""
    found = summary.get("factors")
    if found is None:
        return None
    words = [tag("li", one[:1].upper() + one[1:]) for one in found["words"]]
    parts: list[Html | None] = [tag("ul", *words)]
    if found["measures"]:
        parts += [_figures(found), _effects(found)]
    parts += [_beside(summary), _across(found)]
    title = "What width, k and tokens do"
    return tag("section", tag("h2", title), *parts, id="factors")


def _figures(found: Mapping[str, Any]) -> Html:
    effects = next(iter(found["measures"].values()))["effects"]
    levels = {name: len(one["levels"]) for name, one in effects.items() if name in _FACTORS}
    against = [_FACTORS[name] for name in ("latents", "k", "tokens") if levels.get(name, 1) > 1]
    measures = [_MEASURES[name] for name in found["measures"]]
    cells = figure(
        "factors",
        "Agreement against width, k and tokens",
        "Each point is a group of runs (at the end of training, unless against tokens) with its "
        "95% interval over seeds; a line joins groups that are alike in all else. Lines that run "
        "side by side add, lines that cross do not.",
        tag(
            "div",
            choice("measure", "measure", measures),
            choice("against", "against", against or ["width"]),
            class_="controls",
        ),
    )
    spread = figure(
        "factor-spread",
        "Where the spread between cells comes from",
        "Cells are groups at snapshots (or groups at the end, for what is known only there). Bars: "
        "the part of the sum of squares of their means that the additive model loses without the "
        "factor; diamonds: what other seeds alone would put there. A bar no longer than its "
        "diamond says nothing.",
        tag("div", choice("measure", "measure", measures), class_="controls"),
    )
    return pair(cells, spread)


def _effects(found: Mapping[str, Any]) -> Html:
    """The change with each doubling, by factor and measure."""
    rows: list[list[Html]] = []
    for factor, name in _FACTORS.items():
        cells: list[Html] = []
        for one in found["measures"].values():
            effect = one["effects"].get(factor)
            told = None if effect is None else effect["doubling"]
            cells.append(tag("td", _change(told, one is found["measures"].get(_MEAN))))
        if factor in ("latents", "k", "tokens"):
            rows.append([tag("th", f"doubling {name}", scope="row"), *cells])
    head: list[Inside] = ["", *(_MEASURES[name] for name in found["measures"])]
    caption = "Change with each doubling, all else equal (95% interval); shares in points"
    return table(head, rows, caption=caption, class_="numbers")


def _change(number: Mapping[str, Any] | None, mean: bool) -> str:
    if number is None:
        return NONE
    scale, digits = (1.0, 3) if mean else (100.0, 1)
    value = f"{scale * number['value']:+.{digits}f}"
    if number["interval_95"] is None:
        return value
    low, high = (f"{scale * end:+.{digits}f}" for end in number["interval_95"])
    return f"{value} ({low} to {high})"


def _beside(summary: Mapping[str, Any]) -> Html:
    """Agreement of each group beside its untrained pair and how far it moved from its start."""
    rows = [_group_row(one) for one in summary["groups"] if "headline" in one]
    head: list[Inside] = [
        "SAE", "shared", "95% interval", "chance-corrected", "mean cosine", "untrained pair",
        "cosine to its start", "FVU, held out",
    ]  # fmt: skip
    caption = "Agreement beside distance from the start"
    note = (
        "Cosine to its start: of a live latent's decoder row to where it began, mean over runs. A "
        "group that agrees while it has hardly moved shows its start; runs of different init seeds "
        "start apart, which the untrained pair shows. Read agreement beside FVU: an SAE "
        "that reconstructs worse can agree more."
    )
    return tag(
        "div",
        table(head, rows, caption=caption, class_="numbers"),
        tag("p", note, class_="caption"),
    )


def _group_row(group: Mapping[str, Any]) -> list[Html]:
    one, mean = group["headline"]["shared"]["all"], group["headline"]["pw_mcc"]["all"]["value"]
    moved = group["distance_from_init"]
    cells = [
        percent(one["value"]),
        percent_range(one["interval_95"]),
        percent(one["chance_corrected"]),
        cosine(mean),
        percent(one["null_untrained"]),
        NONE if moved["mean"] is None else mean_and_range(moved),
        mean_and_range(group["reconstruction"]["fvu"]),
    ]
    return [tag("th", group["label"], scope="row"), *(tag("td", cell) for cell in cells)]


def _across(found: Mapping[str, Any]) -> Html | None:
    """Latents of one group that come back in another."""
    label = {one["group"]: one["label"] for one in found["groups"]}
    told = [one for one in found["across"] if one["found"] is not None]
    if not told:
        return None
    rows = [_across_row(one, label) for one in told]
    head: list[Inside] = [
        "of the latents of", "found in", "pairs", "shared at tau", "95% interval", "chance",
        "nearest, not one to one", "the other way", "mean cosine", "95% interval",
    ]  # fmt: skip
    return table(head, rows, caption="Groups matched with each other", class_="numbers")


def _across_row(one: Mapping[str, Any], label: Mapping[str, str]) -> list[Html]:
    shares: Sequence[str] = [
        f"{one['pairs']}",
        percent(one["found"]["value"]),
        percent_range(one["found"]["interval_95"]),
        percent(one["found"]["null"]),
        percent(one["nearest"]["value"]),
        percent(one["found_back"]["value"]),
        cosine(one["pw_mcc"]["value"]),
        cosine_range(one["pw_mcc"]["interval_95"]),
    ]
    names = (
        tag("th", label[one["small"]], scope="row"),
        tag("td", label[one["large"]], class_="word"),
    )
    return [*names, *(tag("td", cell) for cell in shares)]
