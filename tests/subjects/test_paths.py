"""Relative paths of a study are looked for beside its TOML first."""

import numpy as np
import pytest

from reseed.events import Events
from reseed.spec.subject import ArraysSpec, LanguageModelSpec, beside, subject_beside
from reseed.study import Study
from reseed.subjects.inputs import Inputs


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with files, which is not the current one."""
    for name in ("a b/x[1].npy", "texts/one.txt", "models/config.json", "f.safetensors", "top.txt"):
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


@pytest.mark.parametrize(
    "path",
    ["a b/x[1].npy", "texts", "texts/*.txt", "**/one.txt", "*.txt", "f.safetensors#key", "models"],
)
def test_what_lies_beside_the_study_is_taken_from_there(home, path):
    assert beside(path, home) == str(home / path)
    assert beside(path, None) == path


@pytest.mark.parametrize(
    "path",
    ["missing.npy", "/abs/x.npy", "~/x.npy", "package:texts/one.txt", "datasets:texts", "owner/m"],
)
def test_all_else_is_left_as_it_is(home, path):
    assert beside(path, home) == path


def test_subjects_keep_what_is_no_path(home):
    model = LanguageModelSpec(model="models", dtype="bfloat16")
    assert subject_beside(model, home) == model.model_copy(update={"model": str(home / "models")})
    arrays = ArraysSpec(kind="arrays", paths={"a": "top.txt", "b": "none.npy"})
    assert subject_beside(arrays, home).paths == {"a": str(home / "top.txt"), "b": "none.npy"}


def test_a_study_is_the_same_from_everywhere(write_study, tmp_path, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((1280, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    subject = {"kind": "arrays", "paths": {"x": "x.npy"}, "block": 64}
    file = write_study(subject=subject, activations={"sites": ["x"], "keep": "live"})
    ids = set()
    for folder in (tmp_path, tmp_path / "deeper"):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        study = Study.load(file)
        Inputs(study, Events()).source.read([0])
        study.store.write("study.toml", study.beside["study.toml"])
        ids |= {run.id for run in study.runs}
    assert len(ids) == 2  # two seeds, not four
    # by the folder of its results too, which lies beside the TOML
    Inputs(Study.load(study.folder), Events()).source.read([0])
