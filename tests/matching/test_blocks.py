"""Blocks in bfloat16 against float64; instances that rounding cannot tell apart stay proven."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from reseed.errors import SpecError
from reseed.matching.entries import dense
from reseed.matching.geometry import Limits, cosine, least_cosine, rows

pytest.importorskip("numba")
torch = pytest.importorskip("torch")
from reseed.loops import offers, products  # noqa: E402
from reseed.matching import candidates  # noqa: E402
from reseed.matching.blocks import multiplier as making  # noqa: E402
from reseed.matching.blocks import nearest, passes  # noqa: E402
from reseed.matching.blocks.multiplier import Multiplier  # noqa: E402
from reseed.matching.blocks.nearest import nearest_others  # noqa: E402
from reseed.matching.exact import exact, pairs_above  # noqa: E402


@pytest.fixture(params=["bfloat16", "int16", "float32", "NumPy"])
def kind(request, monkeypatch):
    """Products are made in this way, whatever is fast here."""
    monkeypatch.setattr(making, "TORCH_FROM", np.inf if request.param == "NumPy" else 0)
    product = "float32" if request.param == "NumPy" else request.param
    monkeypatch.setattr(making, "_product_of", lambda _: product)
    return request.param


def near_ties(n, m, d=32, seed=0):
    """Families whose members bfloat16 cannot tell apart, float32 hardly."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, d))
    sides = [centres[rng.integers(0, 6, k)] + 1e-6 * rng.normal(size=(k, d)) for k in (n, m)]
    return [side.astype(np.float32) for side in sides]


def duplicated(n, m, d=16, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n // 5, d)), rng.normal(size=(m // 7, d))
    b[:9] = a[:9]
    return a[rng.integers(0, len(a), n)], b[rng.integers(0, len(b), m)]


def huge_and_zero(n, m, d=24, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    b[:40] = a[:40] + 0.2 * rng.normal(size=(40, d))
    a *= 10.0 ** rng.uniform(-150, 150, size=(n, 1))
    a[3] = b[5] = 0
    return a, b


def opposite(n, m, d=6, seed=0):
    """Every similarity is below 0."""
    rng = np.random.default_rng(seed)
    return 1 + rng.random((n, d)), -1 - rng.random((m, d))


def equal(n, m):
    return np.ones((n, 4)), np.ones((m, 4))


CASES = [near_ties, duplicated, huge_and_zero, opposite, equal]


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(210, 210), (150, 320), (320, 150)], ids=str)
def test_hard_instances_are_proven(kind, case, shape) -> None:
    geometry = cosine(*case(*shape))
    S = dense(geometry)
    found = exact(geometry, Limits())
    best = S[linear_sum_assignment(S, maximize=True)].sum()
    assert found.optimal
    assert found.primal == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert found.dual >= best - 1e-9 * max(1, abs(best))
    np.testing.assert_allclose(S[tuple(found.pairs.T)], found.similarity, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_blocks_bound_from_above(kind, case) -> None:
    geometry = cosine(*case(90, 70))
    S = dense(geometry)
    chosen = np.array([3, 5, 80]), np.array([0, 5, 69])
    for rows_, columns in ((slice(10, 90), slice(0, 64)), chosen):
        multiplier = Multiplier(geometry, 90, 70)
        upper, exact_ = multiplier.uppers(rows_, columns), S[rows_][:, columns]
        assert (upper >= exact_).all()
        assert upper.max() <= 1.03
        assert (upper - exact_).max() < {"bfloat16": 0.025, "int16": 5e-4}.get(kind, 1e-4)
        assert np.abs(multiplier.block(rows_, columns) - exact_).max() < geometry.error


def test_bounds_of_several_views(kind) -> None:
    views = [near_ties(80, 90), duplicated(80, 90)]
    geometry = least_cosine(views)
    upper = Multiplier(geometry, 80, 90).uppers(slice(0, 80), slice(0, 90))
    assert (upper >= dense(geometry)).all()
    S, found = dense(geometry), exact(geometry, Limits())
    best = S[linear_sum_assignment(S, maximize=True)].sum()
    assert found.optimal
    assert found.primal == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("least", [0.3, 0.999])
def test_pairs_above_are_all_found(kind, least) -> None:
    geometry = cosine(*near_ties(120, 90))
    found = pairs_above(geometry, least)
    expected = np.argwhere(dense(geometry) > least)
    assert len(found.row) == len(expected)
    assert {(*pair,) for pair in expected} == set(zip(found.row, found.column, strict=True))


def test_nan_is_refused(kind) -> None:
    a, b = huge_and_zero(60, 60)
    a[7, 0] = np.nan
    with pytest.raises(SpecError, match="first: row 7"):
        cosine(a, b)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.floats(0, 0.1), st.integers(0, 10**6))
def test_uppers_as_in_the_formula(n, m, slack, seed) -> None:
    rng = np.random.default_rng(seed)
    halves = torch.from_numpy(rng.normal(size=(n, m))).bfloat16()
    reach, slope = rng.random(n).astype(np.float32), rng.random(m).astype(np.float32)
    out = np.empty((n, m), np.float32)
    bits = halves.view(torch.int16).numpy().view(np.uint16)
    products.uppers(bits, np.float32(slack), reach, slope, out)
    p = halves.double().numpy()
    plain = p + np.float32(slack) * np.abs(p) + reach[:, None] + slope
    np.testing.assert_allclose(out, plain, rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 400), st.integers(1, 40), st.integers(0, 10**6))
def test_first_bars_leave_enough_above(n, m, groups, seed) -> None:
    rng = np.random.default_rng(seed)
    block = np.round(rng.normal(size=(n, m)), seed % 3).astype(np.float32)
    bar, k = np.full(n, -np.inf, np.float32), 1 + seed % groups
    products.first_bars(block, groups, k, bar)
    assert ((block > bar[:, None]).sum(axis=1) >= min(k, m)).all()
    tops = np.full((n, groups), -np.inf, np.float32)
    for c in range(m):
        tops[:, c % groups] = np.maximum(tops[:, c % groups], block[:, c])
    plain = np.sort(tops, axis=1)[:, -k]
    np.testing.assert_allclose(bar, plain, atol=1e-6)
    assert (bar < plain).all() or k > m


def test_what_is_kept_does_not_depend_on_threads(kind, monkeypatch) -> None:
    monkeypatch.setattr(passes, "ROWS", 16)
    monkeypatch.setattr(candidates, "PRICE_ROWS", 16)
    monkeypatch.setattr(passes, "COLUMNS", 64)
    a, b = huge_and_zero(300, 260)
    kept = []
    for threads in (1, 3):
        monkeypatch.setattr(passes, "threads_for", lambda _, t=threads: t)
        found = exact(cosine(a, b), Limits())
        kept.append((found.certificate.edges, found.certificate.products, found.gap))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("make", [near_ties, duplicated, huge_and_zero, opposite])
@pytest.mark.parametrize("count", [1, 4])
def test_the_nearest_others_are_those_of_sorting_all(kind, make, count, monkeypatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK", 64)
    monkeypatch.setattr(nearest, "_WHOLE", 7)
    for threads in (1, 3):
        monkeypatch.setattr(passes, "threads_for", lambda _, t=threads: t)
        prepared = rows(make(300, 260)[0], "A")
        which, similarity = nearest_others(prepared, count)
        size = len(which)
        every = np.empty((size, size))
        own, other = np.divmod(np.arange(size**2), size)
        offers.dots(prepared.exact, prepared.exact, own, other, every.ravel())
        every *= prepared.scale[:, None]
        every *= prepared.scale
        np.fill_diagonal(every, -np.inf)
        there = prepared.scale > 0  # a row of zeros is near to none
        plain = np.argsort(-every, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(which[there], plain[there])
        np.testing.assert_array_equal(similarity[there], np.take_along_axis(every, plain, 1)[there])
        assert not similarity[~there].any()


def test_rows_are_prepared_once() -> None:
    prepared = rows(np.eye(3, dtype=np.float32), "A")
    assert prepared.screen is prepared.screen
    assert prepared.halves is prepared.halves
    assert not prepared.halves.lost.any()
