"""The door of stability: from matches, weights and evidence to shares, families and latents."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from reseed.spec.analysis import StabilitySpec
from reseed.spec.statistics import (
    AssignmentSummary,
    Counts,
    Headline,
    Independent,
    OutlyingRun,
)
from reseed.spec.summary import Factors, GroupSummary, document_of
from reseed.stability import fdr, shares
from reseed.stability.decoys import decoys_in_group
from reseed.stability.factors.components import components, distance_from_init
from reseed.stability.factors.design import compare_groups
from reseed.stability.fdr import PAIRS_VERSION, at_the_end, pair_values, trend
from reseed.stability.group import GroupData, RunMatches, occasions, read_group, run_matches
from reseed.stability.intervals import in_a_circle
from reseed.stability.latents import VERSION, by_count, by_frequency, latent_table, shared_edges
from reseed.stability.notes import feature_warnings
from reseed.stability.nulls import COVARIANCE, UNTRAINED, CovarianceNull
from reseed.stability.over_seeds import curves, unseen
from reseed.stability.over_seeds.families import families, family_summary
from reseed.stability.over_seeds.outlying import outlying_runs
from reseed.stability.shares import Chance, PairTable
from reseed.stability.structure import make_structures, structure_summary, structures, verdicts
from reseed.stability.summary import (
    Nulls,
    contributions,
    fits,
    found_at_fdr,
    in_itself,
    latent_tests,
    mean_numbers,
    numbers_at,
    reconstruction,
    strata_table,
)
from reseed.store import Store
from reseed.study import Study

Files = dict[str, Any]
"""File of a piece to its content."""


def stage(study: Study, events: Events, only: Collection[str] | None = None) -> Factors | None:
    """Make the pieces `structure/A--B`, `stability/GROUP`, `across/A--B`, `stability/factors`.

    Args:
        study: whose runs are matched and have evidence; groups of one run get firing and weights
            only.
        events: progress.
        only: names of the pieces of pairs and groups that may be made; all if left out.

    Returns:
        How the groups compare; None with fewer than two, or where `only` is given.

    Raises:
        StoreError: if a match or a run is missing or damaged.
    """
    groups = study.all_groups()
    make_structures(groups, study.spec.matching, study.store, events, only)
    groups = [group for group in groups if only is None or stability_name(group.name) in only]
    with events.task("stability", len(groups), "groups") as task:
        for group in groups:
            _make(group, study)
            task.advance(1)
    where = study.spec.matching, study.store, events
    return compare_groups(study.groups(), *where) if only is None else None


def _make(group: Group, study: Study) -> None:
    spec, matching, store = study.spec.stability, study.spec.matching, study.store
    pairs = pairs_of(group.runs)
    pieces = [pair_name(pair) for pair in pairs] + [structure_name(pair) for pair in pairs]
    pieces += [evidence_name(run) for run in group.runs]
    pieces += [weights_name(run) for run in group.runs]
    pieces += [name for pair in pairs if store.has(name := cofiring_name(pair))]
    inputs = [store.checksum(name) for name in pieces]
    versions = [VERSION, PAIRS_VERSION]
    made_from = [inputs, matching.digest(), spec.digest(), list(group.steps), *versions]
    store.make(
        stability_name(group.name),
        made_from,
        lambda: _statistics(group, read_group(group, spec, store), spec, matching.tau, store),
    )


def _statistics(
    group: Group, data: GroupData, spec: StabilitySpec, tau: float, store: Store
) -> Files:
    end = data.tables[group.steps[-1]]
    edges = shared_edges(end, tau)
    members = families(edges)
    matches = run_matches(edges, data.pairs, data.sizes)
    nulls = _nulls(group, data, spec, tau, store)
    tests = latent_tests(data.independent(group.steps[-1]), nulls, data.strata)
    latents, fitted = latent_table(
        data.facts, end, data.firing, matches, members, tests, data.bins, spec.dense_rate
    )
    beyond = [table for table in structures(group.runs, store) if table.pair in data.pairs]
    latents = verdicts(latents, beyond)
    files: Files = {
        "latents.parquet": latents,
        "families.parquet": members,
        "frequency.parquet": by_frequency(latents),
    }
    numbers: dict[str, Any] = {
        "label": group.label,
        "runs": list(group.runs),
        "tokens": group.steps[-1] * group.batch,
        "counts": _counts(latents, len(end)),
        "reconstruction": reconstruction(
            [store.document(evidence_name(run), "reconstruction.json") for run in group.runs]
        ),
        "distance_from_init": distance_from_init(latents),
    }
    if end:
        start = data.tables[group.steps[0]]
        numbers |= {
            "independent": _independent(data),
            "outlying": _outlying(data, group.steps[-1], tau),
            "headline": _headline(group, data, nulls, latents, tau, store, files),
            "families": (of_families := family_summary(latents, edges)),
            "reproducibility": fits(fitted),
            **_over_seeds(data, matches, latents, of_families.triangle_closure, files),
            "components": components(end, start, data.design, data.strata["live"], tau),
            "structure": structure_summary(latents, beyond),
            "contributions": contributions(data.firing, data.pairs, data.design),
            "certificates": _certificates(group, store),
        }
    return {**files, "summary.json": document_of(GroupSummary(**numbers))}


def _outlying(data: GroupData, step: int, tau: float) -> list[OutlyingRun]:
    tables = data.independent(step)
    each = [shares.share_of(t, measures.SHARED, data.strata["all"], tau) for t in tables]
    latents = float(np.mean(list(data.sizes.values())))
    return outlying_runs([table.pair for table in tables], np.array(each), latents)


def _independent(data: GroupData) -> Independent:
    trials = {sum(run in pair for pair in data.pairs) for run in data.sizes}
    return Independent(pairs=len(data.pairs), they=data.kind, trials=max(trials))


def _headline(
    group: Group,
    data: GroupData,
    nulls: Nulls,
    latents: pl.DataFrame,
    tau: float,
    store: Store,
    files: Files,
) -> Headline:
    """Shares, cosines and trend into `files`; gives the headline numbers."""
    end, start = (data.independent(step) for step in (group.steps[-1], group.steps[0]))
    table = shares.share_table(end, start, nulls, data.strata, data.design)
    by_step = {step * group.batch: data.independent(step) for step in group.steps}
    measured = pair_values(by_step, tau)
    last = at_the_end(end, nulls["all"].decoys, data.strata["live"], tau)
    tokens = pl.lit(group.steps[-1] * group.batch, pl.Int64).alias("tokens")
    last = last.select("run_a", "run_b", tokens, "measure", "value")
    numbers = numbers_at(table, tau)
    numbers |= mean_numbers(end, start, nulls["all"].draws, data.strata["all"], data.design)
    for name, measure in (("match_at_fdr", fdr.MATCHED), ("nearest_at_fdr", fdr.NEAREST)):
        numbers[name] = found_at_fdr(end, start, nulls, data.strata, data.design, measure)
    shared, matched = numbers[measures.SHARED.id], numbers["match_at_fdr"]
    files |= {
        "shares.parquet": table,
        "trend.parquet": trend(measured, data.design, float(np.mean(list(data.sizes.values())))),
        "pairs.parquet": pl.concat([measured, last]),
        "cosines.parquet": _histograms(end, start, nulls["all"].draws),
        "strata.parquet": strata_table(shared, matched, latents, len(data.facts)),
    }
    return Headline(
        tau=tau,
        in_itself={stratum: in_itself(null) for stratum, null in nulls.items() if null.decoys},
        null_kinds={stratum: list(null.kinds) for stratum, null in nulls.items()},
        ceiling_same_run=_ceiling(group, store, tau),
        **numbers,
    )


def _over_seeds(
    data: GroupData,
    matches: Mapping[str, RunMatches],
    latents: pl.DataFrame,
    closure: float | None,
    files: Files,
) -> dict[str, Any]:
    """Curves over runs into `files`: N of M, only in one, accumulation; gives their numbers."""
    once, laws = curves.only_in_one_table(matches, data.strata, data.design)
    counts = unseen.incidences(latents, occasions(data.design))
    grown = unseen.accumulation(counts)
    files |= {
        "reproducibility.parquet": by_count(latents),
        "n_of_m.parquet": curves.n_of_m(matches, data.strata),
        "only_in_one.parquet": once,
        "accumulation.parquet": pl.DataFrame(
            {"m": np.arange(1, len(grown) + 1), "features": grown}
        ),
    }
    features = unseen.estimate(counts)
    warnings = feature_warnings(features, closure, len(data.facts))
    return {"only_in_one": laws, "unseen": features.model_copy(update={"warnings": warnings})}


def _nulls(group: Group, data: GroupData, spec: StabilitySpec, tau: float, store: Store) -> Nulls:
    """Chance for all latents and for the live ones; other strata are too few."""
    out: dict[str, Chance] = {}
    for stratum in ("all", "live") if data.pairs else ():
        keep = data.strata[stratum]
        if stratum == "live" and all(members.all() for members in keep.values()):
            out["live"] = out["all"]
            continue
        nulls: dict[str, CovarianceNull] = {}
        for run, members in keep.items():
            if members.sum() > 1:
                sae = load_snapshot(store, run, group.steps[-1])
                nulls[run] = CovarianceNull(Views(sae.W_enc[members], sae.W_dec[members]))
                del sae  # the last one would be held while chance is made
        pairs = [pair for pair in data.pairs if all(run in nulls for run in pair)]
        best = decoys_in_group(nulls, pairs, stratum)
        kinds = {pair: best[pair].heaviest(tau) for pair in pairs}
        draws = [
            draw
            for pair in in_a_circle(pairs)
            for draw in shares.draw_nulls(pair, nulls, spec.null_draws, kinds[pair])
        ]
        out[stratum] = Chance(draws, best, sorted(set(kinds.values())))
    return out


def _histograms(
    end: Sequence[PairTable], start: Sequence[PairTable], nulls: Sequence[PairTable]
) -> pl.DataFrame:
    kinds = {"observed": end, UNTRAINED: start, COVARIANCE: nulls}
    tables = {kind: [pair.table for pair in pairs] for kind, pairs in kinds.items()}
    return pl.concat([shares.histogram(kind, table) for kind, table in tables.items()])


def _ceiling(group: Group, store: Store, tau: float) -> float:
    """Shared share of the first run with itself: what the measurement gives for full agreement."""
    sae = load_snapshot(store, group.runs[0], group.steps[-1])
    views = Views(sae.W_enc, sae.W_dec)
    table = compare(views, views).table
    score = measures.scores(table.filter(pl.col("side") == "a"), measures.SHARED)
    return float(measures.share_at(score, np.array([tau]), strict=False)[0])


def _counts(latents: pl.DataFrame, pairs: int) -> Counts:
    by_run = latents.group_by("run", maintain_order=True)
    sums = by_run.agg(pl.len(), pl.col("alive").sum(), pl.col("dense").sum())
    return Counts(
        runs=len(sums),
        pairs=pairs,
        latents=int(sums["len"][0]),
        live=sums["alive"].to_list(),
        dead=(sums["len"] - sums["alive"]).to_list(),
        dense=sums["dense"].to_list(),
    )


def _certificates(group: Group, store: Store) -> AssignmentSummary:
    """How far the worst assignment of the end of training can be from the best."""
    last = str(group.steps[-1])
    proofs = [
        store.document(pair_name(pair), "certificates.json")[last][view]
        for pair in pairs_of(group.runs)
        for view in Views._fields
    ]
    return AssignmentSummary(
        assignments=len(proofs),
        optimal=sum(proof["optimal"] for proof in proofs),
        largest_gap=max(proof["gap"] for proof in proofs),
    )
