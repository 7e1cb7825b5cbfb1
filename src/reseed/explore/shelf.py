"""The studies that are shown, each with what a person has noted of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reseed.explore.notes import NoteFile
from reseed.explore.tables.database import Database
from reseed.study import Study

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
    def study(self) -> Study:
        """Whose folder it is."""
        return self.database.study

    @property
    def has_report(self) -> bool:
        """Whether there is a report to link to."""
        return (self.study.folder / "report.html").exists()


def shelves(studies: Sequence[Study]) -> dict[str, Shelf]:
    """Studies by the names of their folders; a second one of a name gets a number."""
    out: dict[str, Shelf] = {}
    for study in studies:
        name = study.folder.resolve().name or "study"
        key = name if name not in out else f"{name}-{len(out) + 1}"
        out[key] = Shelf(key, Database(study), NoteFile(study.folder))
    return out
