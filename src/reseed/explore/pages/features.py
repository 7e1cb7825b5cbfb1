"""One feature over the runs of its group: members of its family, or its nearest, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from reseed.errors import SpecError, StoreError
from reseed.explore.tables.database import Database
from reseed.explore.tables.layout import Row
from reseed.explore.weights import Matrix, cosines_of, nearest_of
from reseed.report.html import decimals, percent, rate
from reseed.runs import Group, cofiring_name, stability_name, structure_name

_TEXTS = 6
_NEAREST = 6
_UNASKED = 1_000_000_000
"""Bytes of decoder rows that are read without asking."""

_REACHED = 0.99
"""Share of random latents below what is shown as chance."""

VERDICTS = {
    "dead": "It did not fire on held-out tokens, so nothing can be said of it.",
    "dense": "It fires on so many tokens that it is counted as dense.",
    "feature_stable": "More than half of the other runs share it: reproducible under this recipe.",
    "split": "In most runs that lack it several latents share its place: it is split there.",
    "merged": "In most runs that lack it one latent stands for it and more: it is merged there.",
    "absorbed": "In most runs that lack it another latent's counterpart contains it: absorbed.",
    "subspace_stable": "Its direction does not come back; the subspace that it lies in does.",
    "unstable": "It belongs to its run: most others have neither a counterpart nor parts of it.",
}

_BECAME = {
    "split": "split into",
    "merged": "merged into",
    "absorbed": "absorbed by",
    "composed": "composed of",
    "decoder_only": "matched by the decoder alone, by",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A latent of one run, as a column of the page."""

    run: str
    latent: int
    kin: bool
    """whether it is of the family; else it is the nearest of its run"""
    row: Row
    contexts: list[Row]
    top: float
    """largest activation of its contexts"""
    became: str | None = None
    """what this run has in the place of the latent that the page is about"""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """What the page of a latent shows."""

    row: Row
    sides: list[Side]
    between: list[Between]
    chance: dict[str, float | None]
    """view to the cosine that 1 in 100 random latents reach"""
    sentences: list[str]


def row_of(database: Database, run: str, latent: int) -> Row:
    """The row of a latent, with its explanation and scores.

    Raises:
        SpecError: if there is none.
    """
    keys = [run, latent]
    rows = database.rows("SELECT * FROM latents WHERE run = ? AND latent = ?", keys)
    if not rows:
        raise SpecError(f"there is no latent {latent:,} of a run {run!r} in this study")
    words = database.rows("SELECT * FROM words WHERE run = ? AND latent = ?", keys)
    return (words[0] if words else {}) | rows[0]


def feature_of(database: Database, run: str, latent: int) -> Feature:
    """A latent and what corresponds to it in each other run of its group.

    Raises:
        SpecError: if there is no such latent.
    """
    row = row_of(database, run, latent)
    group = next(g for g in database.groups if g.label == row["group"])
    kin = _family(database, row)
    sides: list[Side] = []
    for other in group.runs:
        if other == run:
            sides.insert(0, _side(database, run, latent, kin=True))
            continue
        place = kin.get(other)
        nearest = _nearest(database, run, latent, other) if place is None else place
        if nearest is not None:
            became = None if place is not None else _became(database, run, latent, other)
            sides.append(_side(database, other, nearest, kin=place is not None, became=became))
    members = [(side.run, side.latent) for side in sides]
    return Feature(
        row=row,
        sides=sides,
        between=_between(database, members),
        chance={view: _chance(database, group, view) for view in ("decoder", "encoder")},
        sentences=_sentences(row, sides, database.folder.what),
    )


def neighbours(database: Database, run: str, latent: int) -> list[dict[str, Any]]:
    """For each run of the group, the own one first: its most similar latents by decoder rows."""
    if not database.folder.has_weights:
        return []
    row = row_of(database, run, latent)
    group = next(g for g in database.groups if g.label == row["group"])
    runs = [run, *(other for other in group.runs if other != run)]
    store = database.folder.store
    return [
        {"run": other, "latents": nearest_of(store, (run, latent), other, _NEAREST)}
        for other in runs
    ]


def looks_through(database: Database, run: str) -> int:
    """Bytes of decoder rows that `neighbours` reads; 0 where they are few enough not to ask."""
    if not database.folder.has_weights:
        return 0
    group = next(g for g in database.groups if run in g.runs)
    rows = Matrix(database.folder.store, run, "W_dec").shape
    total = 4 * rows[0] * rows[1] * len(group.runs)
    return total if total > _UNASKED else 0


# -- what it is made of --------------------------------------------------------------------------


def _family(database: Database, row: Row) -> dict[str, int]:
    if row.get("family") is None:
        return {}
    rows = database.rows(
        'SELECT run, latent FROM latents WHERE "group" = ? AND family = ?',
        [row["group"], row["family"]],
    )
    return {member["run"]: member["latent"] for member in rows}


def _side(
    database: Database, run: str, latent: int, *, kin: bool, became: str | None = None
) -> Side:
    contexts = database.contexts([(run, latent)], _TEXTS).get((run, latent), [])
    activations = [value or 0.0 for context in contexts for value in context["activations"]]
    return Side(
        run=run,
        latent=latent,
        kin=kin,
        row=row_of(database, run, latent),
        contexts=contexts,
        top=max(activations, default=0.0),
        became=became,
    )


def _nearest(database: Database, run: str, latent: int, other: str) -> int | None:
    table = database.folder.match(run, other)
    if table is None:
        return None
    sql = f"SELECT decoder_nearest AS n FROM {table[0]} WHERE side::VARCHAR = ? AND latent = ?"
    rows = database.rows(sql, [table[1], latent])
    return rows[0]["n"] if rows else None


def _became(database: Database, run: str, latent: int, other: str) -> str | None:
    table = database.folder.pair(structure_name, "latents.parquet", run, other)
    if table is None:
        return None
    rows = database.rows(
        "SELECT label, cos, partner_1, partner_2, partner_3 "
        f"FROM {table[0]} WHERE side::VARCHAR = ? AND latent = ?",
        [table[1], latent],
    )
    if not rows or rows[0]["label"] not in _BECAME:
        return None
    row = rows[0]
    parts = [row[f"partner_{n}"] for n in (1, 2, 3)]
    named = [f"{part:,}" for part in parts if part is not None]
    fit = f" (cosine of the fit {decimals(row['cos'])})" if row["cos"] is not None else ""
    which = f"latent{'s' if len(named) > 1 else ''} {' and '.join(named)}"
    return f"{_BECAME[row['label']]} {which}{fit}"


def _between(database: Database, members: Sequence[tuple[str, int]]) -> list[Between]:
    store = database.folder.store
    if not database.folder.has_weights:
        return _matched(database, members)
    try:
        decoder = cosines_of(store, members, "W_dec")
        encoder = cosines_of(store, members, "W_enc")
    except StoreError:
        return []  # weights are gone or differ in shape; what was measured from them is shown
    out: list[Between] = []
    for i, a in enumerate(members):
        for j in range(i + 1, len(members)):
            fires, null = _fire_together(database, a, members[j])
            out.append(
                Between(
                    a=a, b=members[j], decoder=float(decoder[i, j]), encoder=float(encoder[i, j]),
                    fires=fires, fires_null=null,
                )
            )  # fmt: skip
    return out


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
    database: Database, a: tuple[str, int], b: tuple[str, int]
) -> tuple[float | None, float | None]:
    table = database.folder.pair(cofiring_name, "matched.parquet", a[0], b[0])
    if table is None:
        return None, None
    first, second = (a, b) if table[1] == "a" else (b, a)
    rows = database.rows(
        f"SELECT act_corr, null_corr FROM {table[0]} WHERE latent_a = ? AND latent_b = ?",
        [first[1], second[1]],
    )
    return (rows[0]["act_corr"], rows[0]["null_corr"]) if rows else (None, None)


def _chance(database: Database, group: Group, view: str) -> float | None:
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


def _sentences(row: Row, sides: Sequence[Side], what: str) -> list[str]:
    out: list[str] = []
    if row.get("n_matched") is not None and row.get("n_seeds"):
        others = f"other {'independent runs' if what == 'run' else what + 's'}"
        sentence = f"Found in {row['n_matched']} of {row['n_seeds'] - 1} {others}"
        if row.get("recurrence_mean") is not None:
            ends = f"{percent(row['recurrence_lo'])} to {percent(row['recurrence_hi'])}"
            sentence += f"; reproducibility {percent(row['recurrence_mean'])} (95% interval {ends})"
        out.append(sentence + ".")
    if row.get("verdict") in VERDICTS:
        out.append(VERDICTS[row["verdict"]])
    if row.get("q_fdr") is not None:
        out.append(
            f"q = {row['q_fdr']:.2g}: the share of chance that is expected among matches at least "
            "as good as its best."
        )
    if row.get("firing_rate"):
        out.append(f"It fires on {rate(row['firing_rate'])} of the held-out tokens.")
    if "family" in row and sum(side.kin for side in sides) == 1 and len(sides) > 1:
        out.append("It has no family: beside it stands its nearest latent in each other run.")
    return out
