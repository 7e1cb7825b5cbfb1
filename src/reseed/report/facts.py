"""What the page of a study needs of its store, read and selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.report.latents.partners import Catalogue, read_listing
from reseed.runs import (
    FACTORS,
    evidence_name,
    explanations_name,
    failure_file,
    run_name,
    scores_name,
    stability_name,
)
from reseed.spec.interpretation import KINDS, PARTNER
from reseed.spec.summary import StudyGroup, Summary, read_record
from reseed.store import Store
from reseed.study import SUMMARY_FILE

CARDS = 12
"""Latents shown at each end, and explained latents of each kind."""

_TEXTS = 3
"""Contexts of an explained latent."""

_TABLES = ("latents", "frequency")

_PAIR_TABLES = (
    "shares", "trend", "cosines", "n_of_m", "strata", "reproducibility", "only_in_one",
    "accumulation",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A finished run."""

    id: str
    spec: dict[str, Any]
    metrics: pl.DataFrame
    """step, tokens, fvu, l0, dead of every step"""
    reconstruction: dict[str, Any]
    """rows, fvu, l0 on held-out tokens"""
    seeds: str
    """how it is called inside its group: by the seeds in which the group's runs differ"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A latent that is shown with its text."""

    row: dict[str, Any]
    """of latents.parquet or explanations.parquet"""
    contexts: list[dict[str, Any]]
    """rows of contexts.parquet, strongest first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin(Card):
    """A latent that is shown beside its nearest in another run."""

    other: str | None
    """run of the nearest; None where matches are not there"""
    partner: int
    cosine: float
    """of decoder rows"""
    partner_contexts: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained(Card):
    """A latent that is shown with what it was explained as."""

    scores: dict[str, float | None]
    """by scorer"""
    partner: str | None
    """what the member of its family in another run was explained as"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpretationFacts:
    """What was explained of a group, and how the explanations did."""

    says: str
    latents: list[Explained]
    failed: int
    """latents without explanation"""
    comparison: dict[str, Any] | None
    """of the scores; None if nothing was scored"""
    ablation: str | None
    """what ablating latents costs, in words"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """Finished runs that differ in nothing but their seeds."""

    summary: StudyGroup
    runs: list[RunFacts]
    tables: dict[str, pl.DataFrame]
    most: list[Twin]
    least: list[Twin]
    listing: Catalogue | None
    """of all latents; None with one run"""
    near_miss: float | None
    """median over live latents of the best decoder cosine in other runs"""
    interpretation: InterpretationFacts | None = None

    @property
    def label(self) -> str:
        """As shown to people."""
        return self.summary.label


def read_study(store: Store) -> Summary:
    """The headline numbers of all groups."""
    return read_record(Summary, store.read_json(SUMMARY_FILE), str(store.path(SUMMARY_FILE)))


def read_failures(store: Store, summary: Summary) -> dict[str, str]:
    """Id to reason, with the step, of the runs that failed."""
    out = dict(summary.runs.failed)
    for run, reason in out.items():
        if store.path(failure_file(run)).exists():
            out[run] = f"step {store.read_json(failure_file(run))['step']:,}: {reason}"
    return out


def read_cells(store: Store, summary: Summary) -> pl.DataFrame | None:
    """Agreement of every group at every snapshot; None where groups were not compared."""
    return store.table(FACTORS, "cells.parquet") if summary.factors else None


def read_group(store: Store, summary: StudyGroup) -> GroupFacts:
    """Everything about one of the summary's groups."""
    paired = summary.headline is not None
    piece = stability_name(summary.group)
    names = _TABLES + (_PAIR_TABLES if paired else ())
    tables = {name: store.table(piece, f"{name}.parquet") for name in names}
    latents = tables["latents"]
    chosen = latents if paired else latents.clear()
    runs = _runs(store, summary.runs)
    listing = _listing(store, summary, runs, len(latents)) if paired else None
    return GroupFacts(
        summary=summary,
        runs=runs,
        tables=tables,
        most=_twins(store, select_most(chosen), listing),
        least=_twins(store, select_least(chosen), listing),
        listing=listing,
        near_miss=_median(chosen.filter("alive")["max_decoder_cos"]),
        interpretation=_interpretation(store, summary.group, latents),
    )


def _median(values: pl.Series) -> float | None:
    middle = values.median()
    return middle if isinstance(middle, float) else None


def _listing(store: Store, summary: StudyGroup, runs: list[RunFacts], latents: int) -> Catalogue:
    seeds = {run.id: (run.spec["init_seed"], run.spec["data_seed"]) for run in runs}
    apart = summary.independent is not None and summary.independent.they == "share neither seed"
    return read_listing(store, seeds, latents, apart=apart)


def select_most(latents: pl.DataFrame) -> pl.DataFrame:
    """Found in most other runs, then the highest cosine; one latent of a family.

    Without the last rule one feature would fill the cards, once for each run that found it. Where
    none was found again, the live ones that came nearest.
    """
    order = ["n_matched", "max_decoder_cos", "run", "latent"]
    found = latents.filter(pl.col("n_matched") > 0)
    ordered = (found if len(found) else latents.filter("alive")).sort(
        order, descending=[True, True, False, False], nulls_last=True
    )
    first = pl.col("family").is_null() | pl.col("family").is_first_distinct()
    return ordered.filter(first).head(CARDS)


def select_least(latents: pl.DataFrame) -> pl.DataFrame:
    """Live, found in no other run, the lowest cosine."""
    return (
        latents.filter("alive", pl.col("n_matched") == 0)
        .sort(["max_decoder_cos", "run", "latent"], nulls_last=True)
        .head(CARDS)
    )


def _runs(store: Store, runs: Sequence[str]) -> list[RunFacts]:
    specs = [store.document(run_name(run), "spec.json") for run in runs]
    kinds = [k for k in ("init", "data") if len({spec[f"{k}_seed"] for spec in specs}) > 1]
    return [
        RunFacts(
            id=run,
            spec=spec,
            metrics=store.table(run_name(run), "metrics.parquet"),
            reconstruction=store.document(evidence_name(run), "reconstruction.json"),
            seeds=", ".join(f"{kind} {spec[f'{kind}_seed']}" for kind in kinds or ["init"]),
        )
        for run, spec in zip(runs, specs, strict=True)
    ]


Texts = dict[tuple[str, int], list[dict[str, Any]]]
"""Run and latent to its contexts."""


def _contexts(store: Store, chosen: Sequence[tuple[str, int]]) -> Texts:
    """Contexts of the chosen latents only; a run's table can be large."""
    out: Texts = {}
    for run in sorted({run for run, _ in chosen}):
        latents = [latent for of, latent in chosen if of == run]
        table = _places(store, run)
        for row in table.filter(pl.col("latent").is_in(latents)).iter_rows(named=True):
            out.setdefault((run, row["latent"]), []).append(row)
    return out


def _places(store: Store, run: str) -> pl.DataFrame:
    """The contexts of a run; of one that sees pictures, its places with the picture of each."""
    piece = evidence_name(run)
    if not store.holds(piece, "crops.parquet"):
        return store.table(piece, "contexts.parquet")
    pictures = store.table(piece, "pictures.parquet")
    return store.table(piece, "crops.parquet").join(
        pictures, on="sample", how="left", maintain_order="left"
    )


def _twins(store: Store, chosen: pl.DataFrame, listing: Catalogue | None) -> list[Twin]:
    """Each chosen latent with its nearest in another run, and the text of both."""
    if listing is None:
        return []
    nearest = listing.partners.unique(["run", "latent"], keep="first", maintain_order=True)
    rows = chosen.join(nearest, on=["run", "latent"], how="left", maintain_order="left")
    both = [*rows.select("run", "latent").rows(), *rows.select("other", "partner").rows()]
    texts = _contexts(store, [latent for latent in both if latent[0] is not None])
    beside = ("other", "partner", "cosine")
    return [
        Twin(
            row=row,
            contexts=texts.get((row["run"], row["latent"]), []),
            partner_contexts=texts.get((row["other"], row["partner"]), []),
            **{name: row[name] for name in beside},
        )
        for row in rows.iter_rows(named=True)
    ]


def _interpretation(store: Store, group: str, latents: pl.DataFrame) -> InterpretationFacts | None:
    """What was explained of a group; None if nothing was."""
    if not store.has(explanations_name(group)):
        return None
    explained = store.table(explanations_name(group), "explanations.parquet")
    comparison = ablation = None
    scores = pl.DataFrame(schema={"run": pl.String, "latent": pl.Int64})
    if store.has(scores_name(group)):
        about = store.document(scores_name(group), "about.json")
        comparison, ablation = about["comparison"], about["functional"]["says"]
        scores = store.table(scores_name(group), "scores.parquet")
        scores = scores.filter(pl.col("control").is_null())
    return InterpretationFacts(
        says=store.document(explanations_name(group), "about.json")["says"],
        latents=_explained(store, explained, scores, latents),
        failed=explained["explanation"].null_count(),
        comparison=comparison,
        ablation=ablation,
    )


def _explained(
    store: Store, explained: pl.DataFrame, scores: pl.DataFrame, latents: pl.DataFrame
) -> list[Explained]:
    families = latents.select("run", "latent", "family")
    explained = explained.join(families, on=["run", "latent"], how="left", maintain_order="left")
    partners = dict(explained.filter(kind=PARTNER).select("family", "explanation").iter_rows())
    kinds = explained.filter(pl.col("kind").is_in(KINDS)).group_by("kind", maintain_order=True)
    shown = kinds.head(CARDS)
    texts = _contexts(store, shown.select("run", "latent").rows())
    out: list[Explained] = []
    for row in shown.iter_rows(named=True):
        latent = (row["run"], row["latent"])
        own = scores.filter(run=latent[0], latent=latent[1])
        out.append(
            Explained(
                row=row,
                scores={score["scorer"]: score["value"] for score in own.iter_rows(named=True)},
                contexts=texts.get(latent, [])[:_TEXTS],
                partner=None if row["family"] is None else partners.get(row["family"]),
            )
        )
    return out
