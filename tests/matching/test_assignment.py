"""The assignment against SciPy's objective, its certificate, and what it must refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import reseed
from reseed.errors import SpecError
from reseed.matching.assignment import assign, column_prices, dual_value


def rows(n: int, d: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (9, 1), (40, 40), (30, 50), (50, 30)])
def test_optimal_and_proven(n: int, m: int) -> None:
    found = reseed.match(rows(n), rows(m, seed=1))
    assert found.pairs.shape == (min(n, m), 2)
    assert len(set(found.pairs[:, 0])) == len(set(found.pairs[:, 1])) == min(n, m)
    assert found.primal == pytest.approx(found.similarity.sum())
    assert found.optimal
    assert -1e-12 < found.gap <= found.tolerance


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_heavy_ties_are_proven_too(n: int, m: int, data) -> None:
    numbers = data.draw(st.lists(st.integers(-1, 1), min_size=n * m, max_size=n * m))
    S = np.array(numbers, dtype=float).reshape(n, m)
    assert assign(S).optimal


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(0, 3), st.integers(0, 10_000))
def test_a_worse_assignment_is_never_called_optimal(n: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    S = rng.normal(size=(n, n + more))
    best = S[linear_sum_assignment(S, maximize=True)].sum()
    partner = rng.permutation(n + more)[:n]
    bound = dual_value(S, column_prices(S, partner))
    assert bound >= best - 1e-9
    if S[np.arange(n), partner].sum() < best - 1e-6:
        assert bound - S[np.arange(n), partner].sum() > 1e-7


def test_a_shuffled_copy_is_recovered() -> None:
    A, order = rows(200), np.random.default_rng(5).permutation(200)
    found = reseed.match(A, 7.5 * A[order])
    assert np.array_equal(order[found.pairs[:, 1]], found.pairs[:, 0])
    np.testing.assert_allclose(found.similarity, 1.0)


def test_swap_and_rescaling_change_nothing() -> None:
    A, B = rows(30), rows(45, seed=1)
    one, two = reseed.match(A, B), reseed.match(B * 3.0, A * 1e-30)
    assert one.primal == pytest.approx(two.primal)
    assert {tuple(p) for p in one.pairs} == {tuple(p[::-1]) for p in two.pairs}


def test_the_sign_counts() -> None:
    A = rows(8)
    assert reseed.match(A, -A).primal < 8 * 0.9


def test_a_zero_row_is_like_nothing_and_poisons_nothing() -> None:
    A = rows(6)
    A[2] = 0
    found = reseed.match(A, A)
    assert found.similarity[2] == 0
    assert found.primal == pytest.approx(5)


def test_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    A = rows(5)
    with_grad = torch.tensor(A, requires_grad=True)
    assert reseed.match(with_grad, torch.tensor(A)).primal == pytest.approx(5)


@pytest.mark.parametrize(
    ("A", "B", "says"),
    [
        (np.full((3, 4), np.nan), np.ones((3, 4)), "A: 3 of 3 rows have NaN"),
        (np.ones((3, 4)), np.ones((3, 5)), "rows of 4 dimensions and B of 5"),
        (np.ones(4), np.ones((3, 4)), "A must be a matrix"),
        (np.ones((0, 4)), np.ones((3, 4)), "A must be a matrix"),
        (np.array([["a"]]), np.ones((1, 1)), "A must be a matrix"),
    ],
)
def test_nonsense_is_refused(A, B, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        reseed.match(A, B)


def test_too_large_for_dense_is_refused_before_any_memory(monkeypatch) -> None:
    monkeypatch.setattr("reseed.matching.entries.DENSE_LIMIT", 99)
    with pytest.raises(SpecError, match="10 x 10 similarities"):
        reseed.match(rows(10), rows(10))
