"""Matching by activations, against SciPy on the dense similarities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

import reseed
from reseed.errors import SpecError
from reseed.matching.geometry import Limits

pytest.importorskip("numba")
from reseed.matching import activations  # noqa: E402
from reseed.matching.sparse import Edges, match_edges


def two_runs(tokens: int, n: int, m: int, seed: int, rate: float = 0.1):
    """Half of B's latents fire nearly as one of A does."""
    rng = np.random.default_rng(seed)

    def alone(size: int) -> np.ndarray:
        return rng.exponential(size=(tokens, size)) * (rng.random((tokens, size)) < rate)

    a, b = alone(n), alone(m)
    for j in range(m // 2):
        heard = rng.random(tokens) < 0.8
        b[:, j] = np.where(heard, a[:, rng.integers(n)] * rng.uniform(0.5, 2), b[:, j])
    return a, b


def similarity(measure: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if measure == "jaccard":
        both = (a > 0).T.astype(float) @ (b > 0)
        return both / np.maximum((a > 0).sum(0)[:, None] + (b > 0).sum(0) - both, 1)
    if len(a) == 1:
        return np.zeros((a.shape[1], b.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :])


def check(found, S: np.ndarray, reject: float | None) -> None:
    worth = S if reject is None else np.maximum(S - reject, 0)
    best = worth[linear_sum_assignment(worth, maximize=True)].sum()
    assert found.optimal
    assert found.primal == pytest.approx(best, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(found.similarity, S[tuple(found.pairs.T)], atol=1e-9)
    assert len(set(found.pairs[:, 0])) == len(set(found.pairs[:, 1])) == len(found.pairs)
    assert (np.diff(found.pairs[:, 0]) > 0).all()
    assert found.certificate.reject == reject
    if reject is None:
        assert len(found.pairs) == min(S.shape)
    else:
        assert (found.similarity > reject).all()


@pytest.mark.parametrize(
    ("measure", "reject"), [("correlation", 0.0), ("jaccard", 0.0), ("jaccard", None)]
)
@pytest.mark.parametrize("solver", ["dense", "sparse"])
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 60), st.integers(0, 10**6))
def test_same_as_dense(measure, reject, solver, n: int, m: int, tokens: int, seed: int) -> None:
    a, b = two_runs(tokens, n, m, seed)
    S = similarity(measure, a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "dense_is_chosen", lambda _: solver == "dense")
        check(reseed.match_activations(a, b, measure=measure, reject=reject), S, reject)


@pytest.mark.parametrize("measure", ["correlation", "jaccard"])
@pytest.mark.parametrize("reject", [0.0, 0.2, 0.5])
def test_larger_ones(measure: str, reject: float) -> None:
    a, b = two_runs(2000, 300, 400, 0, rate=0.03)
    S = similarity(measure, a, b)
    check(reseed.match_activations(a, b, measure=measure, reject=reject), S, reject)
    edges = Edges(*np.nonzero(S), S[np.nonzero(S)])
    check(match_edges(edges, S.shape, reject, Limits()), S, reject)


def test_a_shuffled_rescaled_copy_is_recovered() -> None:
    a, _ = two_runs(1000, 80, 2, 3)
    order = np.random.default_rng(0).permutation(80)
    found = reseed.match_activations(a, 7.5 * a[:, order], reject=0.5)
    assert np.array_equal(order[found.pairs[:, 1]], found.pairs[:, 0])
    np.testing.assert_allclose(found.similarity, 1.0)


def test_swap_changes_nothing() -> None:
    a, b = two_runs(800, 50, 60, 4)
    one, two = reseed.match_activations(a, b), reseed.match_activations(b, a)
    assert one.primal == pytest.approx(two.primal)
    assert {tuple(p) for p in one.pairs} == {tuple(p[::-1]) for p in two.pairs}


def test_chunks_of_any_kind_are_the_whole() -> None:
    a, b = two_runs(500, 30, 40, 5)
    want = reseed.match_activations(a, b, reject=0.1)
    parts = [(a[low : low + 70], b[low : low + 70]) for low in range(0, 500, 70)]
    sparse = [(csr_array(x), csr_array(y)) for x, y in parts]
    for found in (
        reseed.match_activations(csr_array(a), b.astype(np.float64), reject=0.1),
        reseed.match_activations((x for x, _ in parts), (y for _, y in parts), reject=0.1),
        reseed.match_activations(iter(sparse), reject=0.1),
        reseed.match_activations([x for x, _ in sparse], [y for _, y in parts], reject=0.1),
    ):
        np.testing.assert_array_equal(found.pairs, want.pairs)
        np.testing.assert_allclose(found.similarity, want.similarity)


def test_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    a, b = two_runs(100, 10, 12, 6)
    found = reseed.match_activations(torch.tensor(a, requires_grad=True), torch.tensor(b))
    np.testing.assert_array_equal(found.pairs, reseed.match_activations(a, b).pairs)


def test_what_never_fires_together_is_not_matched() -> None:
    a, b = np.eye(6)[:, :3], np.eye(6)[:, 3:]
    assert reseed.match_activations(a, b).pairs.shape == (0, 2)
    full = reseed.match_activations(a, b, measure="jaccard", reject=None)
    assert full.pairs.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert full.primal == 0


def test_out_of_time_is_not_called_optimal(monkeypatch) -> None:
    a, b = two_runs(2000, 300, 300, 7)
    monkeypatch.setattr(activations, "dense_is_chosen", lambda _: False)
    found = reseed.match_activations(a, b, measure="jaccard", reject=None, seconds=0.0)
    S = similarity("jaccard", a, b)
    assert len(found.pairs) == 300
    np.testing.assert_allclose(found.similarity, S[tuple(found.pairs.T)])
    best = S[linear_sum_assignment(S, maximize=True)].sum()
    assert found.primal <= best + 1e-9 <= found.dual + 2e-9
    assert found.optimal == (found.gap <= found.tolerance)


@pytest.mark.parametrize(
    ("given_", "more", "says"),
    [
        ((np.ones((3, 2)), np.ones((4, 2))), {}, "3 tokens and B of 4"),
        ((np.ones((3, 2)), np.ones((3, 2))), {"reject": None}, "reject=0 or more"),
        ((np.ones((3, 2)), np.ones((3, 2))), {"reject": -0.1}, "give 0 or more"),
        ((np.ones((3, 2)), np.ones((3, 2))), {"reject": np.nan}, "give 0 or more"),
        ((np.ones((3, 2)), np.ones((3, 2))), {"measure": "cosinus"}, "no measure"),
        ((np.ones((3, 2)), -np.ones((3, 2))), {}, "B: 6 codes are negative"),
        ((np.ones((3, 2)),), {}, "a ndarray: give codes"),
        ((3, 4), {}, "a int: give codes"),
        (([np.ones((3, 2))],), {}, "item 0 is no pair"),
        (([],), {}, "no codes"),
        (([], []), {}, "no codes"),
        (([np.ones((3, 2))], []), {}, "fewer chunks of B"),
        (([[1, 2]], [[1, 2]]), {}, "chunk 0 of A must be codes"),
    ],
)
def test_nonsense_is_refused(given_, more, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        reseed.match_activations(*given_, **more)
