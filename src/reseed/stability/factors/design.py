"""What groups differ in and what that does: one piece for the study, `stability/factors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from reseed.events import Events
from reseed.matching import measures
from reseed.runs import FACTORS, Group, stability_name
from reseed.spec.analysis import MatchingSpec
from reseed.spec.summary import Decomposition, Factors, document_of, read_record
from reseed.stability.factors.across import match_across, seed_name, summarise
from reseed.stability.factors.effects import Cell, decompose
from reseed.stability.factors.levels import (
    BETWEEN_GROUPS,
    Neighbours,
    across_name,
    apart_in,
    factors_of,
    levels_of,
    neighbours,
)
from reseed.stability.factors.words import words
from reseed.stability.fdr import FOUND, LIVE
from reseed.stability.intervals import Design, share_over_pairs
from reseed.stability.nulls import chance_corrected
from reseed.stability.summary import read_summary
from reseed.store import Store

VERSION = 2
"""Of what it means."""

CORRECTED = "chance_corrected"

MEASURES = (measures.SHARED.id, CORRECTED, LIVE, FOUND, measures.PW_MCC.id)
"""What is decomposed: shares at tau on all latents (as it is and chance-corrected) and on live
ones, the share with a match at FDR 5 %, the mean matched cosine."""

_END_ONLY = (CORRECTED, LIVE, FOUND)


def compare_groups(
    groups: Sequence[Group], matching: MatchingSpec, store: Store, events: Events
) -> Factors | None:
    """Decompose agreement over groups, and match runs across them; makes what is missing.

    Args:
        groups: of the study, without controls; those with one run count for nothing.
        matching: the threshold.
        store: of the study, in which each group was assessed.
        events: progress.

    Returns:
        None with fewer than two groups.
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

    def write() -> dict[str, Any]:
        cells = {
            measure: [
                cell
                for group in groups
                for cell in _cells(group, measure, levels[group.name], designs[group.name], store)
            ]
            for measure in MEASURES
        }
        summary = _summary(groups, about, cells, designs, near, matching, store)
        return {"cells.parquet": _table(cells, designs), "summary.json": document_of(summary)}

    store.make(FACTORS, [inputs, VERSION], write)
    document = store.document(FACTORS, "summary.json")
    return read_record(Factors, document, f"{FACTORS}/summary.json")


def design_of(group: Group, store: Store) -> Design:
    """Seeds of the runs of a group."""
    specs = {run: store.document(f"runs/{run}", "spec.json") for run in group.runs}
    return {run: (int(spec["init_seed"]), int(spec["data_seed"])) for run, spec in specs.items()}


def _about(group: Group, store: Store) -> dict[str, Any]:
    """All that the spec of a group's runs says about the SAE, and the site."""
    spec = store.document(f"runs/{group.runs[0]}", "spec.json")
    return {"site": spec["site"], **spec["sae"]}


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
    summary = read_summary(store, group.name)
    assert summary.headline is not None
    null = summary.headline.shared["all"].null_covariance
    out: list[Cell] = []
    for (tokens,), rows in table.group_by(["tokens"], maintain_order=True):
        if measure in _END_ONLY and tokens != group.steps[-1] * group.batch:
            continue
        values = rows["value"].to_numpy()
        if measure == CORRECTED:
            chance = np.nan if null is None or null.mean is None else null.mean
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
) -> Factors:
    design = {seed_name(seed): seed for seeds in designs.values() for seed in seeds.values()}
    last = groups[0].steps[-1] * groups[0].batch
    measured: dict[str, Decomposition] = {}
    for measure in MEASURES:
        factors = [*factors_of(about), *([] if measure in _END_ONLY else ["tokens"])]
        parts = decompose(cells[measure], factors, last, design)
        if parts is not None:
            measured[measure] = parts
    common = set[str].intersection(*(set(sae) for sae in about.values()))
    apart = [key for key in apart_in(about, set(BETWEEN_GROUPS)) if key in common]
    levels = levels_of(about)
    factors = Factors(
        tau=matching.tau,
        groups=[
            {"group": group.name, "label": group.label}
            | {"k": None, **levels[group.name]}
            | {key: about[group.name].get(key) for key in apart}
            for group in groups
        ],
        also_differ=apart,
        init_seeds=len({init for init, _ in design.values()}),
        data_seeds=len({data for _, data in design.values()}),
        measures=measured,
        across=[summarise(two, designs, store) for two in near],
        words=[],
    )
    return factors.model_copy(update={"words": words(factors)})


def _table(cells: Mapping[str, Sequence[Cell]], designs: Mapping[str, Design]) -> pl.DataFrame:
    """One row for each cell and measure, with the interval of the cell alone."""
    rows: list[dict[str, Any]] = []
    for measure, of_measure in cells.items():
        for cell in of_measure:
            seeds = {seed_name(seed): seed for seed in designs[cell.group].values()}
            mean = share_over_pairs(cell.pairs, cell.values, seeds)
            low, high = mean.interval_95 or (None, None)
            levels = {key: cell.levels.get(key) for key in (*BETWEEN_GROUPS, "tokens")}
            row = {"group": cell.group, **levels, "measure": measure, "pairs": len(cell.pairs)}
            rows.append({**row, "value": mean.value, "lo": low, "hi": high})
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
