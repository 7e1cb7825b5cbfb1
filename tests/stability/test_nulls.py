"""Random dictionaries keep what they are said to keep, and agree as much as was measured."""

from typing import get_args

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from reseed.matching.assignment import assign
from reseed.matching.blocks.multiplier import few_threads
from reseed.matching.match import Views, compare
from reseed.matching.measures import SHARED, scores, share_at
from reseed.spec.training import Control
from reseed.stability import decoys as decoys_module
from reseed.stability import shares
from reseed.stability.nulls import CONTROLS, CovarianceNull


def spectrum(n, d, power, seed):
    """Independent unit rows whose amplitudes fall as k^-power over dimensions."""
    rows = np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) ** -float(power)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def agreement(a, b):
    """Mean max |cos|; mean of the signed assignment, and the shares of its pairs above .5, .7."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    similarity = a @ b.T
    matched = assign(similarity).similarity
    largest = np.abs(similarity).max(axis=1).mean()
    return largest, matched.mean(), (matched > 0.5).mean(), (matched > 0.7).mean()


def views(n, d, power, seed):
    """Encoder rows are decoder rows with a bit of noise, as after a training."""
    decoder = spectrum(n, d, power, seed)
    noise = np.random.default_rng(seed + 100).normal(size=(n, d)) * 0.2 / np.sqrt(d)
    return Views(3 * (decoder + noise), decoder)


# measured on independent random dictionaries: mean max |cos|, assignment mean, share > .5, > .7
TABLE = {
    (128, 1024, 0.0): (0.300, 0.272, 0.0, 0.0),
    (128, 1024, 0.5): (0.548, 0.488, 0.43, 0.026),
    (128, 1024, 1.0): (0.871, 0.829, 0.995, 0.88),
}
LARGE = {(768, 8192, 0.0): 0.143, (768, 8192, 0.5): 0.464, (512, 4096, 1.0): 0.885}
"""mean max |cos|; the exact assignment of these takes minutes"""


def check(found, wanted):
    np.testing.assert_allclose(found[:2], wanted[:2], atol=0.01)
    np.testing.assert_allclose(found[2:], wanted[2:], atol=0.035)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_independent_dictionaries_and_the_covariance_null_agree_as_much_as_was_measured(case):
    d, n, power = case
    rows = [spectrum(n, d, power, seed) for seed in (0, 1)]
    check(agreement(*rows), TABLE[case])
    nulls = [CovarianceNull(Views(r, r)) for r in rows]
    check(agreement(*(null.draw("test", side).decoder for side, null in enumerate(nulls))),
          TABLE[case])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_larger_dictionaries_are_as_near_as_was_measured(case):
    d, n, power = case
    a, b = (spectrum(n, d, power, seed).astype(np.float32) for seed in (0, 1))
    assert np.abs(a @ b.T).max(axis=1).mean() == pytest.approx(LARGE[case], abs=0.003)


def test_draws_depend_on_their_key_alone():
    null = CovarianceNull(views(40, 10, 0.5, 0))
    first, again, other = null.draw("pair", "a", 0), null.draw("pair", "a", 0), null.draw("b")
    for one, two in zip(first, again, strict=True):
        assert one.shape == (40, 10)
        assert np.array_equal(one, two)
    assert not np.array_equal(first.decoder, other.decoder)


def test_the_null_of_runs_that_agree_says_little():
    """Two noisy copies of a flat dictionary share everything; the null of them shares nothing."""
    one = views(100, 40, 0.0, 0)
    noise = np.random.default_rng(5).normal(size=(100, 40)) * 0.05
    pair = {"a": one, "b": Views(one.encoder + 3 * noise, one.decoder + noise)}
    nulls = {run: CovarianceNull(v) for run, v in pair.items()}
    (draw,) = shares.draw_nulls(("a", "b"), nulls, 1)

    def shared(table):
        return share_at(scores(table, SHARED), np.array([0.7]), strict=False)[0]

    assert shared(compare(*pair.values()).table) == 1.0
    assert shared(draw.table) == 0.0


def test_every_kind_of_control_has_its_null():
    assert set(CONTROLS) == set(get_args(Control))
    assert len({null for null, _ in CONTROLS.values()}) == len(CONTROLS)
    assert CONTROLS["gaussian"][0] == "N5a"


def test_chance_of_small_dictionaries_takes_one_thread_of_blas(monkeypatch):
    rng, seen = np.random.default_rng(0), list[int]()

    def watched(function):
        def call(*args, **kwargs):
            seen.extend(blas_threads())
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(shares, "compare", watched(shares.compare))
    monkeypatch.setattr(decoys_module, "raise_best", watched(decoys_module.raise_best))
    monkeypatch.setattr(np.linalg, "eigh", watched(np.linalg.eigh))
    with threadpool_limits(2, user_api="blas"):
        views = [Views(*(rng.standard_normal((40, 8)) for _ in "ed")) for _ in "ab"]
        a, b = (CovarianceNull(rows) for rows in views)
        decoys_module.decoys(a, b, 0)
        shares.draw_nulls(("a", "b"), {"a": a, "b": b}, 1)
        assert set(seen) == {1}
        with few_threads(100_000):
            assert set(blas_threads()) == {2}


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
