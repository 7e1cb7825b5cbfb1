"""The page of a calibration, one HTML file. Reads the store, computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.report.html import Html, Inside, document, join, table, tag
from reseed.report.numbers import (
    NONE,
    columns,
    count,
    decimals,
    decimals_range,
    percent,
    percent_range,
)
from reseed.report.parts import answer, choices, details, figure, header, notes, pair
from reseed.runs import calibration_name
from reseed.store import Store

_SCRIPTS = ("draw.js", "calibration.js", "page.js")

_TABLES = ("detector", "area", "recall", "reliability", "coverage", "subspaces", "pairwise")

_ENDS = ("", "_lo", "_hi")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    summary: dict[str, Any]
    tables: dict[str, pl.DataFrame]

    @property
    def label(self) -> str:
        return str(self.summary["label"])


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
    groups = [_read(store, group) for group in about["groups"]]
    toy = about["subject"]
    subject = (
        f"{count(toy['features'])} known features in {count(toy['dimensions'])} dimensions, "
        f"{toy['active']:g} active on average; {count(about['training_tokens'])} tokens a run. "
        "The subject is synthetic: the page shows what recurrence can tell where the truth is "
        "known, not what is true of a language model."
    )
    failed = [
        join("Left out because it failed: ", tag("code", run), ".") for run in about["failed"]
    ]
    body = tag(
        "main",
        header(
            "How good is recurrence at telling features that exist?",
            about["study"],
            *_verdict(groups),
            tag("p", subject, class_="caption"),
        ),
        notes(failed),
        tag("section", tag("h2", "Headline"), _detector_table(groups), _truth_table(groups)),
        details("SAE", [g.label for g in groups], [_group_parts(group) for group in groups]),
    )
    data = [_drawn(group) for group in groups]
    page = document(f"calibration of {about['study']} · reseed", body, data, _SCRIPTS)
    store.write(name, page.encode())


def _read(store: Store, summary: dict[str, Any]) -> _Group:
    piece = calibration_name(summary["name"])
    return _Group(
        summary=summary,
        tables={name: store.table(piece, f"{name}.parquet") for name in _TABLES},
    )


# -- the answers ---------------------------------------------------------------------------------


def _verdict(groups: Sequence[_Group]) -> list[Html]:
    if not groups:
        return [answer(None, "No architecture has two finished runs: nothing can be said.")]
    precision, recall = [], []
    for group in groups:
        judged = group.summary["detector"]["feature"]
        of = f" ({group.label})" if len(groups) > 1 else ""
        base = f", where {percent(judged['base'])} of all live latents are. "
        precision += [tag("strong", percent(judged["precision"])), of, base]
        recall += [tag("strong", percent(judged["recall"])), f"{of}. "]
    every = " and ".join(sorted({str(group.summary["judges"]) for group in groups}))
    return [
        answer(
            f"How many of the live latents that all {every} runs find are true features?",
            *precision,
        ),
        answer("How many of the live latents that are true features does this rule find?", *recall),
    ]


def _detector_table(groups: Sequence[_Group]) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for group in groups:
        name: Inside = group.label
        for label, judged in group.summary["detector"].items():
            area = decimals(judged["auc"])
            ends = decimals_range([judged["auc_lo"], judged["auc_hi"]])
            rows.append(
                {
                    "SAE": name,
                    "exists if it is a": label,
                    "AUC": area + ("" if ends == NONE else f" ({ends})"),
                    "precision": _share(judged, "precision"),
                    "recall": _share(judged, "recall"),
                    "false alarms": _share(judged, "false_alarm"),
                    "share that exists": percent(judged["base"]),
                }
            )
            name = None
    caption = "Live latents found by all of M runs (95% interval, leaving out one run at a time)"
    return table(rows, caption=caption, words=("exists if it is a",))


def _truth_table(groups: Sequence[_Group]) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for group in groups:
        summary = group.summary
        recall, pairs, planted = summary["recall"], summary["pairwise"], summary["subspaces"]
        coverage = {rule: percent(row["coverage"]) for rule, row in summary["coverage"].items()}
        rows.append(
            {
                "SAE": group.label,
                "true features in a run": percent(recall["mean"]),
                "in any run": percent(recall["any"]),
                "in all runs": percent(recall["all"]),
                "most the width allows": percent(summary["most_recall"]),
                "false matches": percent(pairs["false_match"]),
                "false non-matches": percent(pairs["false_non_match"]),
                "coverage, posterior": coverage.get("posterior", NONE),
                "coverage, Wilson": coverage.get("Wilson", NONE),
                "planted subspaces stable": f"{planted['stable']} of {planted['planted']}"
                if planted
                else NONE,
            }
        )
    return table(rows, caption="Against the truth")


def _share(judged: Mapping[str, Any], name: str) -> str:
    ends = percent_range([judged[f"{name}_lo"], judged[f"{name}_hi"]])
    return percent(judged[name]) + ("" if ends == NONE else f" ({ends})")


# -- one architecture ----------------------------------------------------------------------------


def _group_parts(group: _Group) -> list[Html | None]:
    summary, area = group.summary, group.tables["area"]
    labels, strata = (area[name].unique(maintain_order=True).to_list() for name in _CHOSEN)
    strata.sort(key=lambda name: (name != "live", name))
    lists = choices(label=("exists if it is a", labels), stratum=("latents", strata))
    subspaces = figure("subspaces", "Planted subspaces", _SUBSPACES)
    judges = summary["judges"]
    return [
        pair(
            figure("roc", "ROC of recurrence", _ROC, lists),
            figure("rule", f"Found by at least n of {judges}", _RULE, lists),
        ),
        pair(
            figure("recall", "True features found, by how often they fire", _RECALL),
            figure("reliability", "What an interval says, and what held-out runs show", _TRUE),
        ),
        subspaces if summary["subspaces"] else None,
        _alarms(summary),
    ]


_CHOSEN = ("label", "stratum")

_ROC = (
    "Each line is for a number of runs M (the least, the headline, all), each point for a "
    "threshold n: a latent counts as a feature if at least n runs find it. Up and left is better; "
    "the dotted diagonal is guessing."
)

_RULE = (
    "Precision: how many of the latents that are found so often exist. Recall: how many of those "
    "that exist are found so often. The diamond is what counting every latent gives. Bands: 95% "
    "interval over runs."
)

_RECALL = (
    "Share of the true features that have a latent of their own, in bins of equal size by firing "
    "probability: in any run, in a run on average, in every run."
)

_TRUE = (
    "Latents found by n of M runs: the probability that another run finds them, as the interval "
    "says, against the share of the held-out runs that did. A point on the diagonal is right."
)

_SUBSPACES = (
    "Each dot is a planted subspace. Agreement is the mean squared cosine of the principal angles "
    "between the spans of its latents in two runs, with missing dimensions counted as 0. Diamonds "
    "are the 95% quantile of as many random latents."
)


def _alarms(summary: Mapping[str, Any]) -> Html:
    alarms = summary["found_by_all_but_no_feature"]
    number = {name: count(value) for name, value in alarms.items()}
    return tag(
        "p",
        f"All {summary['runs']} runs find {number['found_by_all']} live latents (summed over "
        f"runs). {number['no_feature']} of them are no feature at cosine {summary['feature']:g}: "
        f"{number['subspace']} lie in a planted subspace, {number['tree']} in the span of one tree "
        "(a feature merged with its parent or children), "
        f"{number['pair']} are the sum of two features and {number['none']} none of these "
        f"({number['near']} of them within cosine 0.7 of a feature).",
        class_="caption",
    )


def _drawn(group: _Group) -> dict[str, Any]:
    tables, summary = group.tables, group.summary
    measured = [f"{name}{end}" for name in ("recall", "false_alarm", "precision") for end in _ENDS]
    curves = {
        "/".join(map(str, key)): columns(part, "n", "called", *measured)
        for key, part in tables["detector"].group_by([*_CHOSEN, "m"], maintain_order=True)
    }
    areas = {
        "/".join(map(str, key)): columns(part, "m", "auc", "auc_lo", "auc_hi", "base")
        for key, part in tables["area"].group_by(_CHOSEN, maintain_order=True)
    }
    by_rate = tables["recall"].filter(pl.col("stratum").str.starts_with("rate"))
    names = ("rate_lo", "rate_hi", "any", "mean", "mean_lo", "mean_hi", "all")
    subspaces = tables["subspaces"]
    planted = ("rate", "latents", "dimensions", "agreement", "null_hi", "recurrence")
    return {
        "label": summary["label"],
        "runs": summary["runs"],
        "judges": summary["judges"],
        "sizes": tables["area"]["m"].unique(maintain_order=True).to_list(),
        "curves": curves,
        "areas": areas,
        "recall": columns(by_rate, *names),
        "reliability": _reliability(tables["reliability"]),
        "subspaces": columns(subspaces, *planted) | {"verdict": subspaces["verdict"].to_list()},
    }


def _reliability(rows: pl.DataFrame) -> dict[str, Any]:
    if not len(rows):
        return {}
    names = ("n", "latents", "said", "lo", "hi", "held_out", "truth_lo", "truth_hi")
    live = rows.filter(pl.col("stratum") == "live")
    parts = live.group_by(["rule"], maintain_order=True)
    return {str(rule): columns(part, *names) for (rule,), part in parts}
