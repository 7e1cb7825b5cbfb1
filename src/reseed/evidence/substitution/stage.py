"""The pieces `substitution/GROUP`: can counterparts stand in for each other in the subject?"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from reseed.events import Events
from reseed.evidence.rows import readers_of
from reseed.evidence.substitution.draw import KINDS, MATCHED, ORPHAN, Windows, choose_pairs
from reseed.evidence.substitution.ratio import of_pairs, part_of
from reseed.evidence.substitution.swap import measure_pairs
from reseed.matching.stage import read_match
from reseed.runs import Group, evidence_name, pair_name, pairs_of, substitution_name
from reseed.sae.arithmetic import arithmetic
from reseed.spec.statistics import Substitution, SubstitutionPart
from reseed.spec.summary import document_of
from reseed.study import Study

if TYPE_CHECKING:
    from reseed.subjects.inputs import Inputs

WINDOWS = 6
"""Of a latent, and half as many in which its partner fires alone."""

LENGTH = 32
"""Tokens of a window."""

_COSINES = (-1.0, 0.5, 0.7, 0.9, 1.01)


def substitute(
    study: Study, inputs: Inputs, events: Events, only: Collection[str] | None = None
) -> None:
    """Make the pieces of all groups of two runs or more that are missing, of `only` if given."""
    count = study.spec.evidence.substitution_pairs
    for group in study.groups():
        pairs, store = pairs_of(group.runs), study.store
        if not pairs or (only is not None and substitution_name(group.name) not in only):
            continue
        made_from = [count, WINDOWS, LENGTH, study.spec.matching.tau]
        made_from += [store.checksum(pair_name(pair)) for pair in pairs]
        made_from += [store.checksum(f"runs/{run}") for run in group.runs]
        store.make(
            substitution_name(group.name),
            made_from,
            lambda group=group: _measured(study, group, inputs, events),
            arithmetic=partial(arithmetic, inputs.device),
        )


def _measured(study: Study, group: Group, inputs: Inputs, events: Events) -> dict[str, Any]:
    store, tau = study.store, study.spec.matching.tau
    specs = {run.id: run.spec for run in study.runs if run.id in group.runs}
    sites = next((spec.site, spec.target) for spec in specs.values())
    readers = readers_of({run: spec.site for run, spec in specs.items()}, store, inputs.device)
    pairs = _chosen(study, group, tau)
    windows = Windows(inputs.text, inputs.split[1], LENGTH)
    windows.gather(readers, inputs.source, events)
    saes = {run: reader.sae for run, reader in readers.items()}
    effects = measure_pairs(inputs.spliced, sites, saes, pairs, windows, WINDOWS, events)
    table = of_pairs(pairs, effects)
    return {
        "pairs.parquet": table,
        "effects.parquet": effects,
        "substitution.json": document_of(summary_of(table, effects, group.name)),
    }


def _chosen(study: Study, group: Group, tau: float) -> pl.DataFrame:
    store, ends = study.store, pairs_of(group.runs)
    firing = {run: store.table(evidence_name(run), "firing.parquet") for run in group.runs}
    rows = [store.document(evidence_name(run), "reconstruction.json")["rows"] for run in group.runs]
    each = -(-study.spec.evidence.substitution_pairs // len(ends))
    return pl.concat(
        choose_pairs(
            a,
            b,
            read_match(store, (a, b), group.steps[-1]),
            (firing[a]["fired"].to_numpy(), firing[b]["fired"].to_numpy()),
            rows[0],
            tau,
            each,
        )
        for a, b in ends
    )


def summary_of(pairs: pl.DataFrame, effects: pl.DataFrame, name: str) -> Substitution:
    """R of each kind of partner, and of counterparts by cosine and by firing rate."""

    def part(key: str, rows: pl.DataFrame) -> SubstitutionPart | None:
        return part_of(rows, effects, f"{name} {key}")

    kinds = {kind: part(kind, pairs.filter(kind=kind)) for kind in KINDS}
    own = pairs.filter(pl.col("kind").is_in([MATCHED, ORPHAN]))
    cosines = {
        f"{low:g} to {min(high, 1.0):g}" if low > 0 else f"below {high:g}": own.filter(
            pl.col("cosine").is_between(low, high, closed="left")
        )
        for low, high in pairwise(_COSINES)
    }
    matched = own.filter(kind=MATCHED)
    third = (3 * (pl.col("rate").rank("ordinal") - 1)) // pl.len()
    thirds = {
        label: matched.filter(third == number)
        for number, label in enumerate(("rarest", "middle", "most frequent"))
    }
    return Substitution(
        windows=len(effects),
        kinds=_known(kinds),
        by_cosine=_known({key: part(key, rows) for key, rows in cosines.items()}),
        by_rate=_known({key: part(key, rows) for key, rows in thirds.items()}),
    )


def _known(parts: dict[str, SubstitutionPart | None]) -> dict[str, SubstitutionPart]:
    return {key: value for key, value in parts.items() if value is not None}
