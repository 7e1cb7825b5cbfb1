import itertools

import numpy as np
import pytest
import torch

from reseed.seeds import digest
from reseed.spec.subject import ToySpec
from reseed.subjects import toy_truth
from reseed.subjects.toy import Toy, ToySource


def spec(**more):
    return ToySpec(**{"kind": "toy", "features": 40, "dimensions": 16, "block": 128, **more})


def fired(toy, blocks=80):
    return np.concatenate([toy.coefficients(b) > 0 for b in range(blocks)])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"active": 30.0, "zipf": 1.5},
        {"active": 4.0, "group": 5, "correlation": 0.6},
        {"active": 4.0, "group": 5, "correlation": 0.6, "hierarchy": True},
        {"active": 8.0, "group": 4, "hierarchy": True, "zipf": 0.0},
        {"active": 40.0},
    ],
)
def test_features_fire_as_often_as_stated(more):
    toy = Toy(spec(**more))
    assert toy.firing.sum() == pytest.approx(toy.spec.active, rel=1e-9)
    assert toy.firing.max() <= 1
    seen = fired(toy)
    error = np.sqrt(toy.firing * (1 - toy.firing) / len(seen))
    assert (np.abs(seen.mean(0) - toy.firing) <= 4.5 * error + 1e-9).all()


def test_firing_falls_as_the_power_law():
    p = Toy(spec(zipf=0.5, active=2.0)).firing
    np.testing.assert_allclose(p / p[0], np.arange(1, 41) ** -0.5)


def test_members_of_a_group_fire_together_and_others_do_not():
    c = np.corrcoef(fired(Toy(spec(group=2, correlation=0.7, active=8.0))).T)
    assert c[0, 1] > 0.3
    assert abs(c[1, 2]) < 0.04


def test_children_are_silent_without_their_parent():
    seen = fired(Toy(spec(group=5, hierarchy=True)), 20)
    for parent in range(0, 40, 5):
        assert not seen[~seen[:, parent], parent + 1 : parent + 5].any()
        assert seen[:, parent + 1].any()


def test_a_block_depends_on_spec_and_number_alone():
    toy = Toy(spec())
    toy.rows(3)
    np.testing.assert_array_equal(toy.rows(7), Toy(spec()).rows(7))
    assert not np.array_equal(toy.rows(7), toy.rows(8))
    assert not np.array_equal(toy.rows(7), Toy(spec(seed=1)).rows(7))


def test_rows_are_sums_of_unit_features_and_noise():
    toy = Toy(spec(noise=0.05))
    np.testing.assert_allclose(np.linalg.norm(toy.features, axis=1), 1, atol=1e-6)
    c = toy.coefficients(0)
    assert c[c > 0].min() >= 0.1 - 1e-6
    rest = toy.rows(0) - c @ toy.features
    assert rest.std() == pytest.approx(0.05, rel=0.1)


def test_source_gives_blocks_in_the_order_asked_for():
    source = ToySource(spec(), blocks=4)
    assert source.sites == {"toy": 16}
    assert source.rows.tolist() == [128] * 4
    both = source.read([3, 1])["toy"]
    assert both.dtype == torch.float32
    assert torch.equal(both, torch.cat([source.read([3])["toy"], source.read([1])["toy"]]))


SIZE = {"features": 120, "dimensions": 24, "active": 6.0}
TREES = {"roots": 2, "children": 3, "depth": 2}
FACTORS = {"factors": 3, "factor_share": 0.4}
STRUCTURED = SIZE | TREES | {"subspaces": 4, "rank": 3} | FACTORS


@pytest.mark.parametrize(
    "more",
    [
        STRUCTURED,
        STRUCTURED | {"zipf": 1.5, "active": 20.0},
        SIZE | FACTORS,
        SIZE | TREES | {"zipf": 0.0},
    ],
)
def test_structured_features_fire_as_often_as_the_power_law_says(more):
    toy = Toy(spec(**more))
    assert toy.firing.sum() == pytest.approx(toy.spec.active, rel=1e-9)
    lead = toy.truth.subspace < 0
    ratio = toy.firing / toy.firing.min()
    assert (np.diff(toy.firing) <= 1e-15).all()
    assert ratio[lead & (toy.firing < 1)].max() > (1 if toy.spec.zipf else 0)
    seen = np.concatenate([toy.coefficients(b) != 0 for b in range(80)])
    error = np.sqrt(toy.firing * (1 - toy.firing) / len(seen))
    assert (np.abs(seen.mean(0) - toy.firing) <= 4.5 * error + 1e-9).all()


def test_trees_have_levels_and_a_child_needs_its_parent():
    toy = Toy(spec(**STRUCTURED))
    truth = toy.truth
    assert np.bincount(truth.depth).tolist() == [120 - 6 - 18, 6, 18]
    child = np.flatnonzero(truth.parent >= 0)
    assert (truth.depth[truth.parent[child]] == truth.depth[child] - 1).all()
    assert np.unique(truth.parent[child], return_counts=True)[1].tolist() == [3] * 8
    seen = np.concatenate([toy.coefficients(b) > 0 for b in range(40)])
    assert not (seen[:, child] & ~seen[:, truth.parent[child]]).any()
    assert seen[:, child].any()


def test_planted_subspaces_have_no_preferred_direction():
    toy = Toy(spec(**STRUCTURED))
    bases = toy.truth.bases
    assert bases.shape == (4, 3, 24)
    for basis in bases:
        np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-6)
    codes = np.concatenate([toy.coefficients(b) for b in range(200)])
    for number in range(4):
        inside = codes[:, toy.truth.subspace == number]
        inside = inside[(inside != 0).any(1)]
        length = np.linalg.norm(inside, axis=1)
        assert length.mean() == pytest.approx(1, abs=0.03)
        u = inside / length[:, None]
        np.testing.assert_allclose(u.mean(0), 0, atol=4 / np.sqrt(3 * len(u)))
        np.testing.assert_allclose(u.T @ u / len(u), np.eye(3) / 3, atol=2 / np.sqrt(len(u)))


def test_factors_make_firing_correlate_in_few_dimensions():
    more = {"active": 30.0, "factors": 1, "factor_share": 0.5, "zipf": 0.0}
    toy = Toy(spec(**SIZE | more))
    seen = np.concatenate([toy.coefficients(b) > 0 for b in range(30)])
    c = np.corrcoef(seen.T)[np.triu_indices(120, 1)]
    # one factor of either sign: pairs go together or apart, none is left alone
    assert (np.abs(c) > 0.1).all()
    assert (c > 0).any()
    assert (c < 0).any()


def test_a_structured_block_is_the_same_however_it_is_made(monkeypatch):
    toy = Toy(spec(**STRUCTURED))
    whole = toy.rows(5)
    np.testing.assert_allclose(toy.sparse(5).toarray(), toy.coefficients(5))
    dense = toy.coefficients(5) @ toy.features
    assert (whole - dense).std() == pytest.approx(toy.spec.noise, rel=0.1)
    monkeypatch.setattr("reseed.subjects.toy._LEVELS", 120 * 7)
    np.testing.assert_allclose(toy.rows(5), whole, atol=1e-6)


def test_what_came_later_leaves_older_ids_alone():
    """Digest and bytes of toys from before there were trees and subspaces."""
    old = {"active": 4.0, "group": 5, "correlation": 0.6, "hierarchy": True}
    assert digest(spec().model_dump(mode="json"), 8) == "833ecdd0"
    assert digest(spec(**old).model_dump(mode="json"), 8) == "5926d323"
    assert "roots" in spec(roots=1, depth=1).model_dump()
    again = ToySpec(**spec(**STRUCTURED).model_dump())
    assert again == spec(**STRUCTURED)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"roots": 40}, "840 features in trees"),
        ({"subspaces": 30, "rank": 5}, "150 in subspaces"),
        ({"subspaces": 1, "rank": 30}, "rank = 30 is above dimensions = 24"),
        ({"group": 4}, "do not go with"),
        ({"correlation": 0.2}, "do not go with"),
    ],
)
def test_structure_that_cannot_be_is_refused(more, words):
    given = STRUCTURED | {"children": 4} | more
    with pytest.raises(ValueError, match=words):
        spec(**given)


# -- pools -----------------------------------------------------------------------------------------


def test_a_draw_has_exactly_so_many_of_one_pool():
    spec = ToySpec(
        kind="toy", features=50, dimensions=16, active=6, draw="exactly", pools=4, decay=0.9,
        magnitude="uniform", noise=0.0, block=2000,
    )  # fmt: skip
    toy = Toy(spec)
    found = toy.coefficients(0)
    assert ((found > 0).sum(1) == 6).all()
    assert found[found > 0].min() > 0
    assert found.max() < 1
    pools = [set(p.tolist()) for p in toy_truth.pool_of(spec)]
    assert [len(p) for p in pools] == [13, 13, 12, 12]
    for row in found[:100]:
        assert any(set(np.flatnonzero(row).tolist()) <= pool for pool in pools)
    fired = np.concatenate([toy.coefficients(b) > 0 for b in range(20)]).mean(0)
    assert toy.firing.sum() == pytest.approx(6)
    # 40,000 samples: 5 standard errors of a share of about .12
    assert np.abs(fired - toy.firing).max() < 5 * (0.12 * 0.88 / 40_000) ** 0.5


def test_inclusion_is_that_of_drawing_one_by_one():
    """The plain twin: all orders of drawing."""
    weights, count = np.array([1.0, 0.5, 0.3, 0.05]), 2
    want = np.zeros(4)
    for i, j in itertools.permutations(range(4), count):
        p = weights[i] / weights.sum() * weights[j] / (weights.sum() - weights[i])
        want[[i, j]] += p
    np.testing.assert_allclose(toy_truth.inclusion(weights, count), want, atol=1e-6)
    np.testing.assert_allclose(toy_truth.inclusion(np.ones(10), 3), 0.3)


def test_toys_without_pools_keep_their_digest():
    told = ToySpec(kind="toy").model_dump(mode="json")
    assert not {"draw", "pools", "decay", "magnitude"} & set(told)


def test_a_draw_that_cannot_be_is_refused():
    for change, words in (
        ({"pools": 2}, "go with draw"),
        ({"draw": "exactly", "active": 2.5}, "whole number"),
        ({"draw": "exactly", "pools": 8, "active": 9}, "pool of 8"),
        ({"draw": "exactly", "active": 2, "correlation": 0.3}, "no other structure"),
        ({"draw": "exactly", "active": 2, "zipf": 0.3}, "zipf is a part of draw = .copula."),
        ({"correlation": 0.3}, "correlation is a part of group"),
        ({"hierarchy": True}, "hierarchy is a part of group"),
        ({"factor_share": 0.3}, "factor_share is a part of factors"),
        ({"depth": 2}, "depth is a part of roots"),
        ({"rank": 3, "roots": 1}, "rank is a part of subspaces"),
    ):
        with pytest.raises(ValueError, match=words):
            ToySpec(kind="toy", features=64, dimensions=8, **change)
