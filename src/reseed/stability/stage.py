"""The door of stability: from matches, weights and evidence to shares, families and latents.

One piece for each group of runs: `stability/GROUP`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from reseed.events import Events
from reseed.matching import measures
from reseed.matching.match import Views, compare
from reseed.matching.stage import load_snapshot
from reseed.runs import (
    Group,
    cofiring_name,
    evidence_name,
    pair_name,
    pairs_of,
    stability_name,
    structure_name,
    weights_name,
)
from reseed.seeds import digest
from reseed.spec.analysis import MatchingSpec, StabilitySpec
from reseed.stability import curves, fdr, shares, unseen
from reseed.stability.curves import components, distance_from_init
from reseed.stability.families import families, family_summary
from reseed.stability.fdr import PAIRS_VERSION, at_the_end, pair_values, trend
from reseed.stability.graph import Finds, finds
from reseed.stability.group import Given, read_group
from reseed.stability.intervals import occasions
from reseed.stability.latents import VERSION, by_count, by_frequency, latent_table, shared_edges
from reseed.stability.nulls.names import COVARIANCE, UNTRAINED
from reseed.stability.nulls.weights import CovarianceNull
from reseed.stability.shares import PairTable
from reseed.stability.structure import structure_summary, structures, verdicts
from reseed.stability.summary import (
    fits,
    found_at_fdr,
    headline,
    latent_tests,
    reconstruction,
    strata_table,
)
from reseed.store import Store, json_bytes, parquet_bytes


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
    together = [cofiring_name(pair) for pair in pairs]
    inputs += [store.checksum(name) for name in together if store.has(name)]
    versions = [VERSION, PAIRS_VERSION]
    return digest([inputs, matching.digest(), spec.digest(), list(group.steps), *versions])


Writer = Callable[[str, pl.DataFrame], None]


def _assess(
    group: Group, matching: MatchingSpec, spec: StabilitySpec, store: Store, made_from: str
) -> None:
    given = read_group(group, spec, store)
    end = given.tables[group.steps[-1]]
    edges = shared_edges(end, matching.tau)
    members = families(edges)
    found = finds(edges, given.pairs, given.sizes)
    nulls = _nulls(group, given, spec, store)
    tests = latent_tests(given.independent(group.steps[-1]), nulls, given.strata)
    latents, fitted = latent_table(
        given.facts, end, given.firing, found, members, tests, given.bins, spec.dense_rate
    )
    beyond = [one for one in structures(group.runs, store) if one.pair in given.pairs]
    latents = verdicts(latents, beyond)
    summary: dict[str, Any] = {
        "label": group.label,
        "runs": list(group.runs),
        "tokens": group.steps[-1] * group.batch,
        "counts": _counts(latents, len(end)),
        "reconstruction": reconstruction(
            [store.document(evidence_name(run), "reconstruction.json") for run in group.runs]
        ),
        "distance_from_init": dict(distance_from_init(latents)),
    }
    with store.piece(stability_name(group.name), made_from) as folder:

        def write(name: str, frame: pl.DataFrame) -> None:
            (folder / f"{name}.parquet").write_bytes(parquet_bytes(frame))

        write("latents", latents)
        write("families", members)
        write("frequency", by_frequency(latents))
        if end:
            numbers = _shares(group, given, nulls, latents, matching.tau, write)
            numbers["ceiling_same_run"] = _ceiling(group, store, matching.tau)
            whole = family_summary(latents, edges)
            summary |= {"independent": _independent(given), "headline": numbers}
            summary |= {"families": whole, "reproducibility": fits(fitted)}
            summary |= _over_seeds(given, found, latents, whole["triangle_closure"], write)
            start = given.tables[group.steps[0]]
            summary["components"] = components(
                end, start, given.design, given.strata["live"], matching.tau
            )
            summary["structure"] = structure_summary(latents, beyond)
            summary["certificates"] = _certificates(group, store)
        (folder / "summary.json").write_bytes(json_bytes(summary))


def _independent(given: Given) -> dict[str, Any]:
    trials = {sum(run in pair for pair in given.pairs) for run in given.sizes}
    return {"pairs": len(given.pairs), "they": given.kind, "trials": max(trials)}


def _shares(
    group: Group,
    given: Given,
    nulls: Mapping[str, Sequence[PairTable]],
    latents: pl.DataFrame,
    tau: float,
    write: Writer,
) -> dict[str, Any]:
    """Shares, cosines and trend; gives the headline numbers."""
    end, start = (given.independent(step) for step in (group.steps[-1], group.steps[0]))
    table = shares.share_table(end, start, nulls, given.strata, given.design)
    write("shares", table)
    measured = pair_values({s * group.batch: given.independent(s) for s in group.steps}, tau)
    write("trend", trend(measured, given.design))
    last = at_the_end(end, nulls["all"], given.strata["live"], tau)
    tokens = pl.lit(group.steps[-1] * group.batch, pl.Int64).alias("tokens")
    write("pairs", pl.concat([measured, last.select("run_a", "run_b", tokens, "measure", "value")]))
    write("cosines", _histograms(end, start, nulls["all"]))
    both = {"end": end, "start": start, "nulls": nulls["all"]}
    numbers = headline(table, tau, **both, members=given.strata["all"], design=given.design)
    for name, measure in (("match_at_fdr", fdr.MATCHED), ("nearest_at_fdr", fdr.NEAREST)):
        numbers[name] = found_at_fdr(end, start, nulls, given.strata, given.design, measure)
    write("strata", strata_table(numbers, latents, len(given.facts)))
    return numbers


def _over_seeds(
    given: Given,
    found: Mapping[str, Finds],
    latents: pl.DataFrame,
    closure: float | None,
    write: Writer,
) -> dict[str, Any]:
    """Curves over runs: N of M, only in one, accumulation."""
    write("reproducibility", by_count(latents))
    write("n_of_m", curves.n_of_m(found, given.strata))
    once, laws = curves.only_in_one_table(found, given.strata, given.design)
    write("only_in_one", once)
    counts = unseen.incidences(latents, occasions(given.design))
    grown = unseen.accumulation(counts)
    write("accumulation", pl.DataFrame({"m": np.arange(1, len(grown) + 1), "features": grown}))
    estimates = unseen.estimate(counts)
    warnings = unseen.warnings(estimates, closure, len(given.facts))
    return {"only_in_one": laws, "unseen": asdict(estimates) | {"warnings": warnings}}


def _nulls(
    group: Group, given: Given, spec: StabilitySpec, store: Store
) -> dict[str, list[PairTable]]:
    """Covariance-matched draws for all latents and for the live ones; other strata are too few."""
    if not given.pairs:
        return {}
    saes = {run: load_snapshot(store, run, group.steps[-1]) for run in group.runs}
    out: dict[str, list[PairTable]] = {}
    for stratum in ("all", "live"):
        keep = given.strata[stratum]
        if stratum == "live" and all(k.all() for k in keep.values()):
            out["live"] = out["all"]
            continue
        nulls = {
            run: CovarianceNull(Views(sae.W_enc[keep[run]], sae.W_dec[keep[run]]))
            for run, sae in saes.items()
            if keep[run].sum() > 1
        }
        pairs = [p for p in given.pairs if all(run in nulls for run in p)]
        out[stratum] = [
            draw for pair in pairs for draw in shares.draw_nulls(pair, nulls, spec.null_draws)
        ]
    return out


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
