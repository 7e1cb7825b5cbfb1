import numpy as np
import pytest
import torch

from reseed.subjects.spec import ToySpec
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
