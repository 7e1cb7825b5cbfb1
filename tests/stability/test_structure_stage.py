"""The pieces of `structure/`: made once, again after what they come from changed, and the same."""

import shutil

import numpy as np
import polars as pl
import pytest

import reseed
from reseed.errors import StoreError
from reseed.events import Events
from reseed.matching.beyond.labels import LABELS
from reseed.matching.beyond.structure import Side, structure
from reseed.matching.match import Views, compare
from reseed.runs import pairs_of, structure_name
from reseed.spec.analysis import MatchingSpec
from reseed.stability.latents import shared_edges
from reseed.stability.nulls import CovarianceNull, Mirrored
from reseed.stability.shares import PairTable
from reseed.stability.structure import VERDICTS, counterparts, make_structures, structures


@pytest.fixture
def study(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return reseed.Study.load(tmp_path / "copy")


def make(study, tau: float = 0.7) -> None:
    make_structures(study.groups(), MatchingSpec(tau=tau), study.store, Events())


def times(study) -> dict:
    return {p: p.stat().st_mtime_ns for p in (study.folder / "structure").rglob("*.parquet")}


def test_every_pair_has_a_row_for_each_latent_that_is_left_over(study) -> None:
    for group in study.groups():
        for one in structures(group.runs, study.store):
            pair = reseed.Study.load(study.folder).store
            match = next(m for m in study.matches if (m.a, m.b) == one.pair)
            for side in "ab":
                left = np.flatnonzero(counterparts(match.table(), side, 0.7) < 0)
                assert one.table.filter(side=side)["latent"].to_list() == left.tolist()
            assert pair.has(structure_name(one.pair))
            assert set(one.table["label"].drop_nulls()) <= set(LABELS)


def test_what_is_there_is_kept_and_another_threshold_makes_it_anew(study) -> None:
    before = times(study)
    assert len(before) == 2
    make(study)
    assert times(study) == before
    make(study, tau=0.9)
    assert all(new != before[path] for path, new in times(study).items())


def test_what_is_missing_is_made_the_same_again(study, tree) -> None:
    skip = (".lock", "events.jsonl", "report.html", "summary.json")  # names its folder
    before = tree(study.folder, skip)
    name = structure_name(pairs_of(study.groups()[0].runs)[0])
    shutil.rmtree(study.folder / name)
    with pytest.raises(StoreError, match="not there"):
        structures(study.groups()[0].runs, study.store)
    reseed.run(study, progress=False)
    assert tree(study.folder, skip) == before


def test_latents_carry_their_verdict(study) -> None:
    found = study.latents
    assert set(found["verdict"].drop_nulls()) <= set(VERDICTS)
    assert found["verdict"].null_count() == 0
    lone = found.filter(pl.col("n_matched") == 0)
    assert lone["explained_by_3"].null_count() == 0
    assert found.filter(pl.col("n_matched") == 1)["explained_by_3"].null_count() == len(
        found
    ) - len(lone)
    for group in study.summary["groups"]:
        counted = found.filter(pl.col("group") == group["label"])["verdict"].value_counts()
        assert {k: v for k, v in group["structure"]["verdicts"].items() if v} == dict(
            counted.iter_rows()
        )


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_independent_anisotropic_dictionaries_are_at_chance(power: float) -> None:
    """Random rows reach tau by chance here; bars from the null keep labels near 1 % each."""
    scale = np.arange(1, 33) ** -power
    a, b = (np.random.default_rng(s).normal(size=(250, 32)) * scale for s in (1, 2))
    first, second = (CovarianceNull(Views(rows, rows)) for rows in (a, b))
    nulls = [
        (first.draw("test", "a", i).decoder, second.draw("test", "b", i).decoder) for i in range(4)
    ]
    none = np.full(250, -1)
    found = structure(Side(a, none), Side(b, none), nulls)
    for side in "ab":
        assert found.about[side]["by_chance"]["fit"] > 0.7
        assert found.about[side]["subspaces"]["stable"] <= 0.02 * 250
    assert (found.table["label"] == "novel").mean() > 0.93
    assert (structure(Side(a, none), Side(b, none), []).table["label"] == "novel").mean() < 0.6


def test_rows_of_few_coordinates_are_no_stable_subspaces() -> None:
    """Of random rows of 8 coordinates a Gaussian null alone calls half of the subspaces stable."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(2):
        rank = rng.random((250, 48)).argsort(axis=1).argsort(axis=1)
        rows.append(np.where(rank < 8, 1.0, 0.1) * rng.normal(size=(250, 48)))
    nulls = [CovarianceNull(Views(x, x)) for x in rows]
    ways = [nulls, [Mirrored(null) for null in nulls]]
    gaussian, mirrored = (
        [tuple(null.draw("s", at, i).decoder for at, null in enumerate(way)) for i in range(4)]
        for way in ways
    )
    sides = [Side(x, np.full(250, -1)) for x in rows]
    alone = structure(*sides, gaussian).table["subspace_p"]
    both = structure(*sides, gaussian, others=[mirrored]).table["subspace_p"]
    assert (alone <= 0.01).mean() > 0.2
    assert (both <= 0.01).mean() <= 0.02


def test_counterparts_are_the_shared_pairs_of_the_group() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 12))
    b = np.concatenate([a[:20] + 0.2 * rng.normal(size=(20, 12)), rng.normal(size=(6, 12))])
    table = compare(Views(a, a), Views(b, b)).table
    edges = shared_edges([PairTable(("a", "b"), table)], 0.7)
    assert 15 < len(edges) < 26
    to_b, to_a = (counterparts(table, side, 0.7) for side in "ab")
    assert (len(to_b), len(to_a)) == (30, 26)
    rows = np.flatnonzero(to_b >= 0)
    assert rows.tolist() == edges.sort("latent_a")["latent_a"].to_list()
    assert to_b[rows].tolist() == edges.sort("latent_a")["latent_b"].to_list()
    assert (to_a[to_b[rows]] == rows).all()
