"""Which groups differ in what: names and levels alone, read without NumPy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

BETWEEN_GROUPS = ("site", "architecture", "latents", "k")
"""What groups can differ in; tokens are of snapshots."""

_RECIPE = ("lr", "dead_after")
"""Keys that all architectures have."""


class Neighbours(NamedTuple):
    """Two groups that differ in one factor."""

    small: str
    large: str
    differ: str
    """`latents` or `k`"""


def across_name(two: Neighbours) -> str:
    """Name of the piece of two groups."""
    return f"across/{two.small}--{two.large}"


def neighbours(levels: Mapping[str, Mapping[str, Any]]) -> list[Neighbours]:
    """All groups that differ in exactly one of width and k."""
    out: list[Neighbours] = []
    for a, b in combinations(levels, 2):
        apart = [name for name in levels[a] if levels[a][name] != levels[b].get(name)]
        if apart in (["latents"], ["k"]):
            small, large = sorted((a, b), key=lambda group: levels[group][apart[0]])
            out.append(Neighbours(small, large, apart[0]))
    return out


def factors_of(about: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What groups can differ in: without k where some architecture has none."""
    has_k = all(sae.get("k") is not None for sae in about.values())
    return BETWEEN_GROUPS if has_k else BETWEEN_GROUPS[:-1]


def levels_of(about: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Group to the level of each factor.

    Where some architecture has no k, the architecture is named with the settings in which groups
    of it differ, and is one factor with them: a k and a penalty have no common scale.
    """
    factors = factors_of(about)
    if "k" in factors:
        return {name: {f: sae[f] for f in factors} for name, sae in about.items()}
    known = {*BETWEEN_GROUPS[:-1], *_RECIPE}
    alike = defaultdict[str, dict[str, Mapping[str, Any]]](dict)
    for name, sae in about.items():
        alike[sae["architecture"]][name] = sae
    apart = {architecture: apart_in(saes, known) for architecture, saes in alike.items()}
    return {
        name: {f: sae[f] for f in factors}
        | {"architecture": " ".join([kind := sae["architecture"], *_named(sae, apart[kind])])}
        for name, sae in about.items()
    }


def apart_in(about: Mapping[str, Mapping[str, Any]], known: set[str]) -> list[str]:
    """Other settings in which groups differ."""
    keys = sorted({key for sae in about.values() for key in sae} - known)
    return [key for key in keys if len({str(sae.get(key)) for sae in about.values()}) > 1]


def _named(sae: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{key} {sae[key]}" for key in keys if sae.get(key) is not None]
