"""What the views show: from the query of an address to the facts of its template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from reseed.explore.pages.features import feature_of, looks_through, neighbours
from reseed.explore.shelf import Query, Shelf
from reseed.explore.tables.columns import CHOICES
from reseed.explore.tables.database import Database
from reseed.explore.tables.layout import Row
from reseed.explore.tables.listing import (
    MARKS,
    PAGE,
    PLACES,
    TableRows,
    columns_of,
    read_listing,
)
from reseed.report.latents.partners import shortened
from reseed.study import SUMMARY_FILE


def latents_of(query: Query, shelf: Shelf) -> TableRows:
    """The rows that an address asks for."""
    listing = read_listing(query, columns_of(shelf.database))
    marked = shelf.notes.marked(listing.marked) if listing.marked else ()
    return TableRows(shelf.database, listing, marked)


def latents_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """The table of all latents."""
    latents = latents_of(query, shelf)
    listing, total = latents.listing, latents.count()
    pages = max(1, -(-total // PAGE))
    listing = replace(listing, page=min(listing.page, pages))
    first = (listing.page - 1) * PAGE
    known = columns_of(shelf.database)
    rows = latents.rows(first, PAGE, total) if total else []
    return {
        "listing": listing,
        "columns": [known[name] for name in latents.shown if name in known],
        "by_name": {name: column for name, column in known.items() if not column.is_list},
        "rows": rows,
        "first": first,
        "total": total,
        "pages": pages,
        "choices": {name: choices(shelf.database, name) for name in CHOICES if name in known},
        "places": PLACES,
        "marks": MARKS,
        "notes": shelf.notes,
        "what": shelf.database.folder.what,
        "tau": shelf.database.folder.tau,
        "query": listing.address(page=1),
        "names": shelf.database.names(),
        "has_text": bool(shelf.database.evidence),
    }


def choices(database: Database, name: str) -> list[str]:
    """The values of a column of few values."""
    if name == "group":
        return [group.label for group in database.groups]
    if name == "run":
        return [run for group in database.groups for run in group.runs]
    return database.distinct(name)


def histograms_data(query: Query, shelf: Shelf) -> dict[str, Any]:
    """The histograms above the table."""
    latents = latents_of(query, shelf)
    return {"histograms": latents.histograms()}


def texts_data(query: Query, shelf: Shelf) -> dict[str, Any]:
    """Where each latent of a page fires most, of the contexts with the words looked for."""
    latents = latents_of(query, shelf)
    total = latents.count()
    first = (latents.listing.page - 1) * PAGE
    rows = latents.rows(first, PAGE, total) if total > first else []
    words, out = latents.listing.q.lower(), dict[str, Any]()
    keys = [(row["run"], row["latent"]) for row in rows]
    for (run, latent), contexts in shelf.database.contexts(keys, 9).items():
        hits = (c for c in contexts if words in "".join(c["tokens"]).lower())
        chosen = next(hits, contexts[0])
        out[f"{run} {latent}"] = shortened(chosen["tokens"], chosen["activations"])
    return {"texts": out}


FACTS = (
    "firing_rate", "max_act", "n_matched", "recurrence_mean", "max_decoder_cos", "q_fdr", "verdict",
    "enc_dec_cos", "own_max_cos", "coherence", "coherence_null",
)  # fmt: skip
"""What is said of each latent of a feature, and its scores."""


def feature_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """A latent beside what corresponds to it in the other runs."""
    database = shelf.database
    run, latent = str(query["_run"]), int(query["_latent"])
    feature = feature_of(database, run, latent)
    back, previous, following = _turn(query, shelf, run, latent)
    names = (*FACTS, *(name for name in database.words if name.startswith("score_")))
    known = columns_of(database)
    return {
        "feature": feature,
        "run": run,
        "latent": latent,
        "note": shelf.notes.of(run, latent),
        "names": database.names(),
        "facts": names,
        "titles": {name: known[name].title for name in names if name in known},
        "back": back,
        "previous": previous,
        "following": following,
        "has_weights": database.folder.has_weights,
        "looks_through": looks_through(database, run),
        "in_report": _in_report(database, run, latent),
    }


def _turn(query: Query, shelf: Shelf, run: str, latent: int) -> tuple[str, Row | None, Row | None]:
    """The address of the table, and the latents before and after in its order, or by number."""
    here = f"/{quote(shelf.key)}/feature/"
    latents = latents_of(query, shelf)
    at, total = query.get("at", ""), latents.count()
    if at.isdecimal() and int(at) < total:
        first = max(0, int(at) - 1)
        rows = latents.rows(first, int(at) + 2 - first, total)
        place = next(
            (n for n, row in enumerate(rows) if (row["run"], row["latent"]) == (run, latent)), None
        )
        if place is not None:
            address = latents.listing.address(page=1)
            page = latents.listing.address(page=int(at) // PAGE + 1)
            for n, row in enumerate(rows):
                more = f"{address}&at={first + n}" if address else f"at={first + n}"
                row["address"] = f"{here}{row['latent']}/{quote(row['run'])}?{more}"
            before = rows[place - 1] if place else None
            return page, before, rows[place + 1] if place + 1 < len(rows) else None
    width = shelf.database.width(run)
    by_number = [
        {"latent": n, "address": f"{here}{n}/{quote(run)}"} if 0 <= n < width else None
        for n in (latent - 1, latent + 1)
    ]
    return latents.listing.address(), by_number[0], by_number[1]


def _in_report(database: Database, run: str, latent: int) -> str | None:
    """Where the report has the latent: the fragment of an address."""
    store = database.folder.store
    if not database.folder.has_weights or not all(
        store.path(name).exists() for name in ("report.html", SUMMARY_FILE)
    ):
        return None
    for number, group in enumerate(store.read_json(SUMMARY_FILE)["groups"]):
        if run in group["runs"] and len(group["runs"]) > 1:
            return f"latent-{number}-{group['runs'].index(run)}-{latent}"
    return None


def nearest_view(query: Query, shelf: Shelf) -> dict[str, Any]:
    """The most similar latents of each run, for a page that asks for them later."""
    found = neighbours(shelf.database, str(query["_run"]), int(query["_latent"]))
    return {"nearest": found, "names": shelf.database.names()}
