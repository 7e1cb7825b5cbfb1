"""One verdict for each latent, with its numbers beside it.

The first of these that holds:

dead
    It did not fire on held-out tokens.
dense
    It fired on more of them than `dense_rate`.
feature_stable
    It is shared with more than half of the other runs.
split, merged, absorbed
    So it is labelled in more than half of the other runs in which it is left over.
subspace_stable
    Its neighbourhood comes back: the upper median of the p-values of
    `reseed.matching.beyond.structure`, over the other runs in which it is left over, is at most
    `ALPHA`.
unstable
    None of these.

A verdict says what was found under this recipe with these runs. With few runs it is one or two
observations: read it with `n_matched`, `recurrence_lo` and `recurrence_hi`.

What lies beyond one-to-one is a piece for each pair of runs, `structure/A--B`; the arrays are the
work of `matching.beyond.structure`, the nulls that of this room.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.events import Events, Task
from reseed.matching import measures
from reseed.matching.beyond import labels
from reseed.matching.beyond.labels import Settings
from reseed.matching.beyond.structure import Side, structure
from reseed.matching.blocks.multiplier import few_threads
from reseed.matching.match import Views
from reseed.matching.stage import load_snapshot, read_match, shown
from reseed.records import Floats
from reseed.runs import Group, Pair, pair_name, pairs_of, structure_name
from reseed.sae.arithmetic import arithmetic_of_weights
from reseed.spec.analysis import MatchingSpec
from reseed.spec.statistics import FitsByChance, Structure, Subspaces
from reseed.stability.decoys import decoys
from reseed.stability.nulls import AXES, GAUSSIAN, RAW, CovarianceNull, in_place, rows_left
from reseed.store import Store

VERDICTS = (
    "feature_stable",
    "subspace_stable",
    "split",
    "merged",
    "absorbed",
    "unstable",
    "dead",
    "dense",
)

ALPHA = 0.01
"""P-value at or below which a neighbourhood counts as one that comes back."""

_STRUCTURAL = (labels.SPLIT, labels.MERGED, labels.ABSORBED)


class StructureTable(NamedTuple):
    """What became of the latents of two runs that have no counterpart."""

    pair: tuple[str, str]
    table: pl.DataFrame
    """of `reseed.matching.beyond.structure`"""
    about: Mapping[str, Any]
    """counts and chance of each side"""


def verdicts(latents: pl.DataFrame, structure: Sequence[StructureTable]) -> pl.DataFrame:
    """Add a verdict to each latent of a group.

    Returns:
        The same rows with `verdict` (one of `VERDICTS`; null with one run, unless dead or dense);
        and, over the other runs in which it is left over, null without any: `explained_by_3`, mean
        cosine of the fit by at most three latents; `subspace_overlap`, mean; `subspace_p`, upper
        median.
    """
    table = latents.join(
        _by_latent(structure), on=["run", "latent"], how="left", maintain_order="left"
    )
    others = pl.col("n_seeds") - 1
    verdict = pl.when(~pl.col("alive")).then(pl.lit("dead")).when("dense").then(pl.lit("dense"))
    verdict = verdict.when(others == 0).then(None)
    verdict = verdict.when(2 * pl.col("n_matched") > others).then(pl.lit("feature_stable"))
    for name in _STRUCTURAL:
        verdict = verdict.when(2 * pl.col(name) > pl.col("left")).then(pl.lit(name))
    verdict = verdict.when(pl.col("subspace_p") <= ALPHA).then(pl.lit("subspace_stable"))
    return table.with_columns(verdict.otherwise(pl.lit("unstable")).alias("verdict")).select(
        *latents.columns, "verdict", "explained_by_3", "subspace_overlap", "subspace_p"
    )


def _by_latent(structure: Sequence[StructureTable]) -> pl.DataFrame:
    """What the pairs of a latent say together."""
    columns = {
        "run": pl.String,
        "latent": pl.Int64,
        "label": pl.String,
        "explained_3": pl.Float64,
        "subspace_overlap": pl.Float64,
        "subspace_p": pl.Float64,
    }
    sides = [pl.DataFrame(schema=columns)] + [
        pair.table.filter(pl.col("side") == side)
        .with_columns(pl.lit(run).alias("run"))
        .select(pl.col(name).cast(kind) for name, kind in columns.items())
        for pair in structure
        for side, run in zip("ab", pair.pair, strict=True)
    ]
    return (
        pl.concat(sides)
        .group_by("run", "latent")
        .agg(
            pl.len().cast(pl.Int64).alias("left"),
            *((pl.col("label") == name).sum().cast(pl.Int64).alias(name) for name in _STRUCTURAL),
            pl.col("explained_3").mean().alias("explained_by_3"),
            pl.col("subspace_overlap").mean(),
            pl.col("subspace_p").quantile(0.5, "higher"),
        )
    )


def structure_summary(latents: pl.DataFrame, structure: Sequence[StructureTable]) -> Structure:
    """The numbers beyond one-to-one of a group, from its `verdicts`."""
    sides = [table.about[side] for table in structure for side in "ab"]
    chances = [side["by_chance"] for side in sides if side["by_chance"] is not None]
    by_chance = {
        name: float(np.mean([chance[name] for chance in chances])) if chances else None
        for name in FitsByChance.model_fields
    }
    subspaces = {
        name: sum(side["subspaces"][name] for side in sides) for name in Subspaces.model_fields
    }
    return Structure(
        verdicts={name: int((latents["verdict"] == name).sum()) for name in VERDICTS},
        left_over=sum(side["left_over"] for side in sides),
        labels={name: sum(side["labels"][name] for side in sides) for name in labels.LABELS},
        by_chance=FitsByChance(**by_chance),
        subspaces=Subspaces(**subspaces),
    )


VERSION = 3
"""Of what the tables mean; another number makes them anew."""

_TABLE, _ABOUT = "latents.parquet", "about.json"

NullOf = Callable[[str], CovarianceNull | None]

_NULL_LATENTS = 1_000
"""Random latents that the null of the subspaces should have at the least."""


def make_structures(
    groups: Sequence[Group],
    matching: MatchingSpec,
    store: Store,
    events: Events,
    only: Collection[str] | None = None,
) -> None:
    """Make what is missing of `structure/A--B` of matched runs, for the end of training."""
    pairs = [
        [pair for pair in pairs_of(group.runs) if only is None or structure_name(pair) in only]
        for group in groups
    ]
    settings = Settings(tau=matching.tau)
    with events.task("structure", sum(map(len, pairs)), "pairs") as task:
        for group, some in zip(groups, pairs, strict=True):
            _of_group(some, group.steps[-1], settings, store, task)


def _of_group(
    pairs: Sequence[Pair], step: int, settings: Settings, store: Store, task: Task
) -> None:
    @cache  # a run is in many pairs; its null takes longer than its part of a comparison
    def null_of(run: str) -> CovarianceNull | None:
        return decoder_null(load_snapshot(store, run, step).W_dec)

    for pair in pairs:
        made_from = [store.checksum(pair_name(pair)), step, asdict(settings), VERSION]
        store.make(
            structure_name(pair),
            made_from,
            lambda pair=pair: _structure(pair, step, settings, store, task, null_of),
            arithmetic=arithmetic_of_weights,
        )
        task.advance(1)


def structures(runs: Sequence[str], store: Store) -> list[StructureTable]:
    """The tables of all pairs of a group."""
    return [
        StructureTable(
            pair,
            store.table(structure_name(pair), _TABLE),
            store.document(structure_name(pair), _ABOUT),
        )
        for pair in pairs_of(runs)
    ]


def _structure(
    pair: Pair, step: int, settings: Settings, store: Store, task: Task, null_of: NullOf
) -> dict[str, Any]:
    saes = [load_snapshot(store, run, step) for run in pair]
    table = read_match(store, pair, step)
    sides = [
        Side(sae.W_dec, counterparts(table, name, settings.tau))
        for name, sae in zip("ab", saes, strict=True)
    ]
    left = any((side.shared < 0).any() for side in sides)
    sizes = [len(sae.W_dec) for sae in saes]
    show = shown(task, f"{pair[0]} with {pair[1]}", sizes[0] * sizes[1])
    with few_threads(max(sizes)):
        first, second = (null_of(run) if left else None for run in pair)
        chance = null_decoders(pair, first, second, settings.tau)
        explained = structure(sides[0], sides[1], chance[0], settings, show, chance[1:])
    return {_TABLE: explained.table, _ABOUT: explained.about}


def counterparts(table: pl.DataFrame, side: str, tau: float) -> NDArray[np.int64]:
    """`[F]` the latent that each latent of a side is shared with at tau, -1 for those left over."""
    rows = table.filter(pl.col("side") == side).sort("latent")
    shared = measures.is_shared(rows, tau).to_numpy()
    return np.where(shared, rows["decoder_match"].fill_null(-1).to_numpy(), -1)


def decoder_null(rows: Any) -> CovarianceNull | None:
    """The null of decoder rows `[F, D]` alone; None where fewer than two are not zero."""
    views = Views(rows, rows)
    return CovarianceNull(views) if rows_left(views) > 1 else None


def null_decoders(
    pair: Pair, first: CovarianceNull | None, second: CovarianceNull | None, tau: float
) -> list[list[tuple[Floats, Floats]]]:
    """Random decoders in place of the two of a pair, made in each way; none if one is zero.

    Of the same covariance (null N2), and mirrored. First comes the way whose rows reach tau most
    often (`Decoys.heaviest`): it is that of the fits.
    """
    if first is None or second is None:
        return [[]]
    draws = ceil(_NULL_LATENTS / min(first.count, second.count))
    # the least number of decoys tells which kind is the heaviest
    heaviest = decoys(first, second, "structure", *pair, each=0).heaviest(tau)
    ways: list[list[tuple[Floats, Floats]]] = []
    for kind in sorted((GAUSSIAN, RAW, AXES), key=lambda kind: kind != heaviest):
        a, b = in_place(kind, first, second), in_place(kind, second, first)
        key = "structure", *pair
        ways.append(
            [
                (a.draw(*key, "a", draw).decoder, b.draw(*key, "b", draw).decoder)
                for draw in range(draws)
            ]
        )
    return ways
