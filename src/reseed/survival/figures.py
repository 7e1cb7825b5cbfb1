"""What the figures of the page of survival are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from reseed.report.figures import short, split

AXES = {
    "share": "share taken out",
    "perplexity": "perplexity",
    "distance": "distance at the site",
}
"""What survival is drawn against; key in the data to words."""

SHOWN = {"survival": "share that survives", "mean_r": "mean r"}
"""What is drawn of the latents of a variant."""

AREAS = {
    "auroc_of_r": "r, of found above orphans",
    "auroc": "found, of survivors above lost",
}
"""The two areas inside strata, in words."""

_NULLS = ("null_shuffled", "untrained")


def place_of(variant: Mapping[str, Any], label: str, axis: str) -> float | None:
    """Where a variant stands on one of `AXES`; None where it has no such number."""
    if axis == "distance":
        return variant["groups"][label]["distance"]
    if axis == "perplexity":
        entropy = variant["cross_entropy"]
        return entropy and entropy["perplexity"]
    return variant["share_removed"]


def drawn(
    variants: Sequence[Mapping[str, Any]], label: str, curves: pl.DataFrame
) -> dict[str, Any]:
    """The data of all figures of a group; columns have an entry for each variant."""
    numbers = [variant["groups"][label] for variant in variants]
    kinds = {
        kind: _bars([n["kinds"].get(kind) for n in numbers])
        for kind in ("reproducible", "partly", "orphan")
    }
    nulls = {name: _bars([n[name] for n in numbers]) for name in _NULLS}
    return {
        "label": label,
        "variant": [variant["variant"] for variant in variants],
        "method": [variant["method"] for variant in variants],
        "axes": {
            words: short(place_of(variant, label, key) for variant in variants)
            for key, words in AXES.items()
        },
        "shown": {words: _bars([n[key] for n in numbers]) for key, words in SHOWN.items()},
        "nulls": nulls,
        "kinds": kinds,
        "areas": {
            words: _bars([n[key] for n in numbers])
            | {
                f"null_{end}": short((n[key] or {}).get("null", {}).get(end) for n in numbers)
                for end in ("lo", "hi")
            }
            for key, words in AREAS.items()
        },
        "curves": split(curves, ["variant", "of"], "r", "share", "lo", "hi"),
    }


def _bars(numbers: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    ends = [(n and n["interval_95"]) or (None, None) for n in numbers]
    return {
        "value": short(n and n["value"] for n in numbers),
        "lo": short(low for low, _ in ends),
        "hi": short(high for _, high in ends),
    }
