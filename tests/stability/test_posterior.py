"""Reproducibility of a latent: known counts, coverage, and the rule of the bins."""

import numpy as np
import pytest
from scipy import stats

from reseed.stability.over_seeds import posterior

NINE_SEEDS = np.array([11408, 2561, 2096, 1967, 1929, 2071, 2243, 2834, 5659])
"""Latents of Pythia-160M, 32,768 wide, found in exactly 1 to 9 of 9 runs (arXiv 2501.16615)."""


def test_the_papers_nine_seeds():
    found = posterior.fit({8: NINE_SEEDS}, prior=False)
    assert found.alpha == pytest.approx(0.274, abs=5e-4)
    assert found.beta == pytest.approx(0.396, abs=5e-4)
    expected = [0.340, 0.101, 0.070, 0.059, 0.055, 0.056, 0.061, 0.078, 0.180]
    np.testing.assert_allclose(found.expected(8), expected, atol=6e-4)
    # the weak prior does not move it
    kept = posterior.fit({8: NINE_SEEDS}, copies=9)
    assert kept.alpha == pytest.approx(found.alpha, rel=2e-3)


@pytest.mark.parametrize("trials", [2, 4, 8])
@pytest.mark.parametrize("shape", [(0.274, 0.396), (2.0, 5.0)])
def test_intervals_hold_the_truth(trials, shape):
    """Nominal 95 %, over 200 studies of 200 latents whose reproducibility is known."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(60):
        p = rng.beta(*shape, size=200)
        matched = rng.binomial(trials, p)
        counts = posterior.histograms(matched, np.full(200, trials))
        _, low, high = posterior.fit(counts).posterior(trials)
        held.append(((low[matched] <= p) & (p <= high[matched])).mean())
    assert 0.93 <= np.mean(held) <= 0.97


def test_with_few_latents_what_is_open_of_the_distribution_widens_the_interval():
    """Pretending to know alpha and beta would be too narrow."""
    rng = np.random.default_rng(1)
    full, naive = [], []
    for _ in range(120):
        p = rng.beta(2.0, 5.0, size=15)
        matched = rng.binomial(4, p)
        found = posterior.fit(posterior.histograms(matched, np.full(15, 4)))
        _, low, high = found.posterior(4)
        full.append(((low[matched] <= p) & (p <= high[matched])).mean())
        known = stats.beta(found.alpha + matched, found.beta + 4 - matched)
        naive.append(((known.ppf(0.025) <= p) & (p <= known.ppf(0.975))).mean())
    assert np.mean(naive) < np.mean(full)
    assert np.mean(full) >= 0.93


def test_copies_widen_and_do_not_move():
    counts = {4: np.array([30, 10, 8, 6, 20])}
    once, copied = posterior.fit(counts), posterior.fit({4: counts[4] * 5}, copies=5)
    assert copied.alpha == pytest.approx(once.alpha, rel=1e-3)
    np.testing.assert_allclose(copied.posterior(4)[1], once.posterior(4)[1], atol=1e-3)


@pytest.mark.parametrize("counts", [{2: [50, 0, 0]}, {2: [0, 0, 50]}, {1: [20, 30]}, {1: [1, 0]}])
def test_counts_without_spread_give_finite_honest_intervals(counts):
    trials, found = next(iter(counts.items()))
    mean, low, high = posterior.fit({trials: np.array(found)}).posterior(trials)
    assert np.isfinite([mean, low, high]).all()
    assert (low < mean).all()
    assert (mean < high).all()
    assert (np.diff(mean) > 0).all()


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match="no latents"):
        posterior.fit({})


def test_the_mean_is_that_of_beta_and_count():
    """The plain twin: with much data the grid is the textbook posterior."""
    found = posterior.fit({8: NINE_SEEDS})
    mean, low, high = found.posterior(8)
    count = np.arange(9)
    known = stats.beta(found.alpha + count, found.beta + 8 - count)
    np.testing.assert_allclose(mean, known.mean(), atol=2e-3)
    np.testing.assert_allclose(low, known.ppf(0.025), atol=2e-3)
    np.testing.assert_allclose(high, known.ppf(0.975), atol=2e-3)


def test_firing_rate_conditions_only_where_the_counts_bear_it():
    rng = np.random.default_rng(2)
    trials = np.full(900, 4)
    bins = np.repeat([-1, 0, 1], 300)
    p = np.where(bins == 1, rng.beta(8, 2, 900), rng.beta(1, 8, 900))
    apart = posterior.reproducibility(rng.binomial(4, p), trials, bins, 5)
    assert set(apart.fits) == {"pooled", "dead", "rate1", "rate2"}
    assert apart.fits["rate2"].mean > 0.6 > 0.3 > apart.fits["rate1"].mean
    same = posterior.reproducibility(rng.binomial(4, rng.beta(1, 3, 900)), trials, bins, 5)
    assert set(same.fits) == {"pooled"}
    few = np.repeat([-1, 0, 1], [5, 445, 450])
    small = posterior.reproducibility(rng.binomial(4, p), trials, few, 5)
    assert "dead" not in small.fits


def test_without_other_runs_nothing_is_said():
    out = posterior.reproducibility(np.zeros(3, int), np.zeros(3, int), np.zeros(3, int), 1)
    assert np.isnan([out.mean, out.low, out.high]).all()
    # runs of a study with a missing one have different numbers of trials
    mixed = posterior.reproducibility(
        np.array([0, 2, 3, 0]), np.array([2, 2, 3, 0]), np.zeros(4, int), 1
    )
    assert np.isfinite(mixed.mean[:3]).all()
    assert np.isnan(mixed.mean[3])
