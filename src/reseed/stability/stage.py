"""The door of stability: from matches, weights and evidence to shares, families and latents.

One piece for each group of runs: `stability/GROUP`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.events import Events
from reseed.evidence.spec import evidence_name
from reseed.files import json_bytes, parquet_bytes
from reseed.matching import measures
from reseed.matching.pairs import Views, compare
from reseed.matching.spec import MatchingSpec
from reseed.matching.stage import Pair, load_snapshot, pair_name, pairs_of, weights_name
from reseed.seeds import digest
from reseed.stability import shares
from reseed.stability.families import families, family_summary
from reseed.stability.intervals import mean_over_pairs
from reseed.stability.latents import (
    RunFacts,
    by_frequency,
    latent_table,
    n_of_m,
    shared_edges,
)
from reseed.stability.nulls import COVARIANCE, UNTRAINED
from reseed.stability.shares import PairTable
from reseed.stability.spec import StabilitySpec
from reseed.stability.structure_stage import structure_name, structures
from reseed.stability.summary import headline, reconstruction
from reseed.stability.verdicts import structure_summary, verdicts
from reseed.stability.weight_nulls import CovarianceNull
from reseed.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Finished runs that differ in nothing but their seeds."""

    name: str
    label: str
    runs: Sequence[str]
    steps: Sequence[int]
    """snapshots; the first is the start of training, the last its end"""
    batch: int


def stability_name(group: str) -> str:
    """Name of the piece of a group."""
    return f"stability/{group}"


def assess(
    groups: Sequence[Group],
    matching: MatchingSpec,
    spec: StabilitySpec,
    store: Store,
    events: Events,
) -> None:
    """Make the statistics that are missing or older than what they are made from.

    Args:
        groups: of the study; those with fewer than two runs get firing and weights only.
        matching: the threshold.
        spec: nulls and strata.
        store: of the study.
        events: progress.

    Raises:
        StoreError: if a match or a run is missing or damaged.
    """
    with events.task("stability", len(groups), "groups") as task:
        for group in groups:
            made_from = _made_from(group, matching, spec, store)
            if not store.has(stability_name(group.name), made_from):
                _assess(group, matching, spec, store, made_from)
            task.advance(1)


def _made_from(group: Group, matching: MatchingSpec, spec: StabilitySpec, store: Store) -> str:
    pairs = pairs_of(group.runs)
    inputs = [store.checksum(pair_name(pair)) for pair in pairs]
    inputs += [store.checksum(structure_name(pair)) for pair in pairs]
    inputs += [store.checksum(evidence_name(run)) for run in group.runs]
    inputs += [store.checksum(weights_name(run)) for run in group.runs]
    return digest([inputs, matching.digest(), spec.digest(), list(group.steps)])


def _assess(
    group: Group, matching: MatchingSpec, spec: StabilitySpec, store: Store, made_from: str
) -> None:
    facts = [_facts(run, store) for run in group.runs]
    tables = {step: _tables(group.runs, step, store) for step in group.steps}
    end, start = tables[group.steps[-1]], tables[group.steps[0]]
    strata = _strata(facts, spec)
    edges = _edges(end, matching.tau)
    members = families(edges)
    beyond = structures(group.runs, store)
    latents = verdicts(latent_table(facts, end, edges, members, spec.dense_rate), beyond)
    summary: dict[str, Any] = {
        "label": group.label,
        "runs": list(group.runs),
        "tokens": group.steps[-1] * group.batch,
        "counts": _counts(latents, len(end)),
        "reconstruction": reconstruction(
            [store.document(evidence_name(run), "reconstruction.json") for run in group.runs]
        ),
    }
    with store.piece(stability_name(group.name), made_from) as folder:

        def write(name: str, frame: pl.DataFrame) -> None:
            (folder / f"{name}.parquet").write_bytes(parquet_bytes(frame))

        write("latents", latents)
        write("families", members)
        write("frequency", by_frequency(latents))
        if end:
            nulls = _nulls(group, strata, spec, store)
            curves = shares.share_table(end, start, nulls, strata)
            write("shares", curves)
            write("trend", _trend(group, tables, matching.tau))
            write("cosines", _histograms(end, start, nulls["all"]))
            both = {"end": end, "start": start, "nulls": nulls["all"]}
            found = headline(curves, matching.tau, **both, members=strata["all"])
            found["ceiling_same_run"] = _ceiling(group, store, matching.tau)
            write("n_of_m", n_of_m(latents, _pair_shares(found)))
            summary |= {"headline": found, "families": family_summary(latents, edges)}
            summary["structure"] = structure_summary(latents, beyond)
            summary["certificates"] = _certificates(group, store)
        (folder / "summary.json").write_bytes(json_bytes(summary))


def _pair_shares(found: Mapping[str, Any]) -> dict[str, float]:
    """Mean shared share of a pair; 0 on live latents where a run has none."""
    return {stratum: found["shared"][stratum]["value"] or 0.0 for stratum in ("all", "live")}


def _facts(run: str, store: Store) -> RunFacts:
    return RunFacts(
        run,
        store.checksum(f"runs/{run}"),
        store.table(weights_name(run), "latents.parquet"),
        store.table(evidence_name(run), "firing.parquet"),
    )


def _tables(runs: Sequence[str], step: int, store: Store) -> list[PairTable]:
    file = f"{step:08d}.parquet"
    return [PairTable(pair, store.table(pair_name(pair), file)) for pair in pairs_of(runs)]


def _edges(end: Sequence[PairTable], tau: float) -> pl.DataFrame:
    if end:
        return shared_edges(end, tau)
    ends = {"run_a": pl.String, "latent_a": pl.Int64, "run_b": pl.String, "latent_b": pl.Int64}
    return pl.DataFrame(schema=ends | {"similarity": pl.Float64})


def _strata(facts: Sequence[RunFacts], spec: StabilitySpec) -> dict[str, dict[str, NDArray[Any]]]:
    out: dict[str, dict[str, NDArray[Any]]] = {"all": {}, "live": {}, "dense": {}}
    for one in facts:
        fired = one.firing["fired"].to_numpy()
        out["all"][one.run] = np.ones(len(fired), dtype=bool)
        out["live"][one.run] = fired > 0
        out["dense"][one.run] = one.firing["rate"].to_numpy() > spec.dense_rate
    return out


def _nulls(
    group: Group,
    strata: Mapping[str, Mapping[str, NDArray[Any]]],
    spec: StabilitySpec,
    store: Store,
) -> dict[str, list[PairTable]]:
    """Covariance-matched draws for all latents and for the live ones; dense ones are too few."""
    saes = {run: load_snapshot(store, run, group.steps[-1]) for run in group.runs}
    out: dict[str, list[PairTable]] = {}
    for stratum in ("all", "live"):
        keep = strata[stratum]
        if stratum == "live" and all(k.all() for k in keep.values()):
            out["live"] = out["all"]
            continue
        nulls = {
            run: CovarianceNull(Views(sae.W_enc[keep[run]], sae.W_dec[keep[run]]))
            for run, sae in saes.items()
            if keep[run].sum() > 1
        }
        pairs = [p for p in pairs_of(group.runs) if all(run in nulls for run in p)]
        out[stratum] = [
            draw for pair in pairs for draw in shares.draw_nulls(pair, nulls, spec.null_draws)
        ]
    return out


def _trend(group: Group, tables: Mapping[int, Sequence[PairTable]], tau: float) -> pl.DataFrame:
    """Shares on all latents and mean cosine at every snapshot: tokens, measure, value, lo, hi."""
    at = int(np.abs(shares.TAUS - tau).argmin())
    rows: list[tuple[int, str, float, float, float]] = []
    for step, found in tables.items():
        pairs: list[Pair] = [t.pair for t in found]
        for measure in measures.ALL:
            lowest = -1.0 if measure in measures.MEANS else 0.0
            if measure in measures.MEANS:
                each = [shares.mean_score(t, measure, shares.everyone(t)) for t in found]
            else:
                each = [shares.curve(t, measure, shares.everyone(t))[at] for t in found]
            value, *ends = mean_over_pairs(pairs, np.array(each))
            low, high = (float(end.clip(lowest, 1.0)) for end in ends)
            rows.append((step * group.batch, measure.id, float(value), low, high))
    names = ["tokens", "measure", "value", "lo", "hi"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    return frame.with_columns(pl.selectors.float().fill_nan(None))


def _histograms(
    end: Sequence[PairTable], start: Sequence[PairTable], nulls: Sequence[PairTable]
) -> pl.DataFrame:
    return pl.concat(
        [
            shares.histogram("observed", [t.table for t in end]),
            shares.histogram(UNTRAINED, [t.table for t in start]),
            shares.histogram(COVARIANCE, [d.table for d in nulls]),
        ]
    )


def _ceiling(group: Group, store: Store, tau: float) -> float:
    """Shared share of the first run with itself: what the measurement gives for full agreement."""
    sae = load_snapshot(store, group.runs[0], group.steps[-1])
    views = Views(sae.W_enc, sae.W_dec)
    table = compare(views, views).table
    score = measures.scores(table.filter(pl.col("side") == "a"), measures.SHARED)
    return float(measures.share_at(score, np.array([tau]), strict=False)[0])


def _counts(latents: pl.DataFrame, pairs: int) -> dict[str, Any]:
    by_run = latents.group_by("run", maintain_order=True)
    sums = by_run.agg(pl.len(), pl.col("alive").sum(), pl.col("dense").sum())
    return {
        "runs": len(sums),
        "pairs": pairs,
        "latents": int(sums["len"][0]),
        "live": sums["alive"].to_list(),
        "dead": (sums["len"] - sums["alive"]).to_list(),
        "dense": sums["dense"].to_list(),
    }


def _certificates(group: Group, store: Store) -> dict[str, Any]:
    """How far the worst assignment of the end of training can be from the best."""
    last = str(group.steps[-1])
    found = [
        store.document(pair_name(pair), "certificates.json")[last][view]
        for pair in pairs_of(group.runs)
        for view in Views._fields
    ]
    return {
        "assignments": len(found),
        "optimal": sum(one["optimal"] for one in found),
        "largest_gap": max(one["gap"] for one in found),
    }
