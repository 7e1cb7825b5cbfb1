"""Names, texts and paths as SQL: nothing that comes from outside is ever read as a command."""

from __future__ import annotations

from pathlib import Path


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
