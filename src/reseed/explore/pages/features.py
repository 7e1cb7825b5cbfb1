"""One feature over the runs of its group: members of its family, or its nearest, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reseed.errors import SpecError
from reseed.explore.pages.likeness import Between, between, chance
from reseed.explore.tables.database import Database
from reseed.explore.tables.layout import Row
from reseed.explore.weights import Matrix, nearest_of
from reseed.report.html import decimals, percent, rate
from reseed.runs import structure_name

_TEXTS = 6
_NEAREST = 6
_UNASKED = 1_000_000_000
"""Bytes of decoder rows that are read without asking."""

VERDICTS = {
    "dead": "It did not fire on what was held out, so nothing can be said of it.",
    "dense": "It fires so often that it is counted as dense.",
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
class Feature:
    """What the page of a latent shows."""

    row: Row
    sides: list[Side]
    between: list[Between]
    chance: dict[str, float | None]
    """view to the cosine that 1 in 100 random latents reach"""
    sentences: list[str]


def row_of(database: Database, run: str, latent: int, names: str = "*") -> Row:
    """The row of a latent.

    Raises:
        SpecError: if there is none.
    """
    sql = f"SELECT {names} FROM latents WHERE run = ? AND latent = ?"
    rows = database.rows(sql, [run, latent])
    if not rows:
        raise SpecError(f"there is no latent {latent:,} of a run {run!r} in this study")
    return rows[0]


def rows_of(database: Database, members: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Row]:
    """The rows of those that are there, with explanations and scores."""
    which = " OR ".join("run = ? AND latent = ?" for _ in members)
    keys = [value for member in members for value in member]
    found: dict[tuple[str, int], Row] = {}
    for table in ("words", "latents"):
        for row in database.rows(f"SELECT * FROM {table} WHERE {which}", keys):
            found[row["run"], row["latent"]] = found.get((row["run"], row["latent"]), {}) | row
    return {key: row for key, row in found.items() if "place" in row}


def members_of(database: Database, run: str, latent: int) -> dict[tuple[str, int], bool]:
    """A latent and its counterpart in each other run, each with whether it is of the family.

    Where the family has none of a run it is the nearest.

    Raises:
        SpecError: if there is no such latent.
    """
    names = ", ".join(n for n in ('"group"', "family") if n.strip('"') in database.columns)
    row = row_of(database, run, latent, names)
    group = next(g for g in database.groups if g.label == row["group"])
    kin = {other: at for other, at in _family(database, row).items() if other != run}
    lacking = [other for other in group.runs if other != run and other not in kin]
    found = kin | _nearest(database, run, latent, lacking)
    others = {(other, found[other]): other in kin for other in group.runs if other in found}
    return {(run, latent): True, **others}


def feature_of(database: Database, run: str, latent: int) -> Feature:
    """A latent and what corresponds to it in each other run of its group.

    Raises:
        SpecError: if there is no such latent.
    """
    kin = members_of(database, run, latent)
    members = list(kin)
    rows = rows_of(database, members)
    texts = database.crops(members, _TEXTS) or database.contexts(members, _TEXTS)
    row = rows[run, latent]
    group = next(g for g in database.groups if g.label == row["group"])
    sides: list[Side] = []
    for member, is_kin in kin.items():
        contexts = texts.get(member, [])
        activations = [value or 0.0 for context in contexts for value in context["activations"]]
        became = None if is_kin else _became(database, run, latent, member[0])
        sides.append(
            Side(
                run=member[0], latent=member[1], kin=is_kin, row=rows[member], contexts=contexts,
                top=max(activations, default=0.0), became=became,
            )
        )  # fmt: skip
    return Feature(
        row=row,
        sides=sides,
        between=between(database, members),
        chance={view: chance(database, group, view) for view in ("decoder", "encoder")},
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


def _nearest(database: Database, run: str, latent: int, others: Sequence[str]) -> dict[str, int]:
    """The nearest latent of each of these runs that is matched with the run."""
    parts, values = list[str](), list[str]()
    for at, other in enumerate(others):
        table = database.folder.match(run, other)
        if table is not None:
            parts.append(
                f"SELECT {at} AS at, decoder_nearest AS n FROM {table[0]} "
                f"WHERE side::VARCHAR = ? AND latent = {latent:d}"
            )
            values.append(table[1])
    rows: Sequence[Row] = database.rows(" UNION ALL ".join(parts), values) if parts else ()
    return {others[int(row["at"])]: row["n"] for row in rows if row["n"] is not None}


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
        out.append(f"It fires on {rate(row['firing_rate'])} of what was held out.")
    if "family" in row and sum(side.kin for side in sides) == 1 and len(sides) > 1:
        out.append("It has no family: beside it stands its nearest latent in each other run.")
    return out
