"""How alike latents of several runs are: cosines, firing together, and what chance reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl

from reseed.errors import StoreError
from reseed.explore.tables.database import Database
from reseed.explore.weights import cosines_of
from reseed.runs import Group, cofiring_name, stability_name

_REACHED = 0.99
"""Share of random latents below what is shown as chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Two of the latents beside each other."""

    a: tuple[str, int]
    b: tuple[str, int]
    decoder: float
    encoder: float
    fires: float | None
    """correlation of activations on held-out tokens, for matched latents"""
    fires_null: float | None


def between(database: Database, members: Sequence[tuple[str, int]]) -> list[Between]:
    """Every two of these latents, each `(run, latent)`."""
    store = database.folder.store
    if not database.folder.has_weights:
        return _matched(database, members)
    try:
        decoder = cosines_of(store, members, "W_dec")
        encoder = cosines_of(store, members, "W_enc")
    except StoreError:
        return []  # weights are gone or differ in shape; what was measured from them is shown
    pairs = list(combinations(range(len(members)), 2))
    fires = _fire_together(database, [(members[i], members[j]) for i, j in pairs])
    return [
        Between(
            a=members[i], b=members[j], decoder=float(decoder[i, j]), encoder=float(encoder[i, j]),
            fires=fires[at][0], fires_null=fires[at][1],
        )
        for at, (i, j) in enumerate(pairs)
    ]  # fmt: skip


def _matched(database: Database, members: Sequence[tuple[str, int]]) -> list[Between]:
    """Of the first latent with those that are its counterparts, as they were matched."""
    (run, latent), out = members[0], list[Between]()
    for other in members[1:]:
        table = database.folder.match(run, other[0])
        rows = table and database.rows(
            "SELECT decoder_cos, encoder_cos_at_decoder AS encoder_cos FROM "
            f"{table[0]} WHERE side::VARCHAR = ? AND latent = ? AND decoder_match = ?",
            [table[1], latent, other[1]],
        )
        for row in rows or ():
            cosines = {"decoder": row["decoder_cos"], "encoder": row["encoder_cos"]}
            out.append(Between(a=members[0], b=other, fires=None, fires_null=None, **cosines))
    return out


def _fire_together(
    database: Database, pairs: Sequence[tuple[tuple[str, int], tuple[str, int]]]
) -> list[tuple[float | None, float | None]]:
    """How activations of each two correlate, and of its null; None where they are not matched."""
    parts = list[str]()
    out: list[tuple[float | None, float | None]] = [(None, None)] * len(pairs)
    for at, (a, b) in enumerate(pairs):
        table = database.folder.pair(cofiring_name, "matched.parquet", a[0], b[0])
        if table is not None:
            first, second = (a, b) if table[1] == "a" else (b, a)
            parts.append(
                f"SELECT {at} AS at, act_corr, null_corr FROM {table[0]} "
                f"WHERE latent_a = {first[1]:d} AND latent_b = {second[1]:d}"
            )
    for row in database.rows(" UNION ALL ".join(parts)) if parts else ():
        out[row["at"]] = row["act_corr"], row["null_corr"]
    return out


def chance(database: Database, group: Group, view: str) -> float | None:
    """The cosine to their counterparts that 1 in 100 covariance-matched random latents reach."""
    piece = stability_name(group.name)
    if not database.folder.has(piece, "cosines.parquet"):
        return None
    table = database.folder.store.table(piece, "cosines.parquet")
    null = table.filter(pl.col("kind").str.starts_with("N2"), pl.col("view") == view).sort("bin")
    below = null["latents"].cum_sum()
    if not len(null) or not below[-1]:
        return None
    return float(null.filter(below >= _REACHED * below[-1])["bin"][0])
