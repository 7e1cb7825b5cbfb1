"""Which architecture's features come back: at one L0, by several measures, and at one FVU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

import reseed
from benchmarks.paper.claims import (
    ENDS_APART,
    Claim,
    Number,
    Row,
    Told,
    direction,
    groups_of,
    percent,
    told,
)
from benchmarks.paper.equal_fvu import between

L0 = 8
"""At which all of them are held beside each other."""

RISING = ("topk", "relu", "gated")
"""As the paper orders them."""

MEASURES = {
    "shared": "both assignments",
    "decoder_only": "decoder alone, the paper's",
    "match_at_fdr": "match at a false discovery rate of 5 %",
    "pw_mcc": "mean matched cosine (100 % is 1), that of arXiv 2505.20254",
}


def at_one_l0(study: reseed.Study) -> Claim:
    """Gated, then ReLU, then TopK (contested by arXiv 2505.20254), by each measure and length."""
    at = {group.made.sae.name: group for group in groups_of(study) if _goal(group) == L0}
    orders = [
        Row(
            what=f"order by {words}: TopK, ReLU, Gated",
            ours=f"{', '.join(map(told, numbers))}: {direction(numbers, 1)}",
            null=f"random rows {', '.join(_null(number) for number in numbers)}",
        )
        for name, words in MEASURES.items()
        for numbers in [[at[one].said["headline"][name]["all"] for one in RISING]]
    ]
    return Claim(
        title="Gated above ReLU above TopK at the same L0",
        study=study.folder.name,
        verdict=direction((at[name].shared for name in RISING), 1),
        rows=[
            Row(what="the paper, decoder alone", paper="Gated 85.6, ReLU 82.4, TopK 74.2 %"),
            *(group.row for group in at.values()),
            *orders,
            *_by_length(study, at),
        ],
        how=ENDS_APART + " Not at equal FVU, which is the next claim.",
        why="ReLU is above TopK by every measure, from the first snapshot on. Gated comes late: "
        "its share multiplies from one snapshot to the next while TopK's slows, so its place is a "
        "matter of length and not of the measure. The rates are one recipe's.",
    )


def _by_length(study: reseed.Study, at: Mapping[str, Told]) -> Iterable[Row]:
    """Shares at the snapshots."""
    trends = [
        study.store.table(f"stability/{at[name].group.name}", "trend.parquet")
        .filter(pl.col("measure") == "shared", pl.col("tokens") > 0)
        .sort("tokens")
        for name in RISING
    ]
    for row in range(len(trends[0])):
        values = ", ".join(percent(trend["value"][row]) for trend in trends)
        yield Row(
            what=f"after {trends[0]['tokens'][row] / 1e6:.2f} M tokens: TopK, ReLU, Gated",
            ours=values,
        )


def at_one_fvu(study: reseed.Study) -> Claim:
    """The same where they reconstruct equally well, by a line between runs of several L0."""
    curves = {name: _curve(study, name) for name in RISING}
    target = max(float(curve["fvu"].min()) for curve in curves.values())  # pyright: ignore
    numbers = {name: between(curve, target) for name, curve in curves.items()}
    return Claim(
        title="Gated above ReLU above TopK where reconstruction is equal",
        study=study.folder.name,
        verdict=direction(numbers.values(), 1),
        rows=[
            Row(what="the paper", paper="not reported"),
            *(
                Row(
                    what=f"{name} at FVU {target:.3f}",
                    ours=("its sparsest reconstructs better: " if beyond else "") + told(number),
                    share=number,
                )
                for name, number in numbers.items()
                for beyond in [float(curves[name]["fvu"].max()) < target]  # pyright: ignore
            ),
            *(
                Row(what=f"{name}, L0 {row['l0']:.1f}: FVU {row['fvu']:.3f}", ours=told(row))
                for name, curve in curves.items()
                for row in curve.iter_rows(named=True)
            ),
        ],
        how="A straight line between finished runs of different L0 on either side of the FVU that "
        "all of them reach.",
    )


def _curve(study: reseed.Study, name: str) -> pl.DataFrame:
    """FVU, L0 and share of an architecture's groups, the sparsest first."""
    rows: list[dict[str, Any]] = []
    for group in groups_of(study):
        if group.made.sae.name == name:
            means = {key: group.said["reconstruction"][key]["mean"] for key in ("fvu", "l0")}
            rows.append({**means, **_ends(group.shared)})
    return pl.DataFrame(rows).sort("l0")


def _ends(share: Number) -> dict[str, Any]:
    low, high = share["interval_95"] or (None, None)
    return {"value": share["value"], "lo": low, "hi": high, "interval_95": share["interval_95"]}


def _null(number: Number) -> str:
    null = number["null_covariance"]
    return percent(null and null["mean"])


def _goal(group: Told) -> float:
    """Latents that are to fire at a time."""
    sae = group.made.sae
    return getattr(sae, "k", None) or getattr(sae, "target_l0", None) or 0
