"""The page of a calibration, one HTML file. Reads the store, computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.report.figures import columns, split
from reseed.report.html import (
    Html,
    Inside,
    beside,
    count,
    decimals,
    document,
    percent,
    table,
    tag,
    text,
)
from reseed.report.parts import answer, choices, details, figure, header, note, notes, pair
from reseed.runs import calibration_name
from reseed.store import Store

_SCRIPTS = ("draw.js", "calibration.js", "page.js")

_TABLES = ("detector", "area", "recall", "reliability", "coverage", "subspaces", "pairwise")

PIECE = "calibration/instrument"

WORLDS = ("by_count", "by_distribution", "by_crowding")

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
    """
    about = store.read_json(summary)
    groups = [_read(store, group) for group in about["groups"]]
    toy = about["subject"]
    subject = text(
        "toy",
        features=count(toy["features"]),
        dimensions=count(toy["dimensions"]),
        active=f"{toy['active']:g}",
        tokens=count(about["training_tokens"]),
    )
    failed = [text("failed", run=tag("code", run), reason=None) for run in about["failed"]]
    body = tag(
        "main",
        header(
            "How good is recurrence at telling features that exist?",
            about["study"],
            *_verdict(groups),
            note(subject),
        ),
        notes(failed),
        tag("section", tag("h2", "Headline"), _detector_table(groups), _truth_table(groups)),
        details("SAE", [g.label for g in groups], [_group_parts(group) for group in groups]),
        _instrument(store) if groups else None,
    )
    data = [_drawn(group) for group in groups]
    if groups and store.has(PIECE):
        data[0]["instrument"] = _worlds(store)
    page = document(f"calibration of {about['study']} · reseed", body, data, _SCRIPTS)
    store.write(name, page.encode())


def _read(store: Store, summary: dict[str, Any]) -> _Group:
    piece = calibration_name(summary["name"])
    tables = {name: store.table(piece, f"{name}.parquet") for name in _TABLES}
    return _Group(summary=summary, tables=tables)


# -- the answers ---------------------------------------------------------------------------------


def _verdict(groups: Sequence[_Group]) -> list[Html]:
    if not groups:
        return [answer(None, text("nothing-judged"))]
    precision, recall = [], []
    for group in groups:
        judged = group.summary["detector"]["feature"]
        of = f" ({group.label})" if len(groups) > 1 else None
        share, base = tag("strong", percent(judged["precision"])), percent(judged["base"])
        precision += [text("precision", share=share, of=of, base=base), " "]
        recall += [tag("strong", percent(judged["recall"])), of, ". "]
    every = " and ".join(sorted({str(group.summary["judges"]) for group in groups}))
    return [
        answer(text("precision-question", judges=every), *precision),
        answer(text("recall-question"), *recall),
    ]


def _detector_table(groups: Sequence[_Group]) -> Html | None:
    rows: list[dict[str, Inside]] = []
    for group in groups:
        name: Inside = group.label
        for label, judged in group.summary["detector"].items():
            rows.append(
                {
                    "SAE": name,
                    "exists if it is a": label,
                    "AUC": _share(judged, "auc", decimals),
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
                "coverage, posterior": coverage.get("posterior"),
                "coverage, Wilson": coverage.get("Wilson"),
                "planted subspaces stable": planted and "{stable} of {planted}".format(**planted),
            }
        )
    return table(rows, caption="Against the truth")


def _share(
    judged: Mapping[str, Any], name: str, number: Callable[[float | None], str] = percent
) -> str:
    return beside(judged[name], (judged[f"{name}_lo"], judged[f"{name}_hi"]), number)


# -- one architecture ----------------------------------------------------------------------------


def _group_parts(group: _Group) -> list[Html | None]:
    summary, area = group.summary, group.tables["area"]
    labels, strata = (area[name].unique(maintain_order=True).to_list() for name in _CHOSEN)
    strata.sort(key=lambda name: (name != "live", name))
    lists = choices(label=("exists if it is a", labels), stratum=("latents", strata))
    return [
        pair(figure("roc", lists), figure("rule", lists, judges=str(summary["judges"]))),
        pair(figure("recall"), figure("reliability")),
        figure("subspaces") if summary["subspaces"] else None,
        _alarms(summary),
    ]


_CHOSEN = ("label", "stratum")


def _alarms(summary: Mapping[str, Any]) -> Html:
    numbers = {name: count(n) for name, n in summary["found_by_all_but_no_feature"].items()}
    runs, feature = str(summary["runs"]), f"{summary['feature']:g}"
    return note(text("alarms", runs=runs, feature=feature, **numbers))


# -- the instrument itself -----------------------------------------------------------------------


def _instrument(store: Store) -> Html | None:
    """What it does in worlds whose truth is known, whatever was trained; None if not measured."""
    if not store.has(PIECE):
        return None
    return tag(
        "section",
        tag("h2", "The instrument itself"),
        note(text("instrument")),
        pair(figure("by-count"), figure("by-distribution")),
        figure("by-crowding"),
    )


def _worlds(store: Store) -> dict[str, Any]:
    counts, null, crowds = (store.table(PIECE, f"{name}.parquet") for name in WORLDS)
    names = null.select(pl.format("{} ({})", "distribution", "encoder"))["distribution"]
    widths = null.select(pl.format("{} and {}", "width_a", "width_b"))["width_a"]
    known = columns(null, "fdr", "nominal", "power")
    return {
        "counts": split(counts, ["population", "runs"], "n", "share", "coverage", "said", "true"),
        "rows": known | {"name": names.to_list(), "widths": widths.to_list()},
        "crowds": split(crowds, ["noise", "runs"], "crowd", "recall", "precision"),
    }


def calibration_data(store: Store, summary: dict[str, Any]) -> dict[str, Any]:
    """What the figures of one of the summary's groups are drawn from."""
    return _drawn(_read(store, summary))


def _drawn(group: _Group) -> dict[str, Any]:
    tables, summary = group.tables, group.summary
    measured = [f"{name}{end}" for name in ("recall", "false_alarm", "precision") for end in _ENDS]
    by_rate = tables["recall"].filter(pl.col("stratum").str.starts_with("rate"))
    names = ("rate_lo", "rate_hi", "any", "mean", "mean_lo", "mean_hi", "all")
    subspaces, live = tables["subspaces"], tables["reliability"].filter(stratum="live")
    rules = ("n", "latents", "said", "lo", "hi", "held_out", "truth_lo", "truth_hi")
    planted = ("rate", "latents", "dimensions", "agreement", "null_hi", "recurrence")
    return {
        "label": summary["label"],
        "runs": summary["runs"],
        "judges": summary["judges"],
        "sizes": tables["area"]["m"].unique(maintain_order=True).to_list(),
        "curves": split(tables["detector"], [*_CHOSEN, "m"], "n", "called", *measured),
        "areas": split(tables["area"], _CHOSEN, "m", "auc", "auc_lo", "auc_hi", "base"),
        "recall": columns(by_rate, *names),
        "reliability": split(live, ["rule"], *rules),
        "subspaces": columns(subspaces, *planted) | {"verdict": subspaces["verdict"].to_list()},
    }
