"""Shares by firing rate, curves over runs, and where disagreement comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from reseed.report.html import Html, Inside, figure, join, pair, table, tag
from reseed.report.numbers import NONE, cosine, count, percent, percent_range, rate, short
from reseed.report.study.reading import GroupFacts

_RATES = ("stratum", "latents", "shared", "shared_lo", "shared_hi", "found", "found_lo",
          "found_hi", "untrained")  # fmt: skip

_COUNTS = ("n_matched", "latents", "recurrence_mean", "recurrence_lo", "recurrence_hi")

_PARTS = {
    "feature": "found whatever the seeds",
    "init": "goes with the init seed",
    "data": "goes with the data seed",
    "both": "goes with neither alone",
}


def data(summary: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """What the figures of this file are drawn from."""
    return {
        "strata": _strata(summary, tables["strata"]),
        "reproducibility": _reproducibility(tables["reproducibility"]),
        "only_in_one": _only_in_one(summary, tables["only_in_one"]),
        "accumulation": _columns(tables["accumulation"], "m", "features")
        | {name: summary["unseen"][name] for name in ("chao2", "ice")},
        "components": _components(summary),
    }


def _columns(found: pl.DataFrame, *names: str) -> dict[str, list[Any]]:
    return {name: short(found[name].to_list()) for name in names}


def _strata(summary: Mapping[str, Any], found: pl.DataFrame) -> dict[str, Any]:
    null = summary["headline"]["shared"].get("live", {}).get("null_covariance")
    rows = found.drop_nulls("shared")
    numbers = _columns(rows, *(name for name in _RATES if name != "stratum"))
    return numbers | {
        "name": [_stratum(row) for row in rows.iter_rows(named=True)],
        "null": null and short([null["mean"]])[0],
    }


def _stratum(row: Mapping[str, Any]) -> str:
    name = str(row["stratum"])
    return _bin(row) if name.startswith("rate") else name


def _bin(row: Mapping[str, Any]) -> str:
    if row["rate_hi"] == 0:
        return "dead"
    low, high = rate(row["rate_lo"]), rate(row["rate_hi"])
    return high if low == high else f"{low.removesuffix('%')}–{high}"


def _reproducibility(found: pl.DataFrame) -> dict[str, Any]:
    """By bin of firing rate, for the number of other runs that most latents have."""
    most = found.filter(pl.col("n_seeds") == pl.col("n_seeds").max())
    parts = most.drop_nulls("recurrence_mean").partition_by("rate_bin", maintain_order=True)
    bins = [{"name": _bin(p.row(0, named=True)), **_columns(p, *_COUNTS)} for p in parts]
    return {"trials": int(most["n_seeds"][0]) - 1 if len(most) else 0, "bins": bins}


def _only_in_one(summary: Mapping[str, Any], found: pl.DataFrame) -> dict[str, Any]:
    return {
        str(stratum): _columns(rows, "m", "share", "lo", "hi", "fitted")
        | {"c": short([summary["only_in_one"][stratum]["c"]])[0]}
        for (stratum,), rows in found.group_by(["stratum"], maintain_order=True)
    }


def _components(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    found = summary.get("components")
    if found is None:
        return None
    parts = [found["parts"][name] for name in _PARTS]
    ends = [one["interval_95"] or [None, None] for one in parts]
    return {
        "name": list(_PARTS.values()),
        "value": short(one["value"] for one in parts),
        "lo": short(one[0] for one in ends),
        "hi": short(one[1] for one in ends),
    }


def of_independent(group: GroupFacts) -> str:
    """How runs are counted where some share a seed; empty if all pairs count."""
    found = group.summary["independent"]
    if found["pairs"] == group.summary["counts"]["pairs"]:
        return ""
    return f"; only runs that {found['they']} count"


def by_rate(group: GroupFacts) -> Html:
    """Shares and reproducibility by firing rate."""
    shares = (
        "Share with the same partner at tau, and share with a match at a false discovery rate of "
        "5%, for all, live, dead and dense latents and for fifths of the live ones by firing rate; "
        "what some run lacks is left out. Bars with whiskers: 95% interval over runs; dashed: "
        "chance at tau among live latents. "
        "Condition every claim on firing rate: what comes back most can be what fires most."
    )
    counts = (
        "How probable it is that an independent run finds a latent, given in how many it was found "
        "and how often it fires: mean and 95% interval of the posterior; larger dots stand for "
        "more latents. Wide intervals mean that so few runs say little about one latent."
    )
    return join(
        figure("strata", "Shares by firing rate", shares),
        pair(
            figure(
                "recurrence",
                "Reproducibility of the latents",
                "Latents of all runs by how probable it is that an independent run finds them "
                "(posterior mean), stacked by firing rate.",
            ),
            figure("posterior", "What a count says about a latent", counts),
        ),
    )


def unseen(group: GroupFacts) -> Html:
    """Only in one run, and how many features there are to find."""
    caption = join(
        "Share of a run's latents that no other of M - 1 runs has, over all choices of runs"
        f"{of_independent(group)}. ",
        _law(group.summary["only_in_one"]["all"]),
    )
    return pair(
        figure("only-in-one", "Found in one run only", caption),
        figure("accumulation", "Features found by more runs", _estimates(group)),
    )


def _law(law: Mapping[str, Any]) -> Html:
    if law["c"] is None:
        return join("Too few runs, or too even a fall, for a fit of the offset power law.")
    power = tag("sup", f"{law['b']:.3g}")
    words = join(f"Dashed: {law['a']:.3g} M", power, f" + {law['c']:.3g} (all latents); ")
    if law["c_interval_95"] is None:
        return join(words, "the offset has no interval with so few independent runs.")
    low, high = law["c_interval_95"]
    return join(words, f"95% interval of the offset {low:.3g} to {high:.3g}.")


def _estimates(group: GroupFacts) -> Html:
    found = group.summary["unseen"]
    words = (
        f"Families and live orphans: {count(found['observed'])} in {found['runs']} runs, "
        f"{count(found['once'])} of them found once, {count(found['twice'])} twice. The dashed "
        f"line (Chao2, {count(found['chao2'])}) is a lower bound on what there is to find, not the "
        f"number of features; ICE gives {count(found['ice'])}. "
    )
    if not found["warnings"]:
        return join(words)
    items = " ".join(warning[:1].upper() + warning[1:] for warning in found["warnings"])
    return join(words, tag("b", "Do not lean on it. "), items)


def origins(group: GroupFacts) -> Html | None:
    """Variance components; None unless both seeds vary."""
    found = group.summary.get("components")
    if found is None:
        return None
    caption = (
        "Of the live latents that one run finds: the part that is found whatever the seeds, "
        "what sharing the init seed adds, what sharing the data seed adds, and the rest; they add "
        "to 100%. Below 0: sharing that seed did not help. Runs of one init seed start from equal "
        "weights: where their untrained pair is 100% and their matches join latents of the same "
        "number, agreement can be what both started with."
    )
    return join(
        figure("components", "Where disagreement comes from", caption),
        _classes(found["classes"], group.summary["distance_from_init"]),
    )


def _classes(classes: Mapping[str, Any], init: Mapping[str, Any]) -> Html:
    rows = [_class_row(kind, one) for kind, one in classes.items()]
    head: list[Inside] = [
        "two runs that", "pairs", "shared", "95% interval", "mean cosine", "untrained pair",
        "partner of the same number",
    ]  # fmt: skip
    moved = (
        "Mean cosine of a live latent's decoder row to where it started: "
        f"{cosine(init['mean'])} ({cosine(init['lo'])} to {cosine(init['hi'])} over runs)."
    )
    return join(
        table(
            head, rows, caption="Agreement by what two runs share, live latents", class_="numbers"
        ),
        tag("p", moved, class_="caption") if init["mean"] is not None else None,
    )


def _class_row(kind: str, one: Mapping[str, Any]) -> list[Html]:
    mean = one["pw_mcc"]["value"]
    cells = [
        count(one["pairs"]),
        percent(one["shared"]["value"]),
        percent_range(one["shared"]["interval_95"]),
        NONE if mean is None else cosine(mean),
        percent(one["untrained"]["value"]),
        percent(one["same_number"]["value"]),
    ]
    return [tag("th", kind, scope="row"), *(tag("td", cell) for cell in cells)]
