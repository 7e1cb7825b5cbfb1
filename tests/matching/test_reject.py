"""Matching with a reject option against the dense solver on max(S - lambda, 0)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import reseed
from reseed.errors import SpecError
from reseed.matching.entries import dense
from reseed.matching.geometry import Limits, cosine

pytest.importorskip("numba")
from reseed.matching.exact import match_above, pairs_above  # noqa: E402


def overlapping(n: int, m: int, d: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    k = min(n, m) // 2
    b[:k] = a[rng.integers(0, n, k)] + 0.4 * b[:k]
    return a, b


def check(a, b, least: float) -> None:
    S = dense(cosine(a, b))
    gain = np.maximum(S - least, 0)
    best = gain[linear_sum_assignment(gain, maximize=True)].sum()
    for found in (match_above(cosine(a, b), least, Limits()), reseed.match(a, b, reject=least)):
        assert found.primal == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert found.optimal
        assert found.certificate.reject == least
        assert (found.similarity > least).all()
        assert len(set(found.pairs[:, 0])) == len(set(found.pairs[:, 1])) == len(found.pairs)
        np.testing.assert_allclose(S[tuple(found.pairs.T)], found.similarity, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(-0.5, 0.99), st.integers(0, 10**6))
def test_same_as_dense_small(n: int, m: int, least: float, seed: int) -> None:
    check(*overlapping(n, m, seed=seed), least)


@pytest.mark.parametrize("least", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(("n", "m"), [(500, 500), (300, 800), (800, 300), (1500, 1400)])
def test_same_as_dense(n: int, m: int, least: float) -> None:
    check(*overlapping(n, m), least)


def test_all_pairs_above_are_found() -> None:
    a, b = overlapping(1300, 2500)
    S = dense(cosine(a, b))
    edges = pairs_above(cosine(a, b), 0.4)
    assert set(zip(edges.row, edges.column, strict=True)) == set(
        zip(*np.nonzero(S > 0.4), strict=True)
    )
    np.testing.assert_allclose(edges.value, S[edges.row, edges.column], atol=1e-12)


def test_nothing_above_is_no_pairs() -> None:
    found = match_above(cosine(np.eye(4)[:2], np.eye(4)[2:]), 0.5, Limits())
    assert found.pairs.shape == (0, 2)
    assert found.optimal
    assert found.primal == 0


def test_families_are_settled_inside_their_component() -> None:
    a = np.eye(6)
    b = np.eye(6)[[3, 1, 5]]
    found = match_above(cosine(a, b), 0.5, Limits())
    assert found.pairs.tolist() == [[1, 1], [3, 0], [5, 2]]
    assert found.certificate.largest_component == 2


def test_a_threshold_that_rejects_nothing_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("reseed.matching.exact.MOST_PAIRS", 10)
    with pytest.raises(SpecError, match="more than 10 pairs"):
        match_above(cosine(np.ones((9, 3)), np.ones((9, 3))), 0.5, Limits())
