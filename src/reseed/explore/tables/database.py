"""The Parquet files of a study as tables of an SQL database, read where they lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np

from reseed.errors import StoreError
from reseed.explore.tables.layout import Folder, Row, pattern, quoted, text
from reseed.explore.tables.words_in_text import Integers, TextSearch
from reseed.runs import HELD_OUT_TEXT, Group

_MEMORY = "600MB"
"""Most that the database holds; it writes nothing to disk, so what needs more is refused."""

_AGAIN = 2.0
"""Seconds after which it is looked again what is there."""

_KEPT = 16
"""Text searches whose hits are kept."""

Latents = Sequence[tuple[str, int]]
"""Run and latent, each."""

Config = dict[str, str | bool | int | float | list[str]]


class Hits(NamedTuple):
    """What a text search found: places of latents, or of those that it did not find."""

    table: str
    found: bool
    """whether the table has what was found; it has whichever are fewer"""
    size: int
    """latents that were found"""

    @property
    def condition(self) -> str:
        """As SQL."""
        return f"place {'' if self.found else 'NOT '}IN (SELECT place FROM {self.table})"


class Database:
    """What is there of one study or comparison, as SQL views.

    `latents` has one row for each latent of each run, with the columns of docs/latent_table.md;
    `words` the explanations and scores. Runs without statistics yet are there with how often they
    fire. Views are made anew when pieces were added or changed.

    Args:
        folder: that is read.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._hits: dict[tuple[str, str], Hits] = {}
        self._search: TextSearch | None = None
        self._places: tuple[Integers, dict[str, Integers]] | None = None
        self._values: dict[str, list[str]] = {}
        self._ends: dict[str, tuple[float, float] | None] = {}
        self._state: Any = None
        self._looked = 0.0
        self.version = 0
        self.columns: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.groups: list[Group] = []
        self.evidence: dict[str, str] = {}
        config: Config = {
            "memory_limit": _MEMORY,
            "threads": 2,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
        }
        self._connection = duckdb.connect(":memory:", config=config)
        # whatever is asked, no file outside the study can be read, and none written elsewhere
        place = folder.folder.resolve()
        allowed = f"{text(f'{place}/')}, {pattern(place).removesuffix(chr(39))}/'"
        self._connection.execute(f"SET allowed_directories = [{allowed}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    # -- questions --------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """The rows of a query, by the names of their columns."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as error:
            raise self._cannot_read(error) from error
        finally:
            cursor.close()

    def _cannot_read(self, error: duckdb.Error) -> StoreError:
        reason = str(error).splitlines()[0][:300]
        return StoreError(
            f"{self.folder.folder}: a table cannot be read ({reason}). "
            "Where it is damaged, delete its piece and run `reseed run` again."
        )

    def ends(self, value: str) -> tuple[float, float] | None:
        """The least and the largest of a value over all latents; None where it is never known."""
        with self._lock:
            if value not in self._ends:
                row = self.rows(f"SELECT min({value}) AS lo, max({value}) AS hi FROM latents")[0]
                self._ends[value] = None if row["lo"] is None else (row["lo"], row["hi"])
            return self._ends[value]

    def distinct(self, name: str) -> list[str]:
        """The values of a column of text, looked up once."""
        with self._lock:
            if name not in self._values:
                rows = self.rows(f"SELECT DISTINCT {quoted(name)} AS v FROM latents ORDER BY 1")
                self._values[name] = [row["v"] for row in rows if row["v"] is not None]
            return self._values[name]

    def width(self, run: str) -> int:
        """How many latents a run has."""
        row = self.rows("SELECT max(latent) + 1 AS n FROM latents WHERE run = ?", [run])[0]
        return int(row["n"] or 0)

    def contexts(self, latents: Latents, each: int) -> dict[tuple[str, int], list[Row]]:
        """The strongest contexts of latents: tokens, activations, strongest first.

        Latents without text are left out.
        """
        return self._strongest(self.evidence, "activation, tokens, activations", latents, each)

    def crops(self, latents: Latents, each: int) -> dict[tuple[str, int], list[Row]]:
        """The same of subjects that see pictures: the rows of their places, with `picture`."""
        sources = {run: self.folder.crops(run) for run in {run for run, _ in latents}}
        known = {run: source for run, source in sources.items() if source is not None}
        return self._strongest(known, "* EXCLUDE latent", latents, each)

    def _strongest(
        self, sources: dict[str, str], columns: str, latents: Latents, each: int
    ) -> dict[tuple[str, int], list[Row]]:
        wanted: dict[str, list[int]] = {}
        for run, latent in latents:
            if run in sources:
                wanted.setdefault(run, []).append(int(latent))
        parts = [
            f"SELECT {text(run)} AS run, latent, {columns} FROM {sources[run]} "
            f"SEMI JOIN (VALUES {', '.join(f'({n})' for n in numbers)}) AS few(latent) "
            "USING (latent)"
            for run, numbers in wanted.items()
        ]
        out: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows(" UNION ALL ".join(parts)) if parts else ():
            out.setdefault((row["run"], row["latent"]), []).append(row)
        for rows in out.values():
            rows.sort(key=lambda row: -row["activation"])
            del rows[each:]
        return out

    # -- what is there ----------------------------------------------------------------------------

    def refresh(self) -> None:
        """Make the views anew if pieces were added or changed since."""
        with self._lock:
            if time.monotonic() - self._looked < _AGAIN and self._state is not None:
                return
            self._looked = time.monotonic()
            self.groups = self.folder.groups()
            state = self.folder.state(self.groups)
            if state != self._state:
                self._make()
                self._state = state
                self.version += 1

    def missing(self) -> list[str]:
        """What is not there yet, in sentences."""
        return self.folder.missing(self.groups)

    def names(self) -> dict[str, str]:
        """Run to its name for people."""
        return self.folder.names(self.groups)

    def _make(self) -> None:
        latents = self.folder.latents(self.groups)
        words = self.folder.words(self.groups, self.rows)
        runs = [run for group in self.groups for run in group.runs]
        contexts = {run: self.folder.contexts(run) for run in runs}
        self.evidence = {run: source for run, source in contexts.items() if source is not None}
        empty = 'SELECT NULL::VARCHAR AS "group", NULL::VARCHAR AS run, NULL::BIGINT AS latent'
        nothing = f"{empty}, NULL::DOUBLE AS firing_rate, NULL::BIGINT AS place WHERE false"
        self._view("latents", latents or [nothing], self.folder.latents_are)
        self._view("words", words or [f"{empty}, NULL::VARCHAR AS explanation WHERE false"])
        self.columns = self._described("latents", "place")
        self.words = self._described("words", "group", "run", "latent") if words else {}
        for hits in self._hits.values():
            self._connection.execute(f"DROP TABLE IF EXISTS {hits.table}")
        self._hits.clear()
        self._search = self._places = None
        self._ends.clear()
        self._values.clear()

    def _view(self, name: str, parts: Sequence[str], kind: str = "VIEW") -> None:
        self.rows(f"CREATE OR REPLACE {kind} {name} AS {' UNION ALL BY NAME '.join(parts)}")

    def _described(self, view: str, *without: str) -> dict[str, str]:
        types = {row["column_name"]: row["column_type"] for row in self.rows(f"DESCRIBE {view}")}
        return {name: type_ for name, type_ in types.items() if name not in without}

    # -- text -------------------------------------------------------------------------------------

    def hits(self, words: str, where: str) -> Hits:
        """The latents with these words, as a table that is kept for later pages.

        Args:
            words: to look for; letter case does not matter.
            where: `"explanations"`, `"contexts"`, or `"anywhere"`.
        """
        key = (words.lower(), where)
        with self._lock:
            if key not in self._hits:
                while len(self._hits) >= _KEPT:
                    oldest = self._hits.pop(next(iter(self._hits)))
                    self._connection.execute(f"DROP TABLE {oldest.table}")
                self._hits[key] = self._found(words, where, f"hits_{self.version}_{abs(hash(key))}")
            return self._hits[key]

    def _found(self, words: str, where: str, table: str) -> Hits:
        cursor = self._connection.cursor()
        try:
            places, number = self._numbers(cursor)
            found = np.zeros(len(places), np.bool_)
            for run, latents in self._searched(cursor, words.lower(), where):
                found[number[run][latents]] = True
            size = int(found.sum())
            fewer = found if 2 * size <= len(found) else ~found
            cursor.register("hits_now", {"place": places[fewer]})
            cursor.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT place FROM hits_now")
            return Hits(table, fewer is found, size)
        except duckdb.Error as error:
            raise self._cannot_read(error) from error
        finally:
            cursor.close()

    def _numbers(self, cursor: duckdb.DuckDBPyConnection) -> tuple[Integers, dict[str, Integers]]:
        """The places of all latents, and by run and latent where in these its place is."""
        if self._places is None:
            parts, number, first = list[Integers](), dict[str, Integers](), 0
            for run in (run for group in self.groups for run in group.runs):
                sql = "SELECT latent, place FROM latents WHERE run = ?"
                rows = _columns(cursor.execute(sql, [run]))
                at = np.zeros(int(rows["latent"].max(initial=-1)) + 1, np.int64)
                at[rows["latent"]] = np.arange(first, first + len(rows["latent"]))
                number[run], first = at, first + len(rows["latent"])
                parts.append(rows["place"])
            self._places = np.concatenate([np.zeros(0, np.int64), *parts]), number
        return self._places

    def _searched(
        self, cursor: duckdb.DuckDBPyConnection, words: str, where: str
    ) -> Iterator[tuple[str, Integers]]:
        """Run and latents with the words, in small letters; parts may tell of one twice."""
        sources = dict[str, str]()
        if where != "contexts":
            sources = {
                run: f"SELECT latent FROM words WHERE run = {text(run)} "
                "AND contains(lower(explanation), ?)"
                for group in self.groups
                for run in group.runs
            }
        for run, sql in sources.items():
            yield run, _columns(cursor.execute(sql, [words]))["latent"]
        if where == "explanations":
            return
        if self.folder.has(HELD_OUT_TEXT, "text.parquet"):
            yield from self._text_search(cursor).latents(words).items()
            return
        for run, source in self.evidence.items():  # each context by itself
            shown = "contains(lower(array_to_string(tokens, '')), ?)"
            sql = f"SELECT latent FROM {source} WHERE {shown}"
            yield run, _columns(cursor.execute(sql, [words]))["latent"]

    def _text_search(self, cursor: duckdb.DuckDBPyConnection) -> TextSearch:
        if self._search is None:
            places = {
                run: _columns(cursor.execute(f"SELECT latent, block, position FROM {source}"))
                for run, source in self.evidence.items()
            }
            self._search = TextSearch(self.folder.store, places)
        return self._search


def _columns(answer: duckdb.DuckDBPyConnection) -> dict[str, Integers]:
    """The columns of an answer of whole numbers."""
    return {name: np.asarray(column, np.int64) for name, column in answer.fetchnumpy().items()}
