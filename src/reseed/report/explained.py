"""What the page needs of explanations and scores, read and selected."""

from __future__ import annotations

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
