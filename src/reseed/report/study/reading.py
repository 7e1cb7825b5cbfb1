"""What the page needs of a store, read and selected; pieces are named as by their stages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.store import Store

KINDS = ("reproducible", "partly", "orphan")

_SHOWN = 12
"""Explained latents shown of each kind."""

_CONTEXTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One explained latent."""

    row: dict[str, Any]
    """of explanations.parquet"""
    scores: dict[str, dict[str, Any]]
    """scorer to its row of scores.parquet"""
    contexts: list[dict[str, Any]]
    """rows of contexts.parquet, strongest first"""
    partner: str | None
    """what the member of its family in another run was explained as"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpretationFacts:
    """What there is of a group."""

    says: str
    said: list[Said]
    failed: int
    """latents without explanation"""
    comparison: dict[str, Any] | None
    """of scores/GROUP/about.json; None if nothing was scored"""
    functional: str | None
    """what dropping latents costs, in words"""


def read_interpretation(
    store: Store, group: str, latents: pl.DataFrame
) -> InterpretationFacts | None:
    """What was explained of a group; None if nothing was.

    Args:
        store: of the study.
        group: its name.
        latents: its table of latents.
    """
    piece, scores = f"explanations/{group}", f"scores/{group}"
    if not store.has(piece):
        return None
    explained = store.table(piece, "explanations.parquet")
    about = store.document(piece, "about.json")
    comparison, functional, rows = (
        None,
        None,
        pl.DataFrame(schema={"run": pl.String, "latent": pl.Int64}),
    )
    if store.has(scores):
        scored = store.document(scores, "about.json")
        comparison, functional = scored["comparison"], scored["functional"]["says"]
        rows = store.table(scores, "scores.parquet").filter(pl.col("control").is_null())
    return InterpretationFacts(
        says=about["says"],
        said=_said(store, explained, rows, latents),
        failed=len(explained.filter(pl.col("explanation").is_null())),
        comparison=comparison,
        functional=functional,
    )


def _said(
    store: Store, explained: pl.DataFrame, scores: pl.DataFrame, latents: pl.DataFrame
) -> list[Said]:
    families = {(r, n): f for r, n, f in latents.select("run", "latent", "family").iter_rows()}
    partners = {
        families.get((row["run"], row["latent"])): row["explanation"]
        for row in explained.filter(kind="partner").iter_rows(named=True)
    }
    shown = explained.filter(pl.col("kind").is_in(list(KINDS))).group_by(
        "kind", maintain_order=True
    )
    out: list[Said] = []
    for row in shown.head(_SHOWN).iter_rows(named=True):
        mine = scores.filter(run=row["run"], latent=row["latent"])
        family = families.get((row["run"], row["latent"]))
        contexts = store.table(f"evidence/{row['run']}", "contexts.parquet")
        out.append(
            Said(
                row=row,
                scores={one["scorer"]: one for one in mine.iter_rows(named=True)},
                contexts=contexts.filter(latent=row["latent"]).head(_CONTEXTS).to_dicts(),
                partner=None if family is None else partners.get(family),
            )
        )
    return out


SUMMARY = "summary.json"

SPEC = "study.toml"

CARDS = 12
"""Latents shown at each end."""

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

    @property
    def seeds(self) -> str:
        """How it is called inside its group."""
        return f"init {self.spec['init_seed']}, data {self.spec['data_seed']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A latent that is shown with its text."""

    latent: dict[str, Any]
    """a row of latents.parquet"""
    contexts: list[dict[str, Any]]
    """rows of contexts.parquet, strongest first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """Finished runs that differ in nothing but their seeds."""

    summary: dict[str, Any]
    runs: list[RunFacts]
    tables: dict[str, pl.DataFrame]
    most: list[Card]
    least: list[Card]
    interpretation: InterpretationFacts | None = None

    @property
    def label(self) -> str:
        """As shown to people."""
        return str(self.summary["label"])

    @property
    def paired(self) -> bool:
        """Whether there are at least two runs; one alone says nothing about what comes back."""
        return "headline" in self.summary


def read_summary(store: Store) -> dict[str, Any]:
    """The headline numbers of the study.

    Raises:
        StoreError: if the study has not come this far.
    """
    return store.read_json(SUMMARY)


def read_spec_text(store: Store) -> str | None:
    """The study's TOML as it was run; None if the study was not made from a file."""
    path = store.path(SPEC)
    return path.read_text("utf-8") if path.exists() else None


def read_failures(store: Store, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Id and reason, with the step, of the runs that failed."""
    out: list[tuple[str, str]] = []
    for run, reason in summary["runs"]["failed"].items():
        file = f"runs/{run}.failed.json"
        step = store.read_json(file)["step"] if store.path(file).exists() else None
        out.append((run, reason if step is None else f"step {step:,}: {reason}"))
    return out


def read_cells(store: Store, summary: dict[str, Any]) -> pl.DataFrame | None:
    """Agreement of every group at every snapshot; None where groups were not compared.

    Raises:
        StoreError: if the piece is missing or damaged.
    """
    return store.table("stability/factors", "cells.parquet") if summary.get("factors") else None


def read_group(store: Store, summary: dict[str, Any]) -> GroupFacts:
    """Everything about a group.

    Args:
        store: of the study.
        summary: one of the summary's groups.

    Raises:
        StoreError: if a piece is missing or damaged.
    """
    piece = f"stability/{summary['group']}"
    names = _TABLES + (_PAIR_TABLES if "headline" in summary else ())
    tables = {name: store.table(piece, f"{name}.parquet") for name in names}
    most, least = select_most(tables["latents"]), select_least(tables["latents"])
    if "headline" not in summary:
        most = least = tables["latents"].clear()
    texts = _contexts(store, pl.concat([most, least]))
    return GroupFacts(
        summary=summary,
        runs=[_run(store, run) for run in summary["runs"]],
        tables=tables,
        most=_cards(most, texts),
        least=_cards(least, texts),
        interpretation=read_interpretation(store, summary["group"], tables["latents"]),
    )


def select_most(latents: pl.DataFrame) -> pl.DataFrame:
    """Found in most other runs, then the highest cosine; one latent of a family.

    Without the last rule one feature would fill the cards, once for each run that found it.
    """
    order = ["n_matched", "max_decoder_cos", "run", "latent"]
    found = latents.filter(pl.col("n_matched") > 0).sort(
        order, descending=[True, True, False, False], nulls_last=True
    )
    first = pl.col("family").is_null() | pl.col("family").is_first_distinct()
    return found.filter(first).head(CARDS)


def select_least(latents: pl.DataFrame) -> pl.DataFrame:
    """Live, found in no other run, the lowest cosine."""
    return (
        latents.filter("alive", pl.col("n_matched") == 0)
        .sort(["max_decoder_cos", "run", "latent"], nulls_last=True)
        .head(CARDS)
    )


def _run(store: Store, run: str) -> RunFacts:
    return RunFacts(
        id=run,
        spec=store.document(f"runs/{run}", "spec.json"),
        metrics=store.table(f"runs/{run}", "metrics.parquet"),
        reconstruction=store.document(f"evidence/{run}", "reconstruction.json"),
    )


def _contexts(store: Store, chosen: pl.DataFrame) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Contexts of the chosen latents only; a run's table can be large."""
    out: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in sorted(set(chosen["run"])):
        wanted: Iterable[int] = chosen.filter(run=run)["latent"].to_list()
        table = store.table(f"evidence/{run}", "contexts.parquet")
        for row in table.filter(pl.col("latent").is_in(list(wanted))).iter_rows(named=True):
            out.setdefault((run, row["latent"]), []).append(row)
    return out


def _cards(chosen: pl.DataFrame, texts: dict[tuple[str, int], list[dict[str, Any]]]) -> list[Card]:
    return [
        Card(latent=row, contexts=texts.get((row["run"], row["latent"]), []))
        for row in chosen.iter_rows(named=True)
    ]
