"""What width, k and tokens do, over all groups of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.report.html import Html, Inside, table, tag
from reseed.report.numbers import (
    NONE,
    decimals,
    decimals_range,
    mean_and_range,
    percent,
    percent_range,
    short,
)
from reseed.report.parts import choices, figure, pair
from reseed.spec.statistics import Headline
from reseed.spec.summary import Effect, Factors, PartOfSpread, StudyGroup, Summary

_DOUBLED = {"latents": "width", "k": "k", "tokens": "tokens seen"}
"""Factors that are numbers: key to its words."""

_FACTORS = _DOUBLED | {"site": "site", "architecture": "architecture"}

_PARTS = _FACTORS | {"not additive": "their combination"}

_MEASURES = {
    SHARED.id: "shared at tau",
    "chance_corrected": "chance-corrected",
    "shared_live": "shared, live latents",
    MATCH_AT_FDR: "match at FDR 5%",
    PW_MCC.id: "mean matched cosine",
}


def factors_data(summary: Summary, cells: pl.DataFrame | None) -> dict[str, Any]:
    """What the figures are drawn from; empty where groups were not compared."""
    factors = summary.factors
    if factors is None or cells is None:
        return {}
    labels = {group["group"]: group["label"] for group in factors.groups}
    shown = cells.with_columns(pl.col("group").replace_strict(labels).alias("label"))
    names = ("label", "site", "architecture", "latents", "k", "tokens")
    drawn = {
        _MEASURES[measure]: {name: rows[name].to_list() for name in names}
        | {name: short(rows[name].to_list()) for name in ("value", "lo", "hi")}
        for measure in factors.measures
        if len(rows := shown.filter(measure=measure))
    }
    spread = {
        _MEASURES[measure]: _spread(numbers.spread.parts)
        for measure, numbers in factors.measures.items()
    }
    return {"factors": {"cells": drawn, "spread": spread, "mean": _MEASURES[PW_MCC.id]}}


def _spread(parts: Mapping[str, PartOfSpread]) -> dict[str, Any]:
    return {
        "name": [_PARTS[name] for name in parts],
        "share": short(part.share for part in parts.values()),
        "by_seeds": short(part.by_seeds for part in parts.values()),
    }


def factors_section(summary: Summary) -> Html | None:
    """Sentences, figures and tables; None where groups were not compared."""
    factors = summary.factors
    if factors is None:
        return None
    # Tokens vary within every run; only what differs between SAEs can be in the title.
    levels = _levels(factors)
    doubled = [words for name, words in _DOUBLED.items() if levels.get(name, 1) > 1]
    words = [tag("li", sentence[:1].upper() + sentence[1:]) for sentence in factors.words]
    parts: list[Html | None] = [tag("ul", *words)]
    if doubled:
        parts += [_figures(factors, doubled), _effects(factors, levels)]
    parts += [_beside(summary), _across(factors)]
    title = f"What {_and(doubled)} {'do' if len(doubled) > 1 else 'does'}"
    if doubled in ([], [_DOUBLED["tokens"]]):
        title = "How the SAEs differ"
    return tag("section", tag("h2", title), *parts, id="factors")


def _levels(factors: Factors) -> dict[str, int]:
    """Factor to the number of its levels."""
    if not factors.measures:
        return {}
    effects = next(iter(factors.measures.values())).effects
    return {name: len(effect.levels) for name, effect in effects.items() if name in _FACTORS}


def _and(names: list[str]) -> str:
    *first, last = names or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _figures(factors: Factors, against: list[str]) -> Html:
    measure = ("measure", [_MEASURES[name] for name in factors.measures])
    cells = figure(
        "factors",
        f"Agreement against {_and(against)}",
        "Each point is a group of runs with its 95% interval over seeds, at the end of training "
        "unless against tokens; a line joins groups that are alike in all else. Where lines run "
        "side by side the effects add; where they cross they do not.",
        choices(measure=measure, against=("against", against)),
    )
    spread = figure(
        "factor-spread",
        "Where the differences come from",
        "Bars: the part of the sum of squares over all groups (and snapshots, where they are "
        "known) that the additive model loses without the factor. Diamonds: what other seeds "
        "alone would give. A bar no longer than its diamond says nothing.",
        choices(measure=measure),
    )
    return pair(cells, spread)


def _effects(factors: Factors, levels: Mapping[str, int]) -> Html | None:
    """The change with each doubling, by factor and measure; factors that vary."""
    rows: list[dict[str, Inside]] = [
        {
            "change with": f"doubling {words}",
            **{
                _MEASURES[name]: _change(numbers.effects.get(factor), mean=name == PW_MCC.id)
                for name, numbers in factors.measures.items()
            },
        }
        for factor, words in _DOUBLED.items()
        if levels.get(factor, 1) > 1
    ]
    caption = "Change with each doubling, all else equal (95% interval); shares in points"
    return table(rows, caption=caption)


def _change(effect: Effect | None, *, mean: bool) -> str:
    number = None if effect is None else effect.doubling
    if number is None or number.value is None:
        return NONE
    scale, digits = (1.0, 3) if mean else (100.0, 1)
    value = f"{scale * number.value:+.{digits}f}"
    if number.interval_95 is None:
        return value
    low, high = (f"{scale * end:+.{digits}f}" for end in number.interval_95)
    return f"{value} ({low} to {high})"


def _beside(summary: Summary) -> Html:
    """Agreement of each group beside its untrained pair and how far it moved from its start."""
    rows = [_group_row(group, headline) for group in summary.groups if (headline := group.headline)]
    note = (
        "SAEs that hardly left their start (cosine near 1) agree as far as they started alike, "
        "which the untrained pair shows. Read agreement beside FVU: an SAE that reconstructs worse "
        "can agree more."
    )
    shown = table(rows, caption="Agreement beside distance from the start")
    return tag("div", shown, tag("p", note, class_="caption"))


def _group_row(group: StudyGroup, headline: Headline) -> dict[str, Inside]:
    shared = headline.shared["all"]
    return {
        "SAE": group.label,
        "shared": percent(shared.value),
        "95% interval": percent_range(shared.interval_95),
        "chance-corrected": percent(shared.chance_corrected),
        "mean cosine": decimals(headline.pw_mcc["all"].value),
        "untrained pair": percent(shared.null_untrained),
        "cosine to its start": mean_and_range(group.distance_from_init),
        "FVU, held out": mean_and_range(group.reconstruction.fvu),
    }


def _across(factors: Factors) -> Html | None:
    """Latents of one group that come back in another."""
    labels = {group["group"]: group["label"] for group in factors.groups}
    rows: list[dict[str, Inside]] = []
    for two in factors.across:
        if two.found and two.found_back and two.nearest and two.pw_mcc:
            rows.append(
                {
                    "latents of": labels[two.small],
                    "found in": labels[two.large],
                    "pairs": f"{two.pairs}",
                    "shared at tau": percent(two.found.value),
                    "95% interval": percent_range(two.found.interval_95),
                    "chance": percent(two.found.null),
                    "nearest, not one to one": percent(two.nearest.value),
                    "shared the other way": percent(two.found_back.value),
                    "mean cosine": decimals(two.pw_mcc.value),
                    "its 95% interval": decimals_range(two.pw_mcc.interval_95),
                }
            )
    return table(rows, caption="SAEs matched with each other", words=("found in",))
