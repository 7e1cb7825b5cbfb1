import numpy as np
import polars as pl
import pytest

from reseed.calibration.truth import explain
from reseed.errors import SpecError
from reseed.spec.analysis import CalibrationSpec
from reseed.spec.subject import ToySpec
from reseed.subjects.toy_truth import truth_of

SPEC = CalibrationSpec()
TRUTH = truth_of(
    ToySpec(kind="toy", features=50, dimensions=64, roots=3, children=2, depth=1, subspaces=2)
)


def test_a_permuted_copy_is_all_features():
    single = TRUTH.single
    order = np.random.default_rng(0).permutation(len(single))
    table = explain(3.0 * TRUTH.features[single][order], TRUTH, SPEC)
    assert set(table["kind"]) == {"feature"}
    np.testing.assert_array_equal(table["feature"], single[order])
    np.testing.assert_allclose(table["feature_cos"], 1, atol=1e-5)
    assert table["latent"].to_list() == list(range(len(single)))


def test_the_opposite_direction_is_no_feature():
    table = explain(-TRUTH.features[TRUTH.single], TRUTH, SPEC)
    assert (table["feature_cos"] < 0.6).all()
    assert "feature" not in set(table["kind"])


def test_sums_are_pairs_and_merged_families_are_trees():
    child = np.flatnonzero(TRUTH.parent >= 0)
    parent = int(TRUTH.parent[child[0]])
    children = np.flatnonzero(TRUTH.parent == parent)
    strangers = [i for i in TRUTH.single if TRUTH.root[i] == i and i not in TRUTH.parent][:2]
    rows = [TRUTH.features[[parent, *children]].sum(0), TRUTH.features[strangers].sum(0)]
    table = explain(np.stack(rows), TRUTH, SPEC)
    assert table["kind"].to_list() == ["tree", "pair"]
    assert table["tree_cos"][0] == pytest.approx(1, abs=1e-5)
    assert table["tree_cos"][1] is None
    assert table["pair_cos"][1] == pytest.approx(1, abs=1e-5)
    assert {table["feature"][1], table["second"][1]} == set(strangers)
    assert set(TRUTH.root[children]) == {parent}


def test_any_direction_in_a_planted_subspace_is_captured():
    draw = np.random.default_rng(0)
    table = explain(draw.standard_normal((30, 2)) @ TRUTH.bases[1], TRUTH, SPEC)
    assert set(table["kind"]) == {"subspace"}
    assert set(table["subspace"]) == {1}
    np.testing.assert_allclose(table["capture"], 1, atol=1e-5)


def test_random_and_zero_rows_are_nothing():
    rows = np.random.default_rng(0).standard_normal((40, 64))
    rows[0] = 0
    table = explain(rows, TRUTH, SPEC)
    assert set(table["kind"]) == {"none"}
    assert table["feature_cos"][0] == 0


def test_blocks_do_not_matter(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((40, 64))
    whole = explain(rows, TRUTH, SPEC)
    monkeypatch.setattr("reseed.calibration.truth._BLOCK", 7)
    parts = explain(rows, TRUTH, SPEC)
    assert whole.drop(pl.selectors.float()).equals(parts.drop(pl.selectors.float()))
    np.testing.assert_allclose(whole["pair_cos"], parts["pair_cos"], atol=1e-6)


def test_a_toy_without_subspaces():
    truth = truth_of(ToySpec(kind="toy", features=10, dimensions=16))
    table = explain(truth.features, truth, SPEC)
    assert table["capture"].null_count() == table["subspace"].null_count() == 10
    assert set(table["kind"]) == {"feature"}


def test_other_dimensions_and_no_single_feature_are_refused():
    with pytest.raises(SpecError, match="not trained on this toy"):
        explain(np.ones((3, 5)), TRUTH, SPEC)
    only = truth_of(ToySpec(kind="toy", features=4, dimensions=8, active=1, subspaces=2))
    with pytest.raises(SpecError, match="lies in a subspace"):
        explain(np.ones((3, 8)), only, SPEC)
