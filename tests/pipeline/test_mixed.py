"""Runs of one group that were made by different arithmetic are refused, or said on the page."""

import json
import shutil

import pytest

from reseed.errors import StoreError
from reseed.pipeline.mixed import differences, note, refuse_mixed
from reseed.study import Study


@pytest.fixture
def mixed(finished, tmp_path):
    """A study whose first run was made with more threads."""
    shutil.copytree(finished, tmp_path / "tiny")
    study = Study.load(tmp_path / "tiny")
    card = study.folder / "runs" / study.runs[0].id / "piece.json"
    content = json.loads(card.read_text())
    assert content["arithmetic"]["device"] == "cpu"
    assert content["arithmetic"]["threads"] == 1
    content["arithmetic"] |= {"threads": 8, "instructions": "AVX512"}
    card.write_text(json.dumps(content))
    return study


def test_they_are_refused(mixed, cli):
    done = cli("run", mixed.folder)
    assert done.returncode == 3
    message = " ".join(done.stderr.split())
    assert "toy · topk 16 k2: its runs were made by different arithmetic" in message
    assert "threads: 8, 1" in message
    assert "--mixed" in message


def test_they_are_refused_before_a_missing_run_is_trained(mixed, cli):
    missing = mixed.folder / "runs" / mixed.runs[1].id
    shutil.rmtree(missing)
    done = cli("run", mixed.folder)
    assert done.returncode == 3
    assert "threads: 8, 1" in " ".join(done.stderr.split())
    assert not list(missing.parent.glob(f"{missing.name}*"))


def test_they_are_accepted_and_the_page_says_so(mixed, cli):
    assert cli("run", mixed.folder, "--mixed").returncode == 0
    first, second = (group["notes"] for group in mixed.summary["groups"])
    assert any("different arithmetic" in note and "threads: 8, 1" in note for note in first)
    assert not any("different arithmetic" in note for note in second)
    assert "different arithmetic" in (mixed.folder / "report.html").read_text()


@pytest.mark.parametrize("kind", ["evidence", "matches", "cofiring", "structure", "weights"])
def test_every_kind_of_piece_has_a_card_that_is_looked_at(finished, tmp_path, kind):
    shutil.copytree(finished, tmp_path / "tiny")
    study = Study.load(tmp_path / "tiny")
    first = study.groups()[0]
    assert differences(first, study.store) == {}
    cards = sorted((study.folder / kind).glob("*/piece.json"))
    assert cards
    for card in cards:
        content = json.loads(card.read_text())
        assert content["arithmetic"]["processor"]
        assert content["arithmetic"]["products"]
    for number, card in enumerate(cards):
        content = json.loads(card.read_text())
        content["arithmetic"]["processor"] = f"of machine {number}"
        card.write_text(json.dumps(content))
    several = len(first.runs) > (1 if kind in ("evidence", "weights") else 2)
    if not several:  # one pair alone differs from nothing
        assert differences(first, study.store) == {}
        return
    with pytest.raises(StoreError, match="its .* were made by different arithmetic .*machine 0"):
        refuse_mixed(study.groups(), study.store)
    assert "made by different arithmetic" in note(first, study.store)[0]


def test_what_was_not_recorded_is_no_difference(mixed, cli):
    card = mixed.folder / "runs" / mixed.runs[0].id / "piece.json"
    content = json.loads(card.read_text())
    del content["arithmetic"]
    card.write_text(json.dumps(content))
    assert cli("run", mixed.folder).returncode == 0
