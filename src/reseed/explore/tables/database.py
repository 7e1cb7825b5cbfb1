"""The Parquet files of a study as tables of an SQL database, read where they lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb

from reseed.errors import StoreError
from reseed.explore.tables.layout import Folder, Row, pattern, quoted, text
from reseed.explore.tables.words_in_text import TextSearch
from reseed.runs import HELD_OUT_TEXT, Group

_MEMORY = "600MB"
"""Most that the database holds; it writes nothing to disk, so what needs more is refused."""

_AGAIN = 2.0
"""Seconds after which it is looked again what is there."""

_KEPT = 16
"""Text searches whose hits are kept."""

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

    def contexts(
        self, latents: Sequence[tuple[str, int]], each: int
    ) -> dict[tuple[str, int], list[Row]]:
        """The strongest contexts of latents `(run, latent)`: tokens, activations, strongest first.

        Latents without text are left out.
        """
        wanted: dict[str, list[int]] = {}
        for run, latent in latents:
            if run in self.evidence:
                wanted.setdefault(run, []).append(int(latent))
        parts = [
            f"SELECT {text(run)} AS run, latent, tokens, activations FROM "
            f"{self.evidence[run]} "
            f"SEMI JOIN (VALUES {', '.join(f'({n})' for n in numbers)}) AS few(latent) "
            "USING (latent)"
            for run, numbers in wanted.items()
        ]
        out: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows(" UNION ALL ".join(parts)) if parts else ():
            out.setdefault((row["run"], row["latent"]), []).append(row)
        for rows in out.values():
            rows.sort(key=lambda row: -max(value or 0.0 for value in row["activations"]))
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
        self._view("latents", latents or [nothing])
        self._view("words", words or [f"{empty}, NULL::VARCHAR AS explanation WHERE false"])
        self.columns = self._described("latents", "place")
        self.words = self._described("words", "group", "run", "latent") if words else {}
        for hits in self._hits.values():
            self._connection.execute(f"DROP TABLE IF EXISTS {hits.table}")
        self._hits.clear()
        self._search = None
        self._ends.clear()
        self._values.clear()

    def _view(self, name: str, parts: Sequence[str]) -> None:
        self._connection.execute(
            f"CREATE OR REPLACE VIEW {name} AS {' UNION ALL BY NAME '.join(parts)}"
        )

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
            sources, values = self._searches(cursor, words, where)
            found = f"latents SEMI JOIN ({' UNION ALL '.join(sources)}) USING (run, latent)"
            cursor.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT place FROM {found}", values)
            counts = f"SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM latents)"
            count, every = cursor.execute(counts).fetchone() or (0, 0)
            if 2 * count <= every:
                return Hits(table, True, count)
            others = f"SELECT place FROM latents WHERE place NOT IN (SELECT place FROM {table})"
            cursor.execute(f"CREATE OR REPLACE TABLE {table}_not AS {others}")
            cursor.execute(f"DROP TABLE {table}")
            return Hits(f"{table}_not", False, count)
        except duckdb.Error as error:
            raise self._cannot_read(error) from error
        finally:
            cursor.close()

    def _searches(
        self, cursor: duckdb.DuckDBPyConnection, words: str, where: str
    ) -> tuple[list[str], list[str]]:
        """Queries whose rows together are `run, latent` with the words, and their values."""
        parts, values = list[str](), list[str]()
        if where != "contexts":
            parts.append("SELECT run, latent FROM words WHERE contains(lower(explanation), ?)")
            values.append(words.lower())
        if where == "explanations":
            return parts, values
        if not self.folder.has(HELD_OUT_TEXT, "text.parquet"):
            parts += [self.plain_search(run) for run in self.evidence]
            values += [words.lower()] * len(self.evidence)
        else:
            for at, (run, latents) in enumerate(self._text_search().latents(words).items()):
                cursor.register(f"found_{at}", {"latent": latents})
                parts.append(f"SELECT {text(run)} AS run, latent FROM found_{at}")
        return parts or ["SELECT run, latent FROM latents WHERE false"], values

    def plain_search(self, run: str) -> str:
        """Searches each context of a run: the latents, given the words in small letters."""
        return (
            f"SELECT {text(run)} AS run, latent FROM {self.evidence[run]} "
            "WHERE contains(lower(array_to_string(tokens, '')), ?)"
        )

    def _text_search(self) -> TextSearch:
        if self._search is None:
            cursor = self._connection.cursor()
            places = {
                run: cursor.execute(f"SELECT latent, block, position FROM {source}").fetchnumpy()
                for run, source in self.evidence.items()
            }
            cursor.close()
            self._search = TextSearch(self.folder.store, places)
        return self._search
