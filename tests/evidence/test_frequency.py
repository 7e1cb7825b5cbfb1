"""The frequency-matched permutation against what it must keep, and against known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.evidence.frequency import MatchedFiring, exchanged, frequency_bins
from reseed.matching.codes import ChosenPairs, as_codes
from reseed.seeds import generator


def at(a: np.ndarray, b: np.ndarray, measure: str, rows: np.ndarray, columns: np.ndarray):
    pairs = ChosenPairs(rows, columns, (a.shape[1], b.shape[1]))
    pairs.add(as_codes(a, "A"), as_codes(b, "B"))
    return pairs.values(measure)


def firing(tokens: int, rates: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(tokens, len(rates))) * (rng.random((tokens, len(rates))) < rates)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 30))
def test_bins_are_full_and_in_order(fired: list[int], size: int) -> None:
    rate = np.array(fired)
    bins = frequency_bins(rate, size)
    assert ((bins == -1) == (rate == 0)).all()
    live = bins[rate > 0]
    if len(live):
        counts = np.bincount(live)
        assert counts.min() >= min(size, len(live))
        assert counts.max() - counts.min() <= 1
        for low in range(len(counts) - 1):
            assert rate[bins == low].max() <= rate[bins == low + 1].min()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60), st.integers(0, 10**6))
def test_exchanged_stays_in_its_bin_but_not_in_place(given_: list[int], seed: int) -> None:
    bins = np.array(given_)
    other = exchanged(bins, seed)
    assert sorted(other) == list(range(len(bins)))
    assert (bins[other] == bins).all()
    alone = np.array([(bins == bin_).sum() == 1 for bin_ in bins])
    assert ((other == np.arange(len(bins))) == alone).all()
    plain, numbers = np.arange(len(bins)), generator("null-frequency", seed)
    for bin_ in np.unique(bins):
        circle = numbers.permutation(np.flatnonzero(bins == bin_))
        plain[circle] = np.roll(circle, 1)
    np.testing.assert_array_equal(other, plain)


def test_base_rates_are_explained_away() -> None:
    """Two independent dense latents have a high Jaccard index; beside the null it is nothing."""
    rates = np.repeat([0.02, 0.3, 0.9], 40)
    a, b = firing(2000, rates, 0), firing(2000, rates, 1)
    pairs = np.stack([np.arange(120)] * 2, axis=1)
    observed = at(a, b, "jaccard", *pairs.T)
    assert observed[80:].min() > 0.7
    bins = frequency_bins((b > 0).sum(0))
    null = at(a, b, "jaccard", np.arange(120), exchanged(bins, 0))
    for stratum in np.split(np.arange(120), 3):
        assert null[stratum].mean() == pytest.approx(observed[stratum].mean(), abs=0.02)


def test_renaming_and_matching_again_is_no_null() -> None:
    """Why the null is not for pairs that activations chose."""
    a, b = firing(300, np.full(30, 0.2), 4), firing(300, np.full(30, 0.2), 5)
    reseed = pytest.importorskip("reseed")
    pytest.importorskip("numba")
    other = exchanged(frequency_bins((b > 0).sum(0)), 0)
    one, two = reseed.match_activations(a, b), reseed.match_activations(a, b[:, other])
    assert one.primal == pytest.approx(two.primal)


def test_matched_firing_by_hand() -> None:
    a, b = firing(400, np.full(50, 0.2), 6), firing(400, np.full(60, 0.2), 7)
    pairs = np.stack([np.arange(50), np.random.default_rng(0).permutation(60)[:50]], axis=1)
    fired = (b > 0).sum(0)
    rows = [np.random.default_rng(seed).normal(size=(n, 8)) for seed, n in ((1, 50), (2, 60))]
    counter = MatchedFiring(pairs, (a > 0).sum(0), fired, "run-a", "run-b", rows=tuple(rows))
    every = [np.broadcast_to(np.arange(size), (100, size)) for size in (50, 60)]
    for low in range(0, 400, 100):
        part = slice(low, low + 100)
        counter.add_entries(a[part], every[0], b[part], every[1])
    table = counter.table()
    null = exchanged(frequency_bins(fired), "run-a", "run-b")[pairs[:, 1]]
    R = np.corrcoef(a.T, b.T)[:50, 50:]
    np.testing.assert_allclose(table["act_corr"], R[tuple(pairs.T)], atol=1e-12)
    np.testing.assert_allclose(table["null_corr"], R[pairs[:, 0], null], atol=1e-12)
    both = ((a > 0).T.astype(float) @ (b > 0))[tuple(pairs.T)]
    either = (a > 0).sum(0)[pairs[:, 0]] + fired[pairs[:, 1]] - both
    np.testing.assert_allclose(table["act_jaccard"], both / either)
    assert table["latent_b"].to_list() == pairs[:, 1].tolist()
    adds = [np.einsum("tf,fd->ftd", codes, d) for codes, d in zip((a, b), rows, strict=True)]
    for (i, j), other, row in zip(pairs, null, table.iter_rows(named=True), strict=True):
        x, y, z = adds[0][i], adds[1][j], adds[1][other]
        assert row["contribution"] == pytest.approx(
            (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
        )
        assert row["null_contribution"] == pytest.approx(
            (x * z).sum() / np.sqrt((x**2).sum() * (z**2).sum())
        )
        assert row["explained_a"] == pytest.approx(1 - ((x - y) ** 2).sum() / (x**2).sum())
        assert row["explained_b"] == pytest.approx(1 - ((x - y) ** 2).sum() / (y**2).sum())


def test_what_never_fires_adds_nothing() -> None:
    counter = MatchedFiring(
        np.array([[0, 0]]),
        np.array([0, 1]),
        np.array([1, 1]),
        "a",
        "b",
        rows=(np.eye(2), np.eye(2)),
    )
    counter.add_entries(np.ones((1, 1)), np.array([[1]]), np.ones((1, 1)), np.array([[0]]))
    row = counter.table().row(0, named=True)
    assert (row["contribution"], row["explained_a"]) == (0.0, None)
