"""The table of latents as an address says: which rows, in which order, which page of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from reseed.errors import SpecError, nearest
from reseed.explore.tables.columns import CHOICES, HISTOGRAMS, LOGARITHMIC, SHOWN, Column
from reseed.explore.tables.database import Database, Row
from reseed.explore.tables.layout import quoted

PAGE = 50
"""Rows of a page."""

_BINS = 30

PLACES = ("anywhere", "explanations", "contexts")
"""Where text is looked for."""

MARKS = ("star", "note")
"""Latents that a person has marked."""

_OTHERS = (
    "sort", "page", "q", "in", "marked", "columns", "at", "study", "_run", "_latent",
)  # fmt: skip
"""Keys of an address that are no columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableQuery:
    """Which latents, in which order; equal to the address that it was read from."""

    sort: str = "n_matched"
    down: bool = True
    filters: tuple[tuple[str, str], ...] = ()
    """name of a column and what was written for it"""
    q: str = ""
    where: str = PLACES[0]
    marked: str = ""
    columns: tuple[str, ...] = ()
    """shown; empty for the usual ones"""
    page: int = 1

    def address(self, **changes: Any) -> str:
        """The query of an address; `filters` and other fields may be changed."""
        shown = replace(self, **changes)
        pairs: list[tuple[str, str]] = list(shown.filters)
        if shown.q:
            pairs.append(("q", shown.q))
            if shown.where != PLACES[0]:
                pairs.append(("in", shown.where))
        if shown.marked:
            pairs.append(("marked", shown.marked))
        if (shown.sort, shown.down) != ("n_matched", True):
            pairs.append(("sort", ("-" if shown.down else "") + shown.sort))
        if shown.columns:
            pairs.append(("columns", ",".join(shown.columns)))
        if shown.page > 1:
            pairs.append(("page", str(shown.page)))
        return urlencode(pairs)

    def with_filter(self, column: str, value: str) -> TableQuery:
        """The same from its first page, with another filter of a column; empty for none."""
        rest = tuple(pair for pair in self.filters if pair[0] != column)
        return replace(self, filters=(*rest, (column, value)) if value else rest, page=1)

    def filter_of(self, column: str) -> str:
        """What is written for a column."""
        return dict(self.filters).get(column, "")


def columns_of(database: Database) -> dict[str, Column]:
    """All columns there are, explanations and scores among them."""
    both = database.columns | database.words
    return {name: Column(name=name, type=type_) for name, type_ in both.items()}


def read_listing(query: Mapping[str, str], known: Mapping[str, Column]) -> TableQuery:
    """What an address asks for.

    Raises:
        SpecError: naming a column that is not there, or a value that cannot be read.
    """
    sort = query.get("sort", "-n_matched")
    name = sort.removeprefix("-")
    _check(name, known, sortable=True) if name != "n_matched" else None
    filters = tuple((k, v.strip()) for k, v in query.items() if k not in _OTHERS and v.strip())
    for column, value in filters:
        _check(column, known, sortable=True)
        _condition(known[column], value)
    chosen = tuple(filter(None, query.get("columns", "").split(",")))
    for column in chosen:
        _check(column, known)
    return TableQuery(
        sort=name,
        down=sort.startswith("-"),
        filters=filters,
        q=query.get("q", "").strip(),
        where=_among("in", query.get("in", PLACES[0]), PLACES),
        marked=_among("marked", query.get("marked", ""), ("", *MARKS)),
        columns=chosen,
        page=max(1, _whole("page", query.get("page", "1"))),
    )


def _check(name: str, known: Mapping[str, Column], *, sortable: bool = False) -> None:
    if name not in known:
        raise SpecError(f"there is no column {name!r}; {nearest(name, known)}")
    if sortable and known[name].is_list:
        raise SpecError(f"{name} holds a list in each row, so it cannot sort or filter")


def _among(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise SpecError(f"{key}={value!r} is not known; {nearest(value, known)}")
    return value


def _whole(key: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 12:
        raise SpecError(f"{key}={value!r} is no whole number")
    return int(value)


def _condition(column: Column, value: str) -> tuple[str, list[Any]]:
    """A filter as SQL with its values: `lo..hi`, `lo..`, a number, true, part of a text, null."""
    name = quoted(column.name)
    if value in ("null", "!null"):
        return f"{name} IS {'NOT ' if value[0] == '!' else ''}NULL", []
    if column.type == "BOOLEAN":
        if value.lower() not in ("true", "false"):
            raise SpecError(f"{column.name}={value!r}: it is true or false")
        return f"{name} = ?", [value.lower() == "true"]
    if column.is_number:
        low, dots, high = value.partition("..")
        ends = [(">=", low), ("<=", high)] if dots else [("=", low)]
        limits = [(sign, _number(column, end)) for sign, end in ends if end.strip()]
        sql = " AND ".join(f"{name} {sign} ?" for sign, _ in limits)
        return sql or f"{name} IS NOT NULL", [limit for _, limit in limits]
    if column.name in CHOICES:
        return f"{name} = ?", [value]
    return f"contains(lower({name}::VARCHAR), ?)", [value.lower()]


def _number(column: Column, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SpecError(
            f"{column.name}={value!r} is no number; write a range as 0.1..0.5, 0.1.. or ..0.5"
        )
    return number


# -- rows ----------------------------------------------------------------------------------------

Marked = Mapping[tuple[str, int], Any]
"""Run and latent to what a person wrote of it."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of a listing in a database; `marked` are the latents that the filter keeps."""

    database: Database
    listing: TableQuery
    marked: Sequence[tuple[str, int]] = ()

    def count(self) -> int:
        """How many rows there are."""
        source, condition, values = self._rows()
        asked = self.listing
        if asked.q and not (asked.filters or asked.marked or asked.q.isdecimal()):
            return self.database.hits(asked.q, asked.where).size
        sql = f"SELECT count(*) AS n FROM {source} WHERE {condition}"
        return int(self.database.rows(sql, values)[0]["n"])

    def rows(self, first: int, limit: int, total: int) -> list[Row]:
        """Rows from place `first` on, of `total`; sorted from the end where that is nearer."""
        known, listing = columns_of(self.database), self.listing
        source, condition, values = self._rows()
        limit = min(limit, total - first)
        back = first > total - first - limit
        order = [f"place {'DESC' if back else 'ASC'}"]
        if listing.sort in known:
            way = "DESC" if listing.down != back else "ASC"
            order.insert(0, f"{quoted(listing.sort)} {way} NULLS {'FIRST' if back else 'LAST'}")
        places = self.database.rows(
            f"SELECT place FROM {source} WHERE {condition} ORDER BY {', '.join(order)} "
            f"LIMIT {max(limit, 0)} OFFSET {total - first - limit if back else first}",
            values,
        )
        order_of = {row["place"]: at for at, row in enumerate(places[::-1] if back else places)}
        wanted = {"group", "run", "latent", "n_seeds", "recurrence_lo", "recurrence_hi", "family"}
        names = [quoted(name) for name in self.database.columns if name in {*wanted, *self.shown}]
        rows = self.database.rows(
            f"SELECT place, {', '.join(names)} FROM latents WHERE place IN "
            f"({', '.join(map(str, order_of)) or 'NULL'})"
        )
        return self._worded(sorted(rows, key=lambda row: order_of[row["place"]]))

    @property
    def shown(self) -> list[str]:
        """Columns of the table."""
        known = columns_of(self.database)
        chosen = self.listing.columns or tuple(name for name in SHOWN if name in known)
        return ["latent", *(name for name in chosen if name != "latent")]

    def histograms(self) -> list[dict[str, Any]]:
        """Latents by each main column, with all filters but its own."""
        known = columns_of(self.database)
        axes = [axis for name in HISTOGRAMS if name in self.database.columns
                if (axis := self._axis(known[name])) is not None]  # fmt: skip
        own = [axis for axis in axes if self.listing.filter_of(axis["name"])]
        others = [axis for axis in axes if axis not in own]
        for axis in own:
            less = replace(self, listing=self.listing.with_filter(axis["name"], ""))
            less._fill([axis])
        if others:
            self._fill(others)
        return [{k: v for k, v in axis.items() if k not in ("value", "width")} for axis in axes]

    def _axis(self, column: Column) -> dict[str, Any] | None:
        """Ends and bins of a histogram; None where nothing is known."""
        name, log = column.name, column.name in LOGARITHMIC
        value = f"log10(nullif({quoted(name)}, 0))" if log else f"{quoted(name)}::DOUBLE"
        ends = self.database.ends(value)
        if ends is None:
            return None
        lo, hi = ends
        whole = column.type in ("BIGINT", "INTEGER") and hi - lo < _BINS
        lo, hi = (lo - 0.5, hi + 0.5) if whole else (lo, hi if hi > lo else lo + 1.0)
        bins = round(hi - lo) if whole else _BINS
        return {
            "name": name, "title": column.title, "lo": lo, "hi": hi, "log": log, "whole": whole,
            "counts": [0] * bins, "range": self.listing.filter_of(name), "value": value,
            "width": (hi - lo) / bins,
        }  # fmt: skip

    def _fill(self, axes: Sequence[dict[str, Any]]) -> None:
        source, condition, values = self._rows()
        bins = ", ".join(
            f"histogram(least(floor(({axis['value']} - {axis['lo']!r}) / {axis['width']!r}), "
            f"{len(axis['counts']) - 1})::INT) AS {quoted(axis['name'])}"
            for axis in axes
        )
        found = self.database.rows(f"SELECT {bins} FROM {source} WHERE {condition}", values)[0]
        for axis in axes:
            for place, number in (found[axis["name"]] or {}).items():
                axis["counts"][max(0, place)] += number

    def _rows(self) -> tuple[str, str, list[Any]]:
        """What rows come from, the condition that they meet, and its values."""
        known, listing, conditions, values = columns_of(self.database), self.listing, ["true"], []
        for name, written in listing.filters:
            sql, more = _condition(known[name], written)
            conditions.append(sql)
            values += more
        if listing.q:
            hits = self.database.hits(listing.q, listing.where)
            number = listing.q.isdecimal() and len(listing.q) < 12
            same = f" OR latent = {int(listing.q)}" if number else ""
            conditions.append(f"({hits.condition}{same})")
        if listing.marked:
            pairs = ", ".join("(?, ?)" for _ in self.marked)
            values += [value for pair in self.marked for value in pair]
            conditions.append(f"(run, latent) IN (VALUES {pairs})" if pairs else "false")
        asked = {listing.sort, *(name for name, _ in listing.filters)}
        source = "latents"
        if asked & set(self.database.words):
            source = "latents LEFT JOIN words USING (run, latent)"
        return source, " AND ".join(conditions), values

    def _worded(self, rows: list[Row]) -> list[Row]:
        """The rows with explanation and scores."""
        if not rows or not self.database.words:
            return rows
        pairs = ", ".join("(?, ?)" for _ in rows)
        values = [value for row in rows for value in (row["run"], row["latent"])]
        found = self.database.rows(
            f"SELECT * FROM words WHERE (run, latent) IN (VALUES {pairs})", values
        )
        words = {(row["run"], row["latent"]): row for row in found}
        return [words.get((row["run"], row["latent"]), {}) | row for row in rows]
