"""The known answer of runs that were written by hand."""

import shutil

import numpy as np
import polars as pl
import pytest

from reseed.calibration.stage import TABLES, check, stage
from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.runs import Group
from reseed.spec.analysis import CalibrationSpec
from reseed.store import Store


def test_kinds_are_what_was_planted(known):
    latents = known["read"]("latents")
    assert latents.height == 6 * 44
    for run, order in enumerate(known["orders"]):
        kind = latents.filter(run=f"run{run}")["kind"].to_numpy()
        back = np.empty(44, dtype=object)
        back[order] = kind
        assert set(back[:20]) == {"feature"}
        assert back[20:25].tolist() == ["tree"] * 4 + ["pair"]
        assert set(back[25:30]) == {"subspace"}
        assert "feature" not in set(back[30:])
    sums = latents.filter(pl.col("kind").is_in(["tree", "pair"]), n_matched=5)
    assert sums.height == 30
    assert (sums["pair_cos"] > 0.98).all()


def test_recurrence_finds_all_features_and_the_sums(known):
    """20 features and 5 sums come back in every run, random rows in none: precision 20 / 25 where
    the one latent of the second subspace, which lies along one direction, does so too."""
    one = known["summary"]["detector"]["feature"]
    assert known["summary"]["judges"] == 3
    assert one["recall"] == 1
    assert one["base"] == pytest.approx(20 / 40)
    latents = known["read"]("latents").filter(pl.col("firing_rate") > 0)
    back = latents.filter(n_matched=5)
    wrong = known["summary"]["found_by_all_but_no_feature"]
    assert wrong["found_by_all"] == back.height
    assert wrong["no_feature"] == back.height - 120
    assert (wrong["tree"], wrong["pair"]) == (24, 6)
    assert 20 / 30 <= one["precision"] <= 20 / 25
    both = known["summary"]["detector"]["feature or subspace"]
    assert both["precision"] >= one["precision"]


def test_more_judges_lie_less_but_cannot_tell_a_sum_from_a_feature(known):
    curve = known["read"]("detector").filter(label="feature", stratum="live")
    by_all = curve.filter(pl.col("n") == pl.col("m")).sort("m")
    assert by_all["m"].to_list() == [2, 3, 4, 5, 6]
    assert (np.diff(by_all["precision"]) >= -1e-12).all()
    assert by_all["precision"].max() <= 20 / 25
    everything = curve.filter(pl.col("n") == 1)
    assert everything["recall"].to_list() == [1.0] * 5
    assert everything["false_alarm"].to_list() == [1.0] * 5
    assert by_all.filter(m=6)["recall_lo"][0] is None
    assert by_all.filter(m=5)["recall_lo"][0] == 1


def test_recall_of_the_truth(known):
    features = known["read"]("features")
    assert features.height == 60 - 6
    assert features.filter(n_runs=6)["feature"].to_list() == known["features"].tolist()
    recall = known["read"]("recall").filter(stratum="all").row(0, named=True)
    for name in ("any", "mean", "all"):
        assert recall[name] == pytest.approx(20 / 54)
    assert recall["twice"] == 0
    assert set(known["read"]("recall")["stratum"]) >= {"rate 1", "rate 2", "depth 0", "depth 1"}
    found = known["read"]("discovered")
    np.testing.assert_allclose(found["features"], 20)


def test_no_pair_is_wrong(known):
    pairwise = known["read"]("pairwise")
    assert pairwise["tau"].to_list() == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert pairwise.filter(tau=0.7)["false_match"][0] == 0
    assert pairwise.filter(tau=0.7)["false_non_match"][0] == 0
    np.testing.assert_allclose(pairwise["both"], 20)


def test_a_spanned_subspace_is_stable_though_its_latents_are_not(known):
    """Four directions anew in every run span the first; one direction is half of the second."""
    table = known["read"]("subspaces").sort("subspace")
    assert table["verdict"].to_list() == ["stable", "partial", "absent"]
    first, second, third = table.iter_rows(named=True)
    assert first["agreement"] > 0.98
    assert first["runs_whole"] == 6
    assert first["recurrence"] < 1
    assert second["agreement"] == pytest.approx(0.5, abs=0.1)
    assert second["dimensions"] == 1
    assert third["agreement"] == third["latents"] == 0
    assert third["recurrence"] is None
    assert all(row["null_hi"] < 0.4 for row in (first, second))
    counts = known["summary"]["subspaces"]
    assert (counts["stable"], counts["partial"], counts["absent"]) == (1, 1, 1)
    assert counts["stable_lo"] < 1 / 3 < counts["stable_hi"]


def test_a_second_call_makes_nothing_and_a_damaged_run_is_named(planted, known, tree, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(known["store"].root, folder)
    before = tree(folder)
    store, spec = Store(folder), known["study"].spec
    stage(planted.study_of(store, known["group"], spec.subject, spec.calibration), Events())
    assert tree(folder) == before
    assert {f"{name}.parquet" for name in TABLES} < {
        path.name for path in (folder / "calibration/planted").iterdir()
    }
    path = folder / "runs/run1/snapshots/00000010/sae.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    other = spec.calibration.model_copy(update={"feature": 0.95})
    with pytest.raises(StoreError, match="run1"):
        stage(planted.study_of(store, known["group"], spec.subject, other), Events())
    assert tree(folder / "calibration") == {
        k.removeprefix("calibration/"): v for k, v in before.items() if k.startswith("calibration/")
    }


def test_one_run_is_left_out(planted, known):
    alone = Group(name="alone", label="alone", runs=["run0"], steps=(0, 10), batch=1)
    spec = known["study"].spec
    study = planted.study_of(known["store"], alone, spec.subject, spec.calibration)
    assert stage(study, Events()) == []


def test_two_runs_have_no_interval_and_no_coverage(planted, known):
    group = known["group"]
    two = Group(name="two", label="two", runs=group.runs[:2], steps=group.steps, batch=1)
    spec = known["study"].spec
    study = planted.study_of(known["store"], two, spec.subject, spec.calibration)
    (summary,) = stage(study, Events())
    one = summary["detector"]["feature"]
    assert summary["judges"] == 2
    assert one["auc_lo"] is None
    assert one["recall"] == 1
    assert summary["coverage"] == {}


def test_too_few_runs_are_refused():
    check(CalibrationSpec(subset=3), 5)
    with pytest.raises(SpecError, match="subset = 3 of 4 runs leaves 1 held out"):
        check(CalibrationSpec(subset=3), 4)


def test_all_latents_dead(planted, known, tmp_path):
    draw = np.random.default_rng(0)
    rows = [draw.standard_normal((10, 48)) for _ in range(5)]
    store, group = planted.write_group(tmp_path, rows, [np.zeros(10)] * 5)
    spec = known["study"].spec
    (summary,) = stage(planted.study_of(store, group, spec.subject, spec.calibration), Events())
    assert summary["live"] == 0
    assert summary["detector"]["feature"]["auc"] is None
    assert summary["detector"]["feature"]["precision"] is None
    assert summary["coverage"]["Wilson"]["coverage"] is None
    assert summary["subspaces"]["absent"] == 3
    assert summary["found_by_all_but_no_feature"]["median_rate"] is None
