"""Two runs: how like each latent is to its counterpart, and what one has that the other lacks."""

from __future__ import annotations

from typing import Any

from reseed.errors import SpecError, nearest
from reseed.explore.shelf import Query, Shelf
from reseed.report.latents.partners import shortened

_POINTS = 6000
_LISTED = 15


def pair_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """Runs `a` and `b` of a group; the first two that are matched where the address names none.

    Raises:
        SpecError: if a run is not there, or the two are not of one group.
    """
    database = shelf.database
    groups = [group for group in database.groups if len(group.runs) > 1]
    runs = [run for group in groups for run in group.runs]
    facts: dict[str, Any] = {
        "names": database.names(), "groups": groups, "a": "", "b": "", "figure": None,
        "sides": [],
    }  # fmt: skip
    if not groups:
        return facts
    a = query.get("a") or runs[0]
    if a not in runs:
        raise SpecError(f"there is no finished run {a!r}; {nearest(a, runs)}")
    group = next(group for group in groups if a in group.runs)
    others = [run for run in group.runs if run != a]
    b = query.get("b") or others[0]
    b = b if b in others or b not in runs else others[0]
    if b not in others:
        raise SpecError(f"run {b!r} is not of the group of {a!r}; {nearest(b, others)}")
    facts |= {"a": a, "b": b}
    table = database.folder.match(a, b)
    if table is None:
        return facts
    tau = database.folder.tau
    sides = [
        _side(shelf, table[0], run, other, side, tau)
        for run, other, side in ((a, b, table[1]), (b, a, "b" if table[1] == "a" else "a"))
    ]
    return facts | {"figure": _points(shelf, table, a, b, tau), "sides": sides, "tau": tau}


def _shared(tau: float) -> str:
    same = "m.decoder_match = m.encoder_match"
    return f"(({same}) AND m.decoder_cos >= {tau} AND m.encoder_cos >= {tau})"


def _points(shelf: Shelf, table: tuple[str, str], a: str, b: str, tau: float) -> dict[str, Any]:
    """Each latent of `a` that has a counterpart by decoder rows, thinned out by chance."""
    width = shelf.database.width(a)
    step = max(1, -(-width // _POINTS))
    rows = shelf.database.rows(
        "SELECT m.latent, m.decoder_match AS partner, m.decoder_cos AS x, "
        f"m.encoder_cos_at_decoder AS y, coalesce({_shared(tau)}, false) AS shared "
        f"FROM {table[0]} AS m WHERE side::VARCHAR = ? AND m.decoder_match >= 0 "
        f"AND hash(m.latent) % {step} = 0 ORDER BY m.latent",
        [table[1]],
    )
    columns = {name: [row[name] for row in rows] for name in ("latent", "partner", "shared")}
    rounded = {name: [round(row[name], 4) for row in rows] for name in ("x", "y")}
    return {"kind": "pair", "a": a, "tau": tau, "step": step, **columns, **rounded}


def _side(shelf: Shelf, table: str, run: str, other: str, side: str, tau: float) -> dict[str, Any]:
    """What a run has that the other lacks: counts, and those that fire most."""
    database = shelf.database
    source = (
        f"FROM {table} AS m JOIN (SELECT * FROM latents WHERE run = ?) AS l USING (latent) "
        "WHERE m.side::VARCHAR = ?"
    )
    known = "firing_rate" in database.columns  # not of SAEs that were compared by weights alone
    rate = "l.firing_rate" if known else "NULL::DOUBLE AS firing_rate"
    live = "l.firing_rate > 0" if known else "true"
    lacks = f"{live} AND NOT coalesce({_shared(tau)}, false)"
    counts = database.rows(
        f"SELECT count(*) FILTER ({live}) AS live, count(*) FILTER ({lacks}) AS lacks, "
        f"count(*) FILTER (coalesce({_shared(tau)}, false)) AS shared {source}",
        [run, side],
    )[0]
    rows = database.rows(
        f"SELECT latent, {rate}, m.decoder_nearest AS nearest, m.decoder_max_cos AS cosine "
        f"{source} AND {lacks} ORDER BY m.decoder_max_cos, latent LIMIT {_LISTED}",
        [run, side],
    )
    texts = database.contexts([(run, row["latent"]) for row in rows], 1)
    for row in rows:
        context = texts.get((run, row["latent"]))
        place = shortened(context[0]["tokens"], context[0]["activations"]) if context else None
        row["text"] = None if place is None else (place[0][-40:], place[1], place[2][:40])
    return {"run": run, "other": other, "rows": rows, "known": known, **counts}
