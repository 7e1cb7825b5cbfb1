"""A folder of results: where its tables lie, as SQL, and what is not there yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from reseed.runs import Group
from reseed.store import PIECE, Store

Row = dict[str, Any]
Ask = Callable[[str], list[Row]]
"""Gives the rows of a query."""


class Folder(ABC):
    """A folder that is shown.

    Args:
        folder: of the results.
        store: of that folder.
    """

    tau: float
    """cosine from which on a latent counts as shared"""
    what = "run"
    """what is compared with each other"""
    has_weights = True
    """whether there are SAEs, so that any two rows can be compared"""
    latents_are = "VIEW"
    """or a `TABLE`, worked out once: for queries that do more than read"""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store

    def source(self, piece: str, file: str) -> str:
        """A table of a piece as SQL, after its checksum was found right.

        Raises:
            StoreError: if it is not there or damaged.
        """
        return f"read_parquet({pattern(self.store.checked(piece, file))})"

    def has(self, piece: str, file: str) -> bool:
        """Whether a whole piece with this file is there."""
        return self.store.has(piece) and self.store.holds(piece, file)

    def stamps(self, files: Iterable[Path]) -> list[tuple[int, int] | None]:
        """What changes when one of these files is replaced."""
        states = [path.stat() if path.exists() else None for path in files]
        return [None if state is None else (state.st_ino, state.st_mtime_ns) for state in states]

    def cards(self, pieces: Iterable[str]) -> list[tuple[int, int] | None]:
        """`stamps` of pieces."""
        return self.stamps(self.store.path(piece) / PIECE for piece in pieces)

    def pair(self, piece: Callable[[tuple[str, str]], str], file: str, a: str, b: str) -> Any:
        """A table of two runs and the side of the first, in whichever order they are kept."""
        for names, side in (((a, b), "a"), ((b, a), "b")):
            if self.has(piece(names), file):
                return self.source(piece(names), file), side
        return None

    @abstractmethod
    def groups(self) -> list[Group]:
        """Runs that are compared with each other."""

    @abstractmethod
    def state(self, groups: Sequence[Group]) -> Any:
        """What changes when there is something new."""

    @abstractmethod
    def missing(self, groups: Sequence[Group]) -> list[str]:
        """What is not there yet, in sentences."""

    @abstractmethod
    def latents(self, groups: Sequence[Group]) -> list[str]:
        """Queries whose rows together are the table of latents, each with its `place`."""

    @abstractmethod
    def words(self, groups: Sequence[Group], ask: Ask) -> list[str]:
        """Queries whose rows together are explanations and scores."""

    @abstractmethod
    def contexts(self, run: str) -> str | None:
        """The contexts of a run as SQL; None if there are none."""

    def crops(self, run: str) -> str | None:
        """The places of a run in pictures, each with its picture; None where it sees none."""
        return None

    @abstractmethod
    def match(self, a: str, b: str) -> tuple[str, str] | None:
        """The matches of two runs as SQL and which side `a` is; None if they are not there."""

    @abstractmethod
    def names(self, groups: Sequence[Group]) -> dict[str, str]:
        """Run to its name for people."""


# -- SQL ------------------------------------------------------------------------------------------


def numbered(source: str, at: int) -> str:
    """The rows of a file, with a number of their own as `place`, in the order of files and rows."""
    rows = f"{source.removesuffix(')')}, file_row_number = true)"
    place = f"file_row_number + {at << 40} AS place"
    return f"(SELECT * EXCLUDE file_row_number, {place} FROM {rows})"


def quoted(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def pattern(path: Path) -> str:
    """A path as SQL; what would be a pattern in it stands for itself."""
    plain = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(path.resolve()))
    return text(plain)
