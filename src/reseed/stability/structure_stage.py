"""The door of what lies beyond one-to-one: one piece for each pair of runs, `structure/A--B`.

It is part of stability, which owns the nulls; the work on arrays is `reseed.matching.structure`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import ceil

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.events import Events, Task
from reseed.files import json_bytes, parquet_bytes
from reseed.matching import measures
from reseed.matching.fitting import Settings
from reseed.matching.pairs import Views
from reseed.matching.spec import MatchingSpec
from reseed.matching.stage import Pair, load_snapshot, pair_name, pairs_of
from reseed.matching.structure import Side, structure
from reseed.records import Floats, SAEArrays
from reseed.seeds import digest
from reseed.stability.verdicts import StructureTable
from reseed.stability.weight_nulls import CovarianceNull
from reseed.store import Store

VERSION = 1
"""Of what the tables mean; another number makes them anew."""
_TABLE, _ABOUT = "latents.parquet", "about.json"
_NULL_LATENTS = 1_000
"""Random latents that the null of the subspaces should have at the least."""


def structure_name(pair: Pair) -> str:
    """Name of the piece of a pair."""
    return f"structure/{pair[0]}--{pair[1]}"


def structure_groups(
    groups: Sequence[Sequence[str]],
    step: int,
    matching: MatchingSpec,
    store: Store,
    events: Events,
) -> None:
    """Make the tables that are missing or older than what they are made from.

    Args:
        groups: finished and matched runs that differ in nothing but their seeds.
        step: the snapshot to look at, the end of training.
        matching: the threshold.
        store: of the study.
        events: progress.

    Raises:
        StoreError: if a run or a match is missing or damaged.
    """
    pairs = [pair for group in groups for pair in pairs_of(group)]
    with events.task("structure", len(pairs), "pairs") as task:
        for pair in pairs:
            made_from = _made_from(pair, step, matching, store)
            if not store.has(structure_name(pair), made_from):
                _make(pair, step, matching, store, made_from, task)
            task.advance(1)


def structures(runs: Sequence[str], store: Store) -> list[StructureTable]:
    """The tables of all pairs of a group.

    Raises:
        StoreError: if one is missing or damaged.
    """
    return [
        StructureTable(
            pair,
            store.table(structure_name(pair), _TABLE),
            store.document(structure_name(pair), _ABOUT),
        )
        for pair in pairs_of(runs)
    ]


def _made_from(pair: Pair, step: int, matching: MatchingSpec, store: Store) -> str:
    settings = asdict(Settings(tau=matching.tau))
    return digest([store.checksum(pair_name(pair)), step, settings, VERSION])


def _make(
    pair: Pair, step: int, matching: MatchingSpec, store: Store, made_from: str, task: Task
) -> None:
    saes = [load_snapshot(store, run, step) for run in pair]
    table = store.table(pair_name(pair), f"{step:08d}.parquet")
    sides = [
        Side(sae.W_dec, counterparts(table, name, matching.tau))
        for name, sae in zip("ab", saes, strict=True)
    ]
    left = any((side.shared < 0).any() for side in sides)
    nulls = _nulls(pair, saes) if left else []
    show = _shown(task, f"{pair[0]} with {pair[1]}", len(saes[0].W_dec) * len(saes[1].W_dec))
    found = structure(sides[0], sides[1], nulls, Settings(tau=matching.tau), show)
    with store.piece(structure_name(pair), made_from) as folder:
        (folder / _TABLE).write_bytes(parquet_bytes(found.table))
        (folder / _ABOUT).write_bytes(json_bytes(found.about))


def counterparts(table: pl.DataFrame, side: str, tau: float) -> NDArray[np.int64]:
    """`[F]` the latent that each latent of a side is shared with, -1 for those left over.

    Args:
        table: of `reseed.matching.pairs`.
        side: `"a"` or `"b"`.
        tau: the threshold of the measure `shared`.
    """
    mine = table.filter(pl.col("side") == side).sort("latent")
    shared = (measures.scores(mine, measures.SHARED) >= tau - 1e-9).to_numpy()
    return np.where(shared, mine["decoder_match"].fill_null(-1).to_numpy(), -1)


def _nulls(pair: Pair, saes: Sequence[SAEArrays]) -> list[tuple[Floats, Floats]]:
    """Covariance-matched decoders (null N2) in place of the two of a pair; none if one is zero."""
    first, second = (_matched(sae) for sae in saes)
    if first is None or second is None:
        return []
    draws = ceil(_NULL_LATENTS / min(first.count, second.count))

    def drawn(null: CovarianceNull, side: str, draw: int) -> Floats:
        return null.draw("structure", *pair, side, draw).decoder.astype(np.float32)

    return [(drawn(first, "a", draw), drawn(second, "b", draw)) for draw in range(draws)]


def _matched(sae: SAEArrays) -> CovarianceNull | None:
    there = np.abs(sae.W_dec).any(axis=1) & np.abs(sae.W_enc).any(axis=1)
    return CovarianceNull(Views(sae.W_enc, sae.W_dec)) if there.sum() > 1 else None


def _shown(task: Task, name: str, entries: int) -> Callable[[float], None]:
    """Shows the way through one pair beside the bar, which counts pairs."""
    done = 0.0

    def show(more: float) -> None:
        nonlocal done
        done += more
        task.advance(0, f"{name}: {done / entries:.1f} passes over the similarities")

    return show
