"""What the statistics of a group are made from, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from reseed.runs import (
    Group,
    Pair,
    cofiring_name,
    evidence_name,
    pair_name,
    pairs_of,
    sae_folder,
    weights_name,
)
from reseed.spec.analysis import StabilitySpec
from reseed.stability.intervals import Design, independent_pairs
from reseed.stability.latents import RunFacts
from reseed.stability.shares import Members, PairTable, RateBin, strata
from reseed.store import Store, file_sha256


class Given(NamedTuple):
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
        return [one for one in self.tables[step] if one.pair in self.pairs]

    @property
    def sizes(self) -> dict[str, int]:
        """Latents of each run."""
        return {one.run: len(one.firing) for one in self.facts}


def read_group(group: Group, spec: StabilitySpec, store: Store) -> Given:
    """Read what other stages made of a group."""
    facts = [_facts(run, group.steps[-1], store) for run in group.runs]
    design = {one.run: one.seeds for one in facts}
    kind, pairs = independent_pairs(pairs_of(group.runs), design)
    rates = {one.run: one.firing["rate"].to_numpy() for one in facts}
    members, bins = strata(rates, spec.dense_rate)
    tables = {step: _tables(group.runs, step, store) for step in group.steps}
    firing = [
        PairTable(pair, store.table(cofiring_name(pair), "matched.parquet"))
        for pair in pairs_of(group.runs)
        if store.has(cofiring_name(pair))
    ]
    return Given(facts, design, tables, firing, kind, pairs, members, bins)


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
    file = f"{step:08d}.parquet"
    return [PairTable(pair, store.table(pair_name(pair), file)) for pair in pairs_of(runs)]
