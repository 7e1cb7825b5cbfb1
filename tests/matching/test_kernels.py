"""The compiled loops against plain twins, and the sparse solver against SciPy on sparse graphs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

pytest.importorskip("numba")
from reseed.loops import bids, offers, paths  # noqa: E402
from reseed.loops.offers import Lists  # noqa: E402
from reseed.matching import sparse  # noqa: E402
from reseed.matching.sparse import Edges  # noqa: E402


def block(n: int, m: int, seed: int, levels: int = 0):
    """Random similarities; with few levels there are many ties."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(n, m)).astype(np.float32)
    return np.round(made * levels) / np.float32(levels) if levels else made


def check_lists(lists: Lists, offered, room: int, start: float) -> None:
    """What is kept was offered; everything above the bar is kept; at least the best `room` are."""
    for i, line in enumerate(offered):
        size = lists.length[i]
        others, values = lists.others[i, :size], lists.values[i, :size]
        assert len(set(others)) == size
        np.testing.assert_array_equal(line[others], values)
        assert set(np.flatnonzero(line > lists.bar[i])) <= set(others)
        above = np.sort(line[line > start])[::-1]
        np.testing.assert_array_equal(np.sort(values)[::-1][:room], above[:room][:size])
        assert size >= min(room, len(above))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 150),
    st.integers(1, 6),
    st.sampled_from([0, 2]),
    st.sampled_from([-np.inf, 0.0]),
    st.integers(0, 10**6),
)
def test_lists_keep_the_best(n, m, room, levels, start, seed) -> None:
    S = block(n, m, seed, levels)
    rng = np.random.default_rng(seed)
    price = rng.random(m).astype(np.float32)
    by_row = Lists.of(n, room, np.full(n, start, np.float32))
    unpriced = Lists.of(n, room, np.full(n, start, np.float32))
    by_column = Lists.of(m, room, np.full(m, start, np.float32))
    cut = rng.integers(0, m + 1)
    for columns in (np.arange(cut), np.arange(cut, m)):
        part = np.ascontiguousarray(S[:, columns])
        if not part.size:
            continue
        offers.offer_rows(part, np.arange(n), columns, price[columns], *by_row)
        offers.offer_both(part, 0, int(columns[0]), unpriced, by_column)
    check_lists(by_row, S - price, room, start)
    check_lists(unpriced, S, room, start)
    check_lists(by_column, S.T, room, start)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 50), st.integers(0, 10**6))
def test_above_finds_all(n, m, place, seed) -> None:
    S = block(n, m, seed)
    rows, columns = np.full((2, place), -1)
    limit = np.float32(0.3)
    count = offers.above(S, limit, rows, columns)
    expected = np.argwhere(limit < S)
    assert count == len(expected)
    found = np.stack([rows, columns], axis=1)[: min(count, place)]
    np.testing.assert_array_equal(found, expected[: len(found)])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_dots_are_float64_products(kind) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 33)).astype(kind), rng.normal(size=(9, 33)).astype(kind)
    rows, columns = rng.integers(0, 7, 20), rng.integers(0, 9, 20)
    out = np.empty(20)
    offers.dots(a, b, rows, columns, out)
    exact = (a[rows].astype(np.float64) * b[columns].astype(np.float64)).sum(1)
    np.testing.assert_allclose(out, exact, rtol=1e-13, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 10**6))
def test_grouped_from_the_best_down(groups, edges, seed) -> None:
    rng = np.random.default_rng(seed)
    keys, others = rng.integers(0, groups, edges), rng.integers(0, 99, edges)
    values = np.round(rng.normal(size=edges), 1)
    graph = start, other, value = bids.Graph(*bids.gathered(groups, keys, others, values))
    for low, high in ((0, groups // 2), (groups // 2, groups)):
        bids.best_first(graph, low, high)
    for g in range(groups):
        mine = [(-v, o) for k, o, v in zip(keys, others, values, strict=True) if k == g]
        mine.sort(key=lambda pair: pair[0])  # stable, as the twin must be
        low, high = start[g], start[g + 1]
        assert [(-v, o) for v, o in zip(value[low:high], other[low:high], strict=True)] == mine
    assert start[-1] == edges


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 14),
    st.integers(1, 14),
    st.floats(0.05, 1),
    st.sampled_from([0, 2]),
    st.sampled_from([-1.001, 0.0, 0.4]),
    st.integers(0, 10**6),
)
def test_the_sparse_solver_is_exact_and_its_prices_prove_it(
    n, m, density, levels, outside, seed
) -> None:
    """Any graph, also one without a perfect matching; a row may stay outside."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, m)) < density
    S = np.clip(block(n, m, seed, levels).astype(np.float64), -1, 1)
    edges = Edges(*(part.astype(np.int64) for part in np.nonzero(there)), S[there])
    state = sparse.solve(edges, (n, m), outside)
    # the same problem for the dense solver: a column of its own for every row outside
    wide = np.concatenate([np.where(there, S, -1e6), np.full((n, n), outside)], axis=1)
    rows, columns = linear_sum_assignment(wide, maximize=True)
    mated = state.mate >= 0
    value = S[mated, state.mate[mated]].sum() + outside * (~mated).sum()
    assert value == pytest.approx(wide[rows, columns].sum(), abs=1e-9)
    assert there[mated, state.mate[mated]].all()
    # feasible everywhere, tight on pairs, and worth the same
    assert (state.u[:, None] + state.v >= np.where(there, S, -np.inf) - 1e-9).all()
    assert (state.u >= outside - 1e-9).all()
    assert (state.v >= -1e-12).all()
    assert state.u.sum() + state.v.sum() == pytest.approx(value, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([-1.001, 0.0]), st.integers(0, 10**6))
def test_prices_rise_and_fall_as_far_as_linear_programming_says(n, m, outside, seed) -> None:
    rng = np.random.default_rng(seed)
    there = rng.random((n, m)) < 0.8
    S = np.clip(rng.normal(size=(n, m)), -1, 1)
    row, column = np.nonzero(there)
    state = sparse.solve(Edges(row, column, S[there]), (n, m), outside)
    by_row = bids.Graph(*bids.gathered(n, row, column, S[there]))
    bids.best_first(by_row, 0, n)
    by_column = bids.Graph(*bids.gathered(m, column, row, S[there]))
    # all prices (u, v) that prove the assignment: above every pair, and worth no more than it
    pairs = np.zeros((len(row), n + m))
    pairs[np.arange(len(row)), row] = pairs[np.arange(len(row)), n + column] = -1
    most = state.u.sum() + state.v.sum() + 1e-9
    proofs = {
        "A_ub": np.vstack([pairs, np.ones(n + m)]),
        "b_ub": np.append(-S[there], most),
        "bounds": [(outside, None)] * n + [(0, None)] * m,
    }
    for sign, far in ((-1, paths.rise(by_column, state, outside)), (1, paths.fall(by_row, state))):
        for j in range(m):
            best = linprog(sign * np.eye(n + m)[n + j], **proofs)
            assert far[j] == pytest.approx(-sign * (best.x[n + j] - state.v[j]), abs=1e-6)
