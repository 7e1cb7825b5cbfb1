"""What the statistics of a group are made from, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from reseed.matching.stage import read_match
from reseed.runs import (
    Group,
    Pair,
    cofiring_name,
    evidence_name,
    pairs_of,
    sae_folder,
    weights_name,
)
from reseed.spec.analysis import StabilitySpec
from reseed.stability.intervals import Design, is_crossed
from reseed.stability.shares import Members, PairTable, RateBin, strata
from reseed.store import Store, file_sha256

NEITHER, SAME_DATA, SAME_INIT = "share neither seed", "share the data seed", "share the init seed"

CLASSES = (NEITHER, SAME_DATA, SAME_INIT)
"""What two runs of a group can share, from the least to the most that could make them alike."""


def class_of(pair: Pair, design: Design) -> str:
    """Which seed the two runs of a pair share; two runs of a group never share both."""
    (init_a, data_a), (init_b, data_b) = (design[run] for run in pair)
    if init_a == init_b:
        return SAME_INIT
    return SAME_DATA if data_a == data_b else NEITHER


def independent_pairs(pairs: Sequence[Pair], design: Design) -> tuple[str, list[Pair]]:
    """The pairs that say how often an independent run finds a latent.

    Two runs that start from the same weights can agree without having learnt anything, and two
    that read the same tokens in the same order share their accidents. So the pairs that share the
    least count: those that share neither seed; if there is none, those that share the data seed
    (the paper's design: only the init differs); if there is none either, those that share the init.

    Returns:
        What these pairs share, one of `CLASSES`, and the pairs.
    """
    for name in CLASSES:
        of_class = [pair for pair in pairs if class_of(pair, design) == name]
        if of_class:
            return name, of_class
    return NEITHER, []


def seeds_in(latents: pl.DataFrame) -> Design:
    """Run to its init seed and its data seed, from a table of latents."""
    rows = latents.select("run", "init_seed", "data_seed").unique(maintain_order=True)
    return {run: (init, data) for run, init, data in rows.iter_rows()}


def occasions(design: Design) -> list[str]:
    """Runs that can count as independent occasions of finding a feature.

    All runs, unless both seeds are crossed: then a set of runs of which no two share a seed, taken
    in the order given. Runs from equal weights find nearly the same and would make the features
    look few.
    """
    if not is_crossed(design):
        return list(design)
    chosen: list[str] = []
    for run, (init, data) in design.items():
        taken = [design[other] for other in chosen]
        if all(init != i and data != d for i, d in taken):
            chosen.append(run)
    return chosen


def family_occasions(latents: pl.DataFrame) -> pl.DataFrame:
    """How many independent occasions found each family: family, occasions.

    As many runs as it has, unless seeds are crossed: then the largest set of its runs of which no
    two share a seed (a maximum matching of init and data seeds). A latent that the start alone
    brings back is found once, however many runs share that start.

    `latents` have run, family (null for orphans, which are left out), init_seed and data_seed.
    Without seeds n_seeds and n_matched tell whether seeds are crossed and by how many independent
    runs a family can have been found at the most; without those runs count.
    """
    members = latents.drop_nulls("family")
    runs = pl.col("run").n_unique().cast(pl.Int64).alias("occasions")
    seeds = ("init_seed", "data_seed")
    if not set(seeds) <= set(latents.columns):
        if {"n_seeds", "n_matched"} <= set(latents.columns):
            apart = latents.select(pl.col("n_seeds").max() < pl.col("run").n_unique()).item()
            most = pl.col("n_matched").max().cast(pl.Int64) + 1
            runs = pl.min_horizontal(runs, most).alias("occasions") if apart else runs
        return members.group_by("family").agg(runs)
    design = seeds_in(latents)
    if not is_crossed(design):
        return members.group_by("family").agg(runs)
    cells = members.select("family", *seeds).unique().sort("family", *seeds)
    of_family = cells.group_by("family", maintain_order=True).agg(*seeds)
    counted: dict[tuple[tuple[int, ...], ...], int] = {}
    out: list[int] = []
    for init, data in of_family.select(*seeds).iter_rows():
        key = (tuple(init), tuple(data))
        if key not in counted:
            rows, columns = (np.unique(seed, return_inverse=True)[1] for seed in key)
            graph = csr_array((np.ones(len(rows), dtype=bool), (rows, columns)))
            counted[key] = int((maximum_bipartite_matching(graph) >= 0).sum())
        out.append(counted[key])
    return of_family.select("family", pl.Series("occasions", out, dtype=pl.Int64))


def worth_of(design: Design) -> int | None:
    """How many independent trials the other runs of a latent are worth; None if all are.

    Of crossed runs that share neither seed with a run some share one with each other; whichever
    seed decides, there are as many occasions as the seed with fewer levels has others.
    """
    if not is_crossed(design):
        return None
    return min(len({seeds[axis] for seeds in design.values()}) for axis in (0, 1)) - 1


class RunFacts(NamedTuple):
    """What other stages wrote about a run."""

    run: str
    sha256: str
    weights: pl.DataFrame
    firing: pl.DataFrame
    seeds: tuple[int, int] = (0, 0)
    """init seed, data seed"""
    sae_id: str = ""
    """name of the SAE's folder in the study"""
    sae_sha256: str = ""
    """of its weights file"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMatches:
    """Of one run, seen as the base of a star."""

    run: str
    others: tuple[str, ...]
    """independent ones, see `independent_pairs`"""
    matched: NDArray[np.bool_]
    """`[F, T]` whether a latent is shared with each of them"""

    def without(self, left: set[str]) -> RunMatches:
        """The same where some of the other runs were not there."""
        keep = [place for place, other in enumerate(self.others) if other not in left]
        others = tuple(self.others[place] for place in keep)
        return RunMatches(run=self.run, others=others, matched=self.matched[:, keep])


def run_matches(
    edges: pl.DataFrame, pairs: Sequence[Pair], sizes: Mapping[str, int]
) -> dict[str, RunMatches]:
    """Shared pairs of latents from the side of each run, in the order of `sizes`.

    Edges of other than the given independent pairs are left out.
    """
    others: dict[str, list[str]] = {run: [] for run in sizes}
    for a, b in pairs:
        others[a].append(b)
        others[b].append(a)
    out = {
        run: RunMatches(
            run=run,
            others=tuple(others[run]),
            matched=np.zeros((sizes[run], len(others[run])), dtype=bool),
        )
        for run in sizes
    }
    for (a, b), rows in edges.group_by("run_a", "run_b"):
        for run, other, column in ((str(a), str(b), "latent_a"), (str(b), str(a), "latent_b")):
            if other in out[run].others:
                latents = rows[column].to_numpy()
                out[run].matched[latents, out[run].others.index(other)] = True
    return out


class GroupData(NamedTuple):
    """What is known of a group before anything is counted."""

    facts: list[RunFacts]
    design: Design
    tables: dict[int, list[PairTable]]
    """of all pairs at each snapshot"""
    firing: list[PairTable]
    """how matched latents of pairs fire together, where that was measured"""
    kind: str
    """what independent pairs share, see `reseed.stability.intervals`"""
    pairs: list[Pair]
    """the independent ones"""
    strata: Mapping[str, Members]
    bins: list[RateBin]

    def independent(self, step: int) -> list[PairTable]:
        """Tables of the independent pairs."""
        return [table for table in self.tables[step] if table.pair in self.pairs]

    @property
    def sizes(self) -> dict[str, int]:
        """Latents of each run."""
        return {run.run: len(run.firing) for run in self.facts}


def read_group(group: Group, spec: StabilitySpec, store: Store) -> GroupData:
    """Read what other stages made of a group."""
    facts = [_facts(run, group.steps[-1], store) for run in group.runs]
    design = {run.run: run.seeds for run in facts}
    kind, pairs = independent_pairs(pairs_of(group.runs), design)
    rates = {run.run: run.firing["rate"].to_numpy() for run in facts}
    members, bins = strata(rates, spec.dense_rate)
    tables = {step: _tables(group.runs, step, store) for step in group.steps}
    firing = [
        PairTable(pair, store.table(cofiring_name(pair), "matched.parquet"))
        for pair in pairs_of(group.runs)
        if store.has(cofiring_name(pair))
    ]
    return GroupData(facts, design, tables, firing, kind, pairs, members, bins)


def _facts(run: str, step: int, store: Store) -> RunFacts:
    spec = store.document(f"runs/{run}", "spec.json")
    folder = PurePosixPath(sae_folder(run, step, store))
    weights = store.checked(f"runs/{run}", (folder / "sae.safetensors").as_posix())
    return RunFacts(
        run,
        store.checksum(f"runs/{run}"),
        store.table(weights_name(run), "latents.parquet"),
        store.table(evidence_name(run), "firing.parquet"),
        (int(spec["init_seed"]), int(spec["data_seed"])),
        ("runs" / PurePosixPath(run) / folder).as_posix(),
        file_sha256(weights),
    )


def _tables(runs: Sequence[str], step: int, store: Store) -> list[PairTable]:
    return [PairTable(pair, read_match(store, pair, step)) for pair in pairs_of(runs)]
