"""The assignment without the matrix against SciPy's dense one."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import reseed
from reseed.errors import SpecError
from reseed.matching import candidates, entries
from reseed.matching.blocks import passes
from reseed.matching.entries import dense
from reseed.matching.geometry import (
    Limits,
    cosine,
    in_parts,
    least_cosine,
    mean_cosine,
    whitened,
)

pytest.importorskip("numba")
from reseed.matching import sparse  # noqa: E402
from reseed.matching.exact import exact  # noqa: E402

SIZES = [(1, 1), (1, 40), (40, 1), (33, 33), (200, 200), (300, 500), (500, 300), (1200, 1200)]


def random(n: int, m: int, d: int = 24, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d))


def planted(n: int, m: int, d: int = 24, seed: int = 0):
    a, b = random(n, m, d, seed)
    k = min(n, m) * 2 // 3
    b[:k] = a[:k] + 0.3 * b[:k]
    return a, b[np.random.default_rng(seed + 1).permutation(m)]


def tied(n: int, m: int, d: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    return (rng.integers(-1, 2, size=(k, d)).astype(float) for k in (n, m))


def anisotropic(n: int, m: int, d: int = 24, seed: int = 0):
    a, b = random(n, m, d, seed)
    return a / np.arange(1, d + 1), b / np.arange(1, d + 1)


def duplicated(n: int, m: int, d: int = 8, seed: int = 0):
    a, b = random(n, m, d, seed)
    rng = np.random.default_rng(seed)
    return a[rng.integers(0, max(1, n // 6), n)], b[rng.integers(0, max(1, m // 9), m)]


def constant(n: int, m: int, d: int = 4, seed: int = 0):
    return np.ones((n, d)), np.ones((m, d))


CASES = [random, planted, tied, anisotropic, duplicated, constant]


def check(a, b, found=None) -> reseed.Match:
    """Same objective as SciPy; proven; the same assignment where it is the only one."""
    geometry = cosine(a, b)
    found = found or exact(geometry, Limits())
    S = dense(geometry)
    rows, columns = linear_sum_assignment(S, maximize=True)
    best = S[rows, columns].sum()
    assert found.primal == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert found.dual >= best - 1e-9 * max(1, abs(best))
    assert found.optimal
    assert found.gap <= found.tolerance
    n = min(S.shape)
    assert found.pairs.shape == (n, 2)
    assert len(set(found.pairs[:, 0])) == len(set(found.pairs[:, 1])) == n
    np.testing.assert_allclose(S[tuple(found.pairs.T)], found.similarity, atol=1e-12)
    if found.certificate.ties == 0:
        np.testing.assert_array_equal(found.pairs, np.stack([rows, columns], axis=1))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_same_as_dense(case, n: int, m: int) -> None:
    check(*case(n, m))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_same_as_dense_at_4096(case) -> None:
    check(*case(4096, 4096, 64))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CASES), st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
@example(tied, 4, 4, 0)
def test_same_as_dense_small(case, n: int, m: int, seed: int) -> None:
    check(*case(n, m, seed=seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 10**6))
@example(2, 2, 39)
def test_few_candidates_are_mended_by_pricing(n: int, m: int, seed: int) -> None:
    """One candidate a row and a column: nearly everything has to come in by its price."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reseed.matching.exact.ROOM", 1)
        check(*planted(n, m, 5, seed))
        check(*tied(n, m, 3, seed))


def test_small_blocks_and_their_bounds(monkeypatch) -> None:
    """Bounds rule out part of the blocks, and what is left suffices."""
    monkeypatch.setattr(passes, "ROWS", 64)
    monkeypatch.setattr(passes, "COLUMNS", 96)
    monkeypatch.setattr(candidates, "PRICE_ROWS", 32)
    monkeypatch.setattr("reseed.matching.exact.ROOM", 8)
    for case in (planted, anisotropic, random):
        found = check(*case(700, 700))
        assert found.certificate.products < found.certificate.rounds + 1


def test_one_thread_and_two_give_the_same(monkeypatch) -> None:
    a, b = planted(300, 280)
    found = []
    for size in (10**6, 16):
        monkeypatch.setattr(in_parts, "__defaults__", (size,))
        monkeypatch.setattr(entries, "_SCORED", size)
        monkeypatch.setattr(sparse, "_AT_ONCE", size)
        found.append(exact(cosine(a, b), Limits()))
    one, two = found
    np.testing.assert_array_equal(one.pairs, two.pairs)
    np.testing.assert_array_equal(one.similarity, two.similarity)
    assert (one.dual, one.certificate.edges) == (two.dual, two.certificate.edges)


def test_float32_is_scored_in_float64() -> None:
    a, b = (x.astype(np.float32) for x in planted(300, 300))
    found = check(a, b)
    S = dense(cosine(a.astype(np.float64), b.astype(np.float64)))
    np.testing.assert_allclose(S[tuple(found.pairs.T)], found.similarity, atol=1e-12)


@pytest.mark.parametrize("case", [planted, random, anisotropic], ids=lambda f: f.__name__)
def test_order_swap_and_scale_change_nothing(case) -> None:
    a, b = case(400, 600)
    rng = np.random.default_rng(3)
    p, q = rng.permutation(400), rng.permutation(600)
    plain = check(a, b)
    pairs = {tuple(pair) for pair in plain.pairs}
    shuffled = check(a[p], b[q])
    assert {(p[i], q[j]) for i, j in shuffled.pairs} == pairs
    swapped = check(b, a)
    assert {(j, i) for i, j in swapped.pairs} == pairs
    scale = 10.0 ** rng.uniform(-200, 100, size=(400, 1))
    scaled = check(a * scale, b * 1e-300)
    assert {tuple(pair) for pair in scaled.pairs} == pairs


def test_ties_are_counted() -> None:
    a = np.eye(6)
    a[1] = a[0]
    assert exact(cosine(a, a), Limits()).certificate.ties == 2
    assert exact(cosine(np.eye(6), np.eye(6)), Limits()).certificate.ties == 0
    assert check(*constant(7, 7)).certificate.ties == 7
    # a second copy among the spare columns is as good
    assert exact(cosine(np.eye(3), np.eye(3)[[0, 1, 2, 2]]), Limits()).certificate.ties == 1


def test_out_of_time_says_so() -> None:
    a, b = planted(900, 900)
    best = check(a, b).primal
    for seconds in (0.0, 0.01, 0.05):
        found = exact(cosine(a, b), Limits(seconds=seconds))
        assert found.pairs.shape == (900, 2)
        assert len(set(found.pairs[:, 1])) == 900
        assert found.primal <= best + 1e-9 <= found.dual + 2e-9
        assert found.optimal == (found.certificate.ended == "proven")
    stopped = exact(cosine(a, b), Limits(seconds=0.0))
    assert not stopped.optimal
    assert stopped.certificate.ended == "out of time"
    assert stopped.certificate.ties is None


def test_out_of_rounds_says_so(monkeypatch) -> None:
    monkeypatch.setattr("reseed.matching.exact.ROOM", 1)
    a, b = random(300, 300)
    found = exact(cosine(a, b), Limits(rounds=1))
    assert not found.optimal
    assert found.certificate.ended == "out of rounds"
    assert found.primal <= check(a, b).primal <= found.dual


def test_the_door_takes_the_sparse_path_above_a_size(monkeypatch) -> None:
    a, b = planted(60, 70)
    dense_ = reseed.match(a, b)
    monkeypatch.setattr("reseed.matching.assignment.DENSE_BELOW", 0)
    sparse = reseed.match(a, b)
    assert "dense" in dense_.certificate.solver
    assert "dense" not in sparse.certificate.solver
    np.testing.assert_array_equal(dense_.pairs, sparse.pairs)
    with pytest.raises(SpecError, match="rows have NaN"):
        reseed.match(a * np.nan, b)


def test_zero_rows_are_like_nothing() -> None:
    a, b = planted(80, 90)
    a[5] = b[7] = 0
    found = check(a, b)
    assert found.similarity[5] == 0


def test_other_similarities_against_dense() -> None:
    a, b = planted(150, 170)
    c, d = planted(150, 170, 30, seed=4)
    first, second = dense(cosine(a, b)), dense(cosine(c, d))
    views = [(a, b), (c, d)]
    np.testing.assert_allclose(dense(mean_cosine(views)), (first + second) / 2, atol=1e-12)
    np.testing.assert_allclose(dense(least_cosine(views)), np.minimum(first, second), atol=1e-12)
    for geometry in (mean_cosine(views), least_cosine(views)):
        S = dense(geometry)
        best = S[linear_sum_assignment(S, maximize=True)].sum()
        assert exact(geometry, Limits()).primal == pytest.approx(best, rel=1e-9)
    x = np.random.default_rng(0).normal(size=(5000, 24)) @ np.diag(np.arange(1, 25))
    C = x.T @ x / len(x)
    W = whitened(a, C)
    np.testing.assert_allclose((W * W).sum(1), np.einsum("fd,de,fe->f", a, C, a))
    with pytest.raises(SpecError, match="negative eigenvalue"):
        whitened(a, -C)
    with pytest.raises(SpecError, match="different numbers of latents"):
        least_cosine([(a, b), (c[:-1], d)])


def test_torch_products_give_the_same() -> None:
    pytest.importorskip("torch")
    a, b = planted(300, 300)
    # any name but "cpu" goes through torch; "cpu:0" is the one that every machine has
    found = check(a, b, exact(cosine(a, b, device="cpu:0"), Limits()))
    np.testing.assert_array_equal(found.pairs, check(a, b).pairs)


def test_rows_with_more_ties_than_room_are_settled_in_float64(monkeypatch) -> None:
    """The best of a row is told from near-copies of it that float32 cannot tell apart."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 6))
    b = a[rng.integers(0, 5, 300)] + 1e-9 * rng.normal(size=(300, 6))
    called = []
    plain = candidates._best_exactly
    monkeypatch.setattr(
        candidates, "_best_exactly", lambda *args: called.append(len(args[1])) or plain(*args)
    )
    S = dense(cosine(a, b))
    found = exact(cosine(a, b), Limits(tolerance=1e-13))
    assert called
    assert found.dual >= S[linear_sum_assignment(S, maximize=True)].sum() - 1e-11
    check(a, b)
