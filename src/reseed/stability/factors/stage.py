"""The door of comparing groups: one piece for the study, `stability/factors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from reseed.events import Events
from reseed.matching import measures
from reseed.runs import FACTORS, Group, stability_name
from reseed.seeds import digest
from reseed.spec.analysis import MatchingSpec
from reseed.stability.factors.across import (
    Neighbours,
    across_name,
    match_across,
    neighbours,
    seed_name,
    summarise,
)
from reseed.stability.factors.effects import Cell, decompose, numbers
from reseed.stability.factors.words import words
from reseed.stability.fdr import FOUND, LIVE
from reseed.stability.intervals import Design
from reseed.stability.nulls.names import chance_corrected
from reseed.store import Store, json_bytes, parquet_bytes

VERSION = 1
"""Of what it means."""

CORRECTED = "chance_corrected"

MEASURES = (measures.SHARED.id, CORRECTED, LIVE, FOUND, measures.PW_MCC.id)
"""What is decomposed: shares at tau on all latents (as it is and chance-corrected) and on live
ones, the share with a match at FDR 5 %, the mean matched cosine."""

_FACTORS = ("site", "architecture", "latents", "k")

_RECIPE = ("lr", "dead_after")
"""Keys that all architectures have."""

_END_ONLY = (CORRECTED, LIVE, FOUND)


def compare_groups(
    groups: Sequence[Group], matching: MatchingSpec, store: Store, events: Events
) -> dict[str, Any] | None:
    """Decompose agreement over groups, and match runs across them; makes what is missing.

    Args:
        groups: of the study, without controls; those with one run count for nothing.
        matching: the threshold.
        store: of the study, in which each group was assessed.
        events: progress.

    Returns:
        What was found, as in `factors` of `summary.json`; None with fewer than two groups.
    """
    groups = [group for group in groups if len(group.runs) > 1]
    if len(groups) < 2:
        return None
    by_name = {group.name: group for group in groups}
    about = {name: _about(group, store) for name, group in by_name.items()}
    levels = levels_of(about)
    designs = {group.name: design_of(group, store) for group in groups}
    near = neighbours(levels)
    for two in near:
        match_across(two, by_name, designs, matching, store, events)
    inputs = [store.checksum(stability_name(name)) for name in by_name]
    inputs += [store.checksum(across_name(two)) for two in near]
    made_from = digest([inputs, VERSION])
    if store.has(FACTORS, made_from):
        return store.document(FACTORS, "summary.json")
    cells = {
        measure: [
            cell
            for group in groups
            for cell in _cells(group, measure, levels[group.name], designs[group.name], store)
        ]
        for measure in MEASURES
    }
    summary = _summary(groups, about, cells, designs, near, matching, store)
    with store.piece(FACTORS, made_from) as folder:
        (folder / "cells.parquet").write_bytes(parquet_bytes(_table(cells, designs)))
        (folder / "summary.json").write_bytes(json_bytes(summary))
    return summary


def design_of(group: Group, store: Store) -> Design:
    """Seeds of the runs of a group."""
    specs = {run: store.document(f"runs/{run}", "spec.json") for run in group.runs}
    return {run: (int(spec["init_seed"]), int(spec["data_seed"])) for run, spec in specs.items()}


def _about(group: Group, store: Store) -> dict[str, Any]:
    """All that the spec of a group's runs says about the SAE, and the site."""
    spec = store.document(f"runs/{group.runs[0]}", "spec.json")
    return {"site": spec["site"], **spec["sae"]}


def factors_of(about: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What groups can differ in: without k where some architecture has none."""
    return _FACTORS if all(one.get("k") is not None for one in about.values()) else _FACTORS[:-1]


def levels_of(about: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Group to the level of each factor.

    Where some architecture has no k, the architecture is named with all settings in which groups
    differ, and is one factor with them: a k and a penalty have no common scale.
    """
    factors = factors_of(about)
    if "k" in factors:
        return {name: {f: one[f] for f in factors} for name, one in about.items()}
    keys = sorted({key for one in about.values() for key in one} - {*_FACTORS[:-1], *_RECIPE})
    apart = [key for key in keys if len({str(one.get(key)) for one in about.values()}) > 1]
    return {
        name: {f: one[f] for f in factors}
        | {"architecture": " ".join([one["architecture"], *_named(one, apart)])}
        for name, one in about.items()
    }


def _named(one: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [f"{key} {one[key]}" for key in keys if one.get(key) is not None]


def _cells(
    group: Group,
    measure: str,
    levels: Mapping[str, Any],
    seeds: Design,
    store: Store,
) -> list[Cell]:
    """The snapshots of a group after its start, or its end for what is known only there."""
    name = stability_name(group.name)
    source = measures.SHARED.id if measure == CORRECTED else measure
    table = store.table(name, "pairs.parquet").filter(pl.col("tokens") > 0, measure=source)
    null = store.document(name, "summary.json")["headline"]["shared"]["all"]["null_covariance"]
    out: list[Cell] = []
    for (tokens,), rows in table.group_by(["tokens"], maintain_order=True):
        if measure in _END_ONLY and tokens != group.steps[-1] * group.batch:
            continue
        values = rows["value"].to_numpy()
        if measure == CORRECTED:
            chance = np.nan if null is None else null["mean"]
            values = np.array([chance_corrected(value, chance) for value in values])
        pairs = [
            (seed_name(seeds[a]), seed_name(seeds[b]))
            for a, b in rows.select("run_a", "run_b").iter_rows()
        ]
        at = {**levels, "tokens": int(str(tokens))}
        out.append(Cell(group=group.name, levels=at, pairs=pairs, values=values))
    return out


def _summary(
    groups: Sequence[Group],
    about: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Sequence[Cell]],
    designs: Mapping[str, Design],
    near: Sequence[Neighbours],
    matching: MatchingSpec,
    store: Store,
) -> dict[str, Any]:
    design = _seeds(designs)
    last = groups[0].steps[-1] * groups[0].batch
    found: dict[str, Any] = {}
    for measure in MEASURES:
        factors = [*factors_of(about), *([] if measure in _END_ONLY else ["tokens"])]
        one = decompose(cells[measure], factors, last, design)
        if one is not None:
            found[measure] = one
    keys = sorted({key for one in about.values() for key in one} - set(_FACTORS))
    apart = [key for key in keys if len({str(one.get(key)) for one in about.values()}) > 1]
    told = levels_of(about)
    out: dict[str, Any] = {
        "tau": matching.tau,
        "groups": [
            {"group": group.name, "label": group.label}
            | {"k": None, **told[group.name]}
            | {key: about[group.name].get(key) for key in apart}
            for group in groups
        ],
        "also_differ": apart,
        "init_seeds": len({init for init, _ in design.values()}),
        "data_seeds": len({data for _, data in design.values()}),
        "measures": found,
        "across": [summarise(two, designs, store) for two in near],
    }
    return out | {"words": words(out)}


def _seeds(designs: Mapping[str, Design]) -> Design:
    """Every seed that some group has, by name."""
    return {seed_name(seed): seed for one in designs.values() for seed in one.values()}


def _table(cells: Mapping[str, Sequence[Cell]], designs: Mapping[str, Design]) -> pl.DataFrame:
    """One row for each cell and measure, with the interval of the cell alone."""
    rows: list[dict[str, Any]] = []
    for measure, found in cells.items():
        for cell in found:
            seeds = {seed_name(seed): seed for seed in designs[cell.group].values()}
            one = numbers(np.ones((1, 1)), [cell], seeds)[0]
            low, high = one["interval_95"] or (None, None)
            levels = {key: cell.levels.get(key) for key in (*_FACTORS, "tokens")}
            row = {"group": cell.group, **levels, "measure": measure, "pairs": len(cell.pairs)}
            rows.append({**row, "value": one["value"], "lo": low, "hi": high})
    texts, counts = (
        ("group", "site", "architecture", "measure"),
        ("latents", "k", "tokens", "pairs"),
    )
    schema = {
        **dict.fromkeys(texts, pl.String),
        **dict.fromkeys(counts, pl.Int64),
        **dict.fromkeys(("value", "lo", "hi"), pl.Float64),
    }
    return pl.DataFrame(rows, schema=schema).with_columns(pl.selectors.float().fill_nan(None))
