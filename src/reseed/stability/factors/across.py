"""Whether the latents of one group come back in another: narrow in wide, small k in large.

Groups are compared that differ in one of width and k, at one site and of one architecture. Runs
with the same init seed are left out: the rows a narrow SAE starts from are the first rows of a
wider one with that seed, and with equal widths the start is the same. One piece for each two
groups, `across/A--B`, A the one with fewer latents or the smaller k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from reseed.events import Events
from reseed.matching import measures
from reseed.matching.match import Views, compare
from reseed.matching.stage import load_snapshot
from reseed.records import SAEArrays
from reseed.runs import Group
from reseed.spec.analysis import MatchingSpec
from reseed.spec.summary import AcrossGroups, CorrectedEstimate
from reseed.stability.factors.levels import Neighbours, across_name
from reseed.stability.intervals import Design, share_over_pairs
from reseed.stability.nulls import chance_corrected, covariance_null
from reseed.stability.shares import draw_nulls
from reseed.store import Store

VERSION = 1
"""Of what the tables mean."""

PARTNERS = 2
"""Runs of the other group that each run is matched with."""

_MEASURES = (measures.SHARED, measures.MAX_COS_BOTH)


def partners(small: Design, large: Design) -> list[tuple[str, str]]:
    """Runs to compare: each of the first group with the next `PARTNERS` that share no seed with it.

    Data seeds count only where they vary. Empty where all runs have one init seed.
    """
    both = [*small.values(), *large.values()]
    several = len({data for _, data in both}) > 1
    out: list[tuple[str, str]] = []
    for run, (init, data) in small.items():
        # from the next init seed on, in a circle, so that every run of the other group has its turn
        independent = [
            other for other, (i, d) in large.items() if i != init and (d != data or not several)
        ]
        after = sorted(independent, key=lambda other: (large[other] <= (init, data), large[other]))
        out += [(run, other) for other in after[:PARTNERS]]
    return out


def match_across(
    two: Neighbours,
    groups: Mapping[str, Group],
    designs: Mapping[str, Design],
    matching: MatchingSpec,
    store: Store,
    events: Events,
) -> None:
    """Match the runs of two groups, unless it was done."""
    pairs = partners(designs[two.small], designs[two.large])
    runs = sorted({run for pair in pairs for run in pair})
    checksums = [store.checksum(f"runs/{run}") for run in runs]

    def write() -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        with events.task("across", len(pairs), "pairs") as task:
            saes = {run: load_snapshot(store, run, groups[two.small].steps[-1]) for run in runs}
            nulls = {run: null for run, sae in saes.items() if (null := covariance_null(sae))}
            for a, b in pairs:
                table = compare(_views(saes[a]), _views(saes[b])).table
                drawn = draw_nulls((a, b), nulls, 1)[0].table if {a, b} <= set(nulls) else None
                rows += _rows((a, b), table, drawn, matching.tau)
                task.advance(1)
        schema: dict[str, Any] = dict.fromkeys(("run_a", "run_b", "side", "measure"), pl.String)
        schema |= dict.fromkeys(("value", "null"), pl.Float64)
        return {"pairs.parquet": pl.DataFrame(rows, schema=schema)}

    store.make(across_name(two), [checksums, pairs, matching.digest(), VERSION], write)


def _views(sae: SAEArrays) -> Views:
    return Views(sae.W_enc, sae.W_dec)


def _rows(
    pair: tuple[str, str], real: pl.DataFrame, drawn: pl.DataFrame | None, tau: float
) -> list[dict[str, Any]]:
    """Shares of both sides at tau, and the mean matched cosine."""
    out: list[dict[str, Any]] = []
    for side in "ab":
        for measure in _MEASURES:
            value, null = (
                None if table is None else _share(table, side, measure, tau)
                for table in (real, drawn)
            )
            out.append({"side": side, "measure": measure.id, "value": value, "null": null})
    value, null = (
        None if table is None else float(measures.scores(table, measures.PW_MCC).mean())  # pyright: ignore[reportArgumentType]
        for table in (real, drawn)
    )
    out.append({"side": "a", "measure": measures.PW_MCC.id, "value": value, "null": null})
    return [{"run_a": pair[0], "run_b": pair[1], **row} for row in out]


def _share(table: pl.DataFrame, side: str, measure: measures.Measure, tau: float) -> float:
    score = measures.scores(table.filter(pl.col("side") == side), measure)
    return float(measures.share_at(score, np.array([tau]), strict=measure.strict)[0])


def summarise(two: Neighbours, designs: Mapping[str, Design], store: Store) -> AcrossGroups:
    """What the matches of two groups say.

    `found` are latents of the small group found in the large one, `found_back` the other way,
    `nearest` the first without one-to-one.
    """
    table = store.table(across_name(two), "pairs.parquet")
    seeds = {**designs[two.small], **designs[two.large]}

    def estimate(side: str, measure: measures.Measure) -> CorrectedEstimate | None:
        return _estimate(table.filter(side=side, measure=measure.id), seeds)

    return AcrossGroups(
        small=two.small,
        large=two.large,
        differ=two.differ,
        pairs=table.select("run_a", "run_b").n_unique(),
        found=estimate("a", measures.SHARED),
        found_back=estimate("b", measures.SHARED),
        nearest=estimate("a", measures.MAX_COS_BOTH),
        pw_mcc=estimate("a", measures.PW_MCC),
    )


def _estimate(table: pl.DataFrame, seeds: Design) -> CorrectedEstimate | None:
    """Mean over pairs; a seed is left out of both groups at once."""
    if not len(table):
        return None
    pairs = [(seed_name(seeds[a]), seed_name(seeds[b])) for a, b in _runs(table)]
    design = {seed_name(seeds[run]): seeds[run] for pair in _runs(table) for run in pair}
    mean = share_over_pairs(pairs, table["value"].to_numpy(), design)
    nulls = table["null"].drop_nulls().to_numpy()
    null = float(nulls.mean()) if len(nulls) else None
    corrected = None
    if null is not None and mean.value is not None:
        corrected = chance_corrected(mean.value, null)
    return CorrectedEstimate(
        value=mean.value, interval_95=mean.interval_95, null=null, chance_corrected=corrected
    )


def _runs(table: pl.DataFrame) -> list[tuple[str, str]]:
    return list(table.select("run_a", "run_b").iter_rows())


def seed_name(seeds: tuple[int, int]) -> str:
    """How init and data seed are called where groups are compared."""
    return f"i{seeds[0]}-d{seeds[1]}"
