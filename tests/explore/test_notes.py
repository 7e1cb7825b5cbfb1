"""Stars and notes in their file."""

import csv
import io
import json

import pytest

from reseed.errors import SpecError, StoreError
from reseed.explore.notes import Note, NoteFile


@pytest.mark.parametrize("name", ["duckdb", "starlette", "uvicorn", "jinja2"])
def test_the_extra_is_there_or_all_else_is_skipped(name):
    pytest.importorskip(name, reason="without reseed[explore] only notes are tested")


def test_notes_are_kept_beside_the_study_and_exported(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    notes = NoteFile(folder)
    notes.keep(Note(run="r", latent=3, star=True))
    notes.keep(Note(run="r", latent=2, note='=cmd("x")'))
    assert notes.path == tmp_path / "study.notes.json"
    assert not list(folder.iterdir())
    again = NoteFile(folder)
    assert again.of("r", 3).star
    assert again.marked("star") == [("r", 3)]
    assert again.marked("note") == [("r", 2)]
    rows = list(csv.DictReader(io.StringIO(again.exported("csv").decode())))
    assert rows[0]["note"] == "'" + '=cmd("x")'  # a spreadsheet computes nothing
    assert json.loads(again.exported("json"))[1] == {
        "run": "r",
        "latent": 3,
        "star": True,
        "note": "",
    }


def test_two_windows_lose_nothing(tmp_path):
    first, second = NoteFile(tmp_path / "s"), NoteFile(tmp_path / "s")
    first.keep(Note(run="r", latent=1, star=True))
    second.keep(Note(run="r", latent=2, star=True))
    assert NoteFile(tmp_path / "s").marked("star") == [("r", 1), ("r", 2)]
    second.keep(Note(run="r", latent=1))
    assert NoteFile(tmp_path / "s").marked("star") == [("r", 2)]


def test_too_long_and_foreign_files_are_said(tmp_path):
    with pytest.raises(SpecError, match="10,000"):
        NoteFile(tmp_path / "s").keep(Note(run="r", latent=1, note="x" * 10_001))
    (tmp_path / "s.notes.json").write_text('{"notes": [{"of": "r"}]}')
    with pytest.raises(StoreError, match="move it away"):
        NoteFile(tmp_path / "s")
