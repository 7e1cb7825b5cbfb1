"""Made-up activations keep what they are said to keep and depend on what they are said to."""

import numpy as np
import pytest
import torch

from reseed.errors import StoreError
from reseed.events import Events
from reseed.store import Store
from reseed.subjects.arrays import MemorySource
from reseed.subjects.controls import (
    GaussianSource,
    estimate_moments,
    moments_name,
    read_moments,
    shuffled,
)
from reseed.subjects.source import Stream


def skewed(rows=4000, seed=0):
    """Correlated rows that are far from Gaussian, with a mean."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(rows, 3)) @ rng.normal(size=(3, 5)) + np.arange(5.0)


@pytest.fixture
def source():
    return MemorySource({"x": skewed(), "y": skewed(seed=1)[:, :2].copy()}, 100)


@pytest.fixture
def gaussian(source, tmp_path):
    store, blocks = Store(tmp_path), np.arange(30)
    estimate_moments(source, blocks, store, {"x": "mine", "y": "mine"}, Events())
    return GaussianSource({site: read_moments(store, site) for site in "xy"})


def every(source):
    return {site: x.numpy() for site, x in source.read(range(len(source.rows))).items()}


def test_moments_are_those_of_the_training_rows(source, gaussian, tmp_path):
    for site in "xy":
        x = source.read(range(30))[site].double().numpy()
        found = read_moments(Store(tmp_path), site)
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.root @ found.root, np.cov(x.T, bias=True), atol=1e-5)
        assert found.rows.tolist() == source.rows.tolist()
    with pytest.raises(StoreError, match=moments_name("z")):
        read_moments(Store(tmp_path), "z")


def test_gaussian_rows_have_the_moments_and_no_more(source, gaussian):
    real, made = every(source)["x"], every(gaussian)["x"]
    assert made.shape == real.shape
    assert made.dtype == np.float32
    scale = real.std(0)
    np.testing.assert_allclose(made.mean(0), real.mean(0), atol=0.1 * scale.max())
    np.testing.assert_allclose(np.cov(made.T), np.cov(real.T), atol=0.1 * scale.max() ** 2)

    def skew(x):
        return (((x - x.mean(0)) / x.std(0)) ** 3).mean(0)

    assert np.abs(skew(real)).max() > 1
    assert np.abs(skew(made)).max() < 0.2
    # the real rows lie in a plane of three dimensions, and so do the made ones
    assert np.linalg.matrix_rank(np.cov(made.T), tol=1e-3) == 3


def test_a_gaussian_block_depends_on_its_number_and_site_alone(gaussian):
    alone, among = gaussian.read([7])["x"], gaussian.read([3, 7, 1])["x"]
    assert torch.equal(alone, among[100:200])
    assert not torch.equal(gaussian.read([8])["x"], alone)
    only = GaussianSource({"x": gaussian._moments["x"]})
    assert torch.equal(only.read([7])["x"], alone)
    assert gaussian.read([])["x"].shape == (0, 5)


def test_shuffled_rows_keep_each_dimension_and_nothing_between(source):
    real, made = every(source)["x"], every(shuffled(source))["x"]
    np.testing.assert_array_equal(np.sort(made, axis=0), np.sort(real, axis=0))
    assert np.abs(np.corrcoef(real.T) - np.eye(5)).max() > 0.5
    assert np.abs(np.corrcoef(made.T) - np.eye(5)).max() < 0.06


def test_shuffled_rows_depend_on_the_blocks_that_are_read(source):
    mixed = shuffled(source)
    assert torch.equal(mixed.read([1, 2])["x"], mixed.read([1, 2])["x"])
    assert not torch.equal(mixed.read([1, 2])["x"][:100], mixed.read([1])["x"])
    alone = MemorySource({"x": skewed()}, 100)
    assert torch.equal(shuffled(alone).read([1, 2])["x"], mixed.read([1, 2])["x"])
    assert mixed.read([])["x"].shape == (0, 5)


@pytest.mark.parametrize("kind", ["gaussian", "shuffled"])
def test_a_stream_of_them_needs_no_history(source, gaussian, kind):
    made = gaussian if kind == "gaussian" else shuffled(source)

    def stream():
        return Stream(made, np.arange(30), data_seed=4, batch=70, mix=8)

    whole, late = stream(), stream()
    found = [whole.batch(i)["x"] for i in range(50)]
    assert torch.equal(found[49], late.batch(49)["x"])
    assert torch.equal(found[13], late.batch(13)["x"])
    assert not torch.equal(found[0], found[1])


def test_rows_that_are_all_alike_are_drawn_alike(tmp_path):
    source = MemorySource({"x": np.ones((300, 4))}, 100)
    estimate_moments(source, np.arange(2), Store(tmp_path), {"x": ""}, Events())
    made = GaussianSource({"x": read_moments(Store(tmp_path), "x")})
    torch.testing.assert_close(made.read([0])["x"], torch.ones(100, 4))
