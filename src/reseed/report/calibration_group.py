"""The part of the page of a calibration about one architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reseed.report.layout import choice, figure
from reseed.report.markup import Html, tag
from reseed.report.numbers import count


def group_section(
    summary: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], number: int
) -> Html:
    """All figures of an architecture; they are drawn when the section is shown."""
    detector = tables["area"]
    controls = tag(
        "div",
        choice(
            "label", "exists if it is a", detector["label"].unique(maintain_order=True).to_list()
        ),
        choice("stratum", "latents", _live_first(detector["stratum"].unique(maintain_order=True))),
        class_="controls",
    )
    figures = [
        tag(
            "div",
            figure("roc", "ROC of recurrence", _ROC, controls),
            figure("rule", f"Found by at least n of {summary['judges']}", _RULE, controls),
            class_="pair",
        ),
        tag(
            "div",
            figure("recall", "True features found, by how often they fire", _RECALL),
            figure("reliability", "What an interval says, and what held-out runs show", _TRUE),
            class_="pair",
        ),
    ]
    if summary["subspaces"]:
        figures.append(figure("subspaces", "Planted subspaces", _SUBSPACES))
    inside = [tag("h2", summary["label"]), *figures, _alarms(summary)]
    return tag("section", *inside, class_="group", data_group=number, hidden=number > 0)


_ROC = (
    "Each line is a number of runs M (the least, the headline, all), each point a threshold n: all "
    "latents found by at least n of them are called. Up and left is better; the dotted diagonal is "
    "guessing."
)
_RULE = (
    "Precision: of the latents called, how many exist. Recall: of those that exist, how many are "
    "called. The diamond is what calling everything gives. Bands: 95% interval over runs."
)
_RECALL = (
    "Share of the true features that have a latent of their own, in bins of equal size by firing "
    "probability: in any run, in a run on average, in every run."
)
_TRUE = (
    "Latents found by n of M runs: what the interval says of the probability that another run "
    "finds them, and in what share of the runs held out they were. On the diagonal is right."
)
_SUBSPACES = (
    "Each dot is a planted subspace. Agreement: mean squared cosine of the principal angles "
    "between the spans of its latents in two runs, missing dimensions counted as 0; the diamonds "
    "are the 95% quantile of as many random latents."
)


def _alarms(summary: Mapping[str, Any]) -> Html:
    one = summary["found_by_all_but_no_feature"]
    parts = [
        f"Of {count(one['found_by_all'])} live latents found by all {summary['runs']} runs (summed "
        f"over runs) {count(one['no_feature'])} are no feature at cosine {summary['feature']:g}: ",
        f"{count(one['subspace'])} lie in a planted subspace, {count(one['tree'])} in the span of "
        "one tree (a feature merged with its parent or children), "
        f"{count(one['pair'])} are the sum of two features, {count(one['none'])} none of these "
        f"({count(one['near'])} of them within cosine 0.7 of a feature).",
    ]
    return tag("p", *parts, class_="caption")


def _live_first(names: pl.Series) -> list[str]:
    return sorted(map(str, names.to_list()), key=lambda name: (name != "live", name))
