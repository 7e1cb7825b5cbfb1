"""A made-up study and its app; written once for the whole room."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

EXTRA = ("duckdb", "starlette", "uvicorn", "jinja2")
try:
    for _name in EXTRA:
        importlib.import_module(_name)
except ImportError:  # test_notes says so, and needs none of them
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_[!n]*.py")]


def _load(path: Path):
    name = f"reseed_tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def write_made_up():
    """`benchmarks.made_up_study.write_study`."""
    root = Path(__file__).parents[2]
    return _load(root / "benchmarks" / "made_up_study.py").write_study


@pytest.fixture(scope="session")
def made_up(write_made_up, tmp_path_factory):
    """A finished study of three runs of 64 latents; its folder's name holds what SQL would read."""
    folder = tmp_path_factory.mktemp("made-up")
    return write_made_up(folder / "it's [a] *study?.toml")


@pytest.fixture
def shelf(made_up, tmp_path, monkeypatch):
    """The study as it is shown, with notes in a folder of the test."""
    from reseed.explore.notes import NoteFile
    from reseed.explore.shelf import Shelf
    from reseed.explore.tables.database import Database
    from reseed.explore.tables.of_study import StudyFolder

    database = Database(StudyFolder(made_up))
    database.refresh()
    return Shelf("made-up", database, NoteFile(tmp_path / "made-up"))


@pytest.fixture
def client(shelf):
    """Asks the app as a browser would."""
    from starlette.testclient import TestClient

    from reseed.explore.app import make_app
    from reseed.explore.server import DATA, VIEWS

    app = make_app({"made-up": shelf}, VIEWS, DATA, ["127.0.0.1", "localhost"])
    return TestClient(app, base_url="http://127.0.0.1:8765")
