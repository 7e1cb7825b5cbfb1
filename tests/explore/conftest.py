"""A made-up study and its app; written once for the whole room."""

from __future__ import annotations

import importlib.util
import json
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


@pytest.fixture(scope="session")
def language_study(tmp_path_factory, tiny_folder):
    """Two runs on a random llama; finished."""
    pytest.importorskip("torch", reason="training needs torch")
    import numpy as np

    import reseed

    folder = tmp_path_factory.mktemp("language")
    rng = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "green"]
    lines = [json.dumps({"text": " ".join(rng.choice(words, 40))}) for _ in range(60)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    (folder / "language.toml").write_text(
        f"""
[subject]
model = {json.dumps(str(tiny_folder))}
[text]
source = {json.dumps(str(folder / "text.jsonl"))}
block = 32
[activations]
sites = ["layers.1"]
tokens = 1600
mix_blocks = 8
shard_blocks = 8
[[sae]]
latents = 16
k = 2
lr = 3e-3
[seeds]
init = [0, 1]
[training]
tokens = 2560
batch = 64
threads = 1
[stability]
null_draws = 1
"""
    )
    study = reseed.Study.load(folder / "language.toml")
    reseed.run(study, progress=False)
    return study
