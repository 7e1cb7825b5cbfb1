"""The studies that are shown, each with what a person has noted of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

from reseed.explore.notes import NoteFile
from reseed.explore.tables.database import Database
from reseed.explore.tables.layout import Folder

Query = Mapping[str, str]
"""Keys and values of an address; `_run` and `_latent` stand in its path."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """A study that is shown."""

    key: str
    """in addresses"""
    database: Database
    notes: NoteFile

    @property
    def has_report(self) -> bool:
        """Whether there is a report to link to."""
        return (self.database.folder.folder / "report.html").exists()


def shelves(folders: Sequence[Folder]) -> dict[str, Shelf]:
    """Folders by their names; a second one of a name gets a number."""
    out: dict[str, Shelf] = {}
    for shown in folders:
        name = shown.folder.resolve().name or "study"
        others = (f"{name}-{number}" for number in count(len(out) + 1))
        key = next(key for key in chain([name], others) if key not in out)
        out[key] = Shelf(key, Database(shown), NoteFile(shown.folder))
    return out
