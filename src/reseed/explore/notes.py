"""Stars and notes of a person, in a file of their own beside the folder of a study."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reseed.errors import SpecError, StoreError
from reseed.records import Spec
from reseed.store import json_bytes, read_json, write_bytes

_LONGEST = 10_000


class Note(Spec):
    """What a person has said of one latent."""

    run: str
    latent: int
    star: bool = False
    note: str = ""


class _Kept(Spec):
    version: int = 1
    notes: list[Note] = []


class NoteFile:
    """The notes about one study; each change is written at once.

    Args:
        folder: of the study; the file lies beside it and is called `FOLDER.notes.json`.

    Raises:
        StoreError: if the file there is no such file.
    """

    def __init__(self, folder: Path) -> None:
        absolute = folder.absolute()
        self.path = absolute.with_name(f"{absolute.name}.notes.json")
        self._lock = threading.Lock()
        self._read()

    def _read(self) -> None:
        self._by_latent: dict[tuple[str, int], Note] = {}
        if not self.path.exists():
            return
        try:
            kept = _Kept.model_validate(read_json(self.path))
        except ValidationError as error:
            raise StoreError(
                f"{self.path} holds no notes of this version; move it away to begin anew."
            ) from error
        self._by_latent = {(note.run, note.latent): note for note in kept.notes}

    def of(self, run: str, latent: int) -> Note:
        """What was said of a latent; empty if nothing."""
        return self._by_latent.get((run, latent)) or Note(run=run, latent=latent)

    def marked(self, mark: str) -> list[tuple[str, int]]:
        """Latents with a `"star"` or a `"note"`."""
        notes = list(self._by_latent.values())
        return [(n.run, n.latent) for n in notes if (n.star if mark == "star" else n.note)]

    def keep(self, note: Note) -> None:
        """Keep what was said of a latent in place of what was said before.

        Raises:
            SpecError: if it is too long.
            StoreError: if the file cannot be written.
        """
        if len(note.note) > _LONGEST:
            raise SpecError(
                f"a note has at most {_LONGEST:,} characters; this has {len(note.note):,}"
            )
        with self._lock:
            self._read()  # another window may have written
            self._by_latent[note.run, note.latent] = note
            if not note.star and not note.note:
                del self._by_latent[note.run, note.latent]
            notes = sorted(self._by_latent.values(), key=lambda n: (n.run, n.latent))
            write_bytes(self.path, json_bytes(_Kept(notes=notes).model_dump()))

    def exported(self, kind: str) -> bytes:
        """All notes as `"csv"` or `"json"`: run, latent, star, note.

        In CSV a cell that a spreadsheet would take for a formula begins with an apostrophe.
        """
        rows: list[dict[str, Any]] = [note.model_dump() for note in self._by_latent.values()]
        if kind == "json":
            return json.dumps(rows, ensure_ascii=False, indent=1).encode()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Note.model_fields))
        writer.writeheader()
        for row in rows:
            formula = row["note"][:1] in ("=", "+", "-", "@", "\t", "\r")
            writer.writerow(row | {"note": "'" * formula + row["note"]})
        return text.getvalue().encode()
