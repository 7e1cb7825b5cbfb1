"""The co-firing of matched latents as pieces of a study: made once, alone, and made again."""

import shutil

import pytest

import reseed
from reseed.events import Events, Stop
from reseed.evidence import stage as evidence
from reseed.evidence.rows import KeptCodes, feed
from reseed.pipeline.run import run_study
from reseed.study import Study


@pytest.fixture
def study(finished, tmp_path) -> Study:
    shutil.copytree(finished, tmp_path / "tiny")
    return Study.load(tmp_path / "tiny")


def test_what_is_missing_is_made_without_the_rest(study, tree, monkeypatch) -> None:
    """A folder made before there was co-firing gets it, and its evidence is not made again."""
    monkeypatch.setattr(evidence, "Firing", None)
    before = tree(study.folder)
    pieces = sorted((study.folder / "cofiring").iterdir())
    assert len(pieces) == 2  # two widths, one pair of runs each
    assert [match.activations().height for match in study.matches] == [16, 8]
    for gone in (pieces, pieces[:1]):
        for piece in gone:
            shutil.rmtree(piece)
        run_study(study, Events(), Stop())
        assert tree(study.folder) == before


def test_codes_are_kept_or_made_again(study, tree, monkeypatch) -> None:
    """In chunks of a block: with room for none, for some and for all of them."""
    left, seen, kept = [], [], []

    def keep(names=()):
        kept.append(KeptCodes(names, room))
        return kept[-1]

    def fed(add, readers, source, blocks, events, name) -> None:
        left.append(len(blocks))
        feed(add, readers, source, blocks, events, name, size=1)

    monkeypatch.setattr(evidence, "feed", fed)
    monkeypatch.setattr(evidence, "KeptCodes", keep)
    for share in (None, 0.75, 0.0):
        room = 1e9 if share is None else share * (1e9 - kept[1]._room)
        for name in ("cofiring", "evidence"):
            shutil.rmtree(study.folder / name)
        run_study(study, Events(), Stop())
        seen.append(tree(study.folder))
    every, none, _, some, _, again = left
    assert none == 0 < some < again == every
    assert seen[0] == seen[1] == seen[2]


def test_nothing_is_read_when_nothing_is_missing(study, monkeypatch) -> None:
    monkeypatch.setattr(evidence, "feed", None)
    run_study(study, Events(), Stop())


def test_another_match_makes_it_anew(study) -> None:
    match = study.matches[0]
    piece = study.folder / "cofiring" / f"{match.a}--{match.b}" / "piece.json"
    first = piece.read_text()
    piece.write_text(first.replace('"made_from": "', '"made_from": "0'))
    run_study(study, Events(), Stop())
    assert piece.read_text() == first


def test_a_damaged_piece_is_named(study) -> None:
    match = study.matches[0]
    (study.folder / "cofiring" / f"{match.a}--{match.b}" / "matched.parquet").write_bytes(b"")
    with pytest.raises(reseed.StoreError, match=r"cofiring/.*matched\.parquet has 0 bytes"):
        match.activations()
