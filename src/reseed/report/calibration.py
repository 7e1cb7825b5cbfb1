"""The page of a calibration, one HTML file. Reads the store, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.report.html import Html, Inside, choice, chooser, document, figure, table, tag
from reseed.report.numbers import NONE, count, percent, percent_range, short
from reseed.store import Store


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


_SCRIPTS = ("draw.js", "calibration.js", "page.js")

_TABLES = ("detector", "area", "recall", "reliability", "coverage", "subspaces", "pairwise")

_ENDS = ("", "_lo", "_hi")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    summary: dict[str, Any]
    tables: dict[str, pl.DataFrame]


def write_calibration(store: Store, summary: str, name: str) -> None:
    """Write the page of a calibration; equal stores give equal bytes.

    Args:
        store: of the study.
        summary: the JSON file with the headline numbers.
        name: of the file to write.

    Raises:
        StoreError: if a piece is missing or damaged, or the disk is full.
    """
    about = store.read_json(summary)
    groups = [_read(store, one) for one in about["groups"]]
    data = [_drawn(group) for group in groups]
    page = document(
        f"calibration of {about['study']} · reseed", _body(about, groups), data, _SCRIPTS
    )
    store.write_bytes(name, page.encode())


def _read(store: Store, summary: dict[str, Any]) -> _Group:
    piece = f"calibration/{summary['name']}"
    return _Group(
        summary=summary,
        tables={name: store.table(piece, f"{name}.parquet") for name in _TABLES},
    )


def _drawn(group: _Group) -> dict[str, Any]:
    tables, summary = group.tables, group.summary
    measured = [f"{name}{end}" for name in ("recall", "false_alarm", "precision") for end in _ENDS]
    curves = {
        "/".join(map(str, key)): _columns(part, "n", "called", *measured)
        for key, part in tables["detector"].group_by(["label", "stratum", "m"], maintain_order=True)
    }
    areas = {
        "/".join(map(str, key)): _columns(part, "m", "auc", "auc_lo", "auc_hi", "base")
        for key, part in tables["area"].group_by(["label", "stratum"], maintain_order=True)
    }
    by_rate = tables["recall"].filter(pl.col("stratum").str.starts_with("rate"))
    names = ("rate_lo", "rate_hi", "any", "mean", "mean_lo", "mean_hi", "all")
    return {
        "label": summary["label"],
        "runs": summary["runs"],
        "judges": summary["judges"],
        "sizes": tables["area"]["m"].unique(maintain_order=True).to_list(),
        "curves": curves,
        "areas": areas,
        "recall": _columns(by_rate, *names),
        "reliability": _reliability(tables["reliability"]),
        "subspaces": _columns(
            tables["subspaces"],
            "rate",
            "latents",
            "dimensions",
            "agreement",
            "null_hi",
            "recurrence",
        )
        | {"verdict": tables["subspaces"]["verdict"].to_list()},
    }


def _columns(table_: pl.DataFrame, *names: str) -> dict[str, list[Any]]:
    return {name: short(table_[name].to_list()) for name in names}


def _reliability(table_: pl.DataFrame) -> dict[str, Any]:
    if not len(table_):
        return {}
    names = ("n", "latents", "said", "lo", "hi", "held_out", "truth_lo", "truth_hi")
    live = table_.filter(pl.col("stratum") == "live")
    parts = live.group_by(["rule"], maintain_order=True)
    return {str(rule): _columns(part, *names) for (rule,), part in parts}


def _body(about: dict[str, Any], groups: Sequence[_Group]) -> Html:
    toy = about["subject"]
    top = tag(
        "header",
        tag("p", "How good is recurrence at telling features that exist?", class_="kicker"),
        tag("h1", about["study"]),
        tag("p", *_verdict(groups), class_="verdict"),
    )
    said = (
        f"{count(toy['features'])} known features in {count(toy['dimensions'])} dimensions, "
        f"{toy['active']:g} active on average; {count(about['training_tokens'])} tokens a run. "
        "A synthetic subject: it says what the instrument can do where the truth is known, not "
        "what is true of a language model."
    )
    sections = [
        group_section(group.summary, group.tables, number) for number, group in enumerate(groups)
    ]
    return tag(
        "main",
        top,
        tag("p", said, class_="caption"),
        _failed(about),
        tag("section", tag("h2", "Headline"), _detector_table(groups), _truth_table(groups)),
        tag("div", chooser([g.summary["label"] for g in groups], "SAE"), *sections, id="details"),
    )


def _failed(about: dict[str, Any]) -> Html | None:
    if not about["failed"]:
        return None
    items = (tag("li", "Left out because it failed: ", tag("code", run)) for run in about["failed"])
    return tag("section", tag("ul", *items), class_="warning")


def _verdict(groups: Sequence[_Group]) -> list[Inside]:
    if not groups:
        return ["No architecture has two finished runs: nothing can be said."]
    parts: list[Inside] = []
    for group in groups:
        summary = group.summary
        one = summary["detector"]["feature"]
        parts += [
            tag("strong", percent(one["precision"])),
            f" of the live latents found by all {summary['judges']} runs are true features "
            f"({summary['label']}; {percent(one['base'])} of all live ones are); the rule finds ",
            tag("strong", percent(one["recall"])),
            " of the latents that are one. ",
        ]
    return parts


def _detector_table(groups: Sequence[_Group]) -> Html:
    rows: list[list[Html]] = []
    for group in groups:
        summary = group.summary
        for label, one in summary["detector"].items():
            cells = [
                tag("td", label, class_="word"),
                tag("td", _number(one["auc"], one["auc_lo"], one["auc_hi"])),
                *(tag("td", _share(one, name)) for name in ("precision", "recall", "false_alarm")),
                tag("td", percent(one["base"])),
            ]
            rows.append([tag("th", summary["label"], scope="row"), *cells])
    head: list[Inside] = [
        "SAE",
        "exists if it is a",
        "AUC",
        "precision",
        "recall",
        "false alarms",
        "base",
    ]
    caption = "Found by all of M runs, live latents (95% interval, leaving out runs)"
    return table(head, rows, caption=caption, class_="numbers")


def _truth_table(groups: Sequence[_Group]) -> Html:
    rows: list[list[Html]] = []
    for group in groups:
        one = group.summary
        recall, pairs, subspaces = one["recall"], one["pairwise"], one["subspaces"]
        covered = one["coverage"].get("posterior")
        wilson = one["coverage"].get("Wilson")
        cells = [
            percent(recall["mean"]),
            percent(recall["any"]),
            percent(recall["all"]),
            percent(one["most_recall"]),
            percent(pairs["false_match"]),
            percent(pairs["false_non_match"]),
            percent(covered["coverage"]) if covered else NONE,
            percent(wilson["coverage"]) if wilson else NONE,
            f"{subspaces['stable']} of {subspaces['planted']}" if subspaces else NONE,
        ]
        rows.append([tag("th", one["label"], scope="row"), *(tag("td", cell) for cell in cells)])
    head: list[Inside] = [
        "SAE", "true features in a run", "in any run", "in all runs", "most the width allows",
        "false matches", "false non-matches", "coverage, posterior", "coverage, Wilson",
        "planted subspaces stable",
    ]  # fmt: skip
    return table(head, rows, caption="Against the truth", class_="numbers")


def _share(one: dict[str, Any], name: str) -> str:
    ends = percent_range([one[f"{name}_lo"], one[f"{name}_hi"]])
    return percent(one[name]) + ("" if ends == NONE else f" ({ends})")


def _number(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" + ("" if low is None or high is None else f" ({low:.3f}–{high:.3f})")
