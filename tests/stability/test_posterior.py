"""Reproducibility of a latent: known counts, coverage, and the rule of the bins."""

import numpy as np
import pytest
from scipy import stats

from reseed.stability.over_seeds import beta_binomial, posterior

NINE_SEEDS = np.array([11408, 2561, 2096, 1967, 1929, 2071, 2243, 2834, 5659])
"""Latents of Pythia-160M, 32,768 wide, found in exactly 1 to 9 of 9 runs (arXiv 2501.16615)."""


def test_the_papers_nine_seeds():
    found = beta_binomial.fit({8: NINE_SEEDS}, prior=False)
    assert found.alpha == pytest.approx(0.274, abs=5e-4)
    assert found.beta == pytest.approx(0.396, abs=5e-4)
    expected = [0.340, 0.101, 0.070, 0.059, 0.055, 0.056, 0.061, 0.078, 0.180]
    np.testing.assert_allclose(found.expected(8), expected, atol=6e-4)
    # the weak prior does not move it
    kept = beta_binomial.fit({8: NINE_SEEDS}, copies=9)
    assert kept.alpha == pytest.approx(found.alpha, rel=2e-3)


POPULATIONS = {
    "U": lambda rng, n: rng.beta(0.274, 0.396, n),
    "hill": lambda rng, n: rng.beta(2.0, 2.0, n),
    "two kinds": lambda rng, n: np.where(rng.random(n) < 0.4, 0.05, 0.9),
    "rare and sure": lambda rng, n: np.where(rng.random(n) < 0.9, 0.02, 0.99),
    "some and a hill": lambda rng, n: np.where(rng.random(n) < 0.3, 0.01, rng.beta(5, 5, n)),
}


def runs_of(rng, p, runs):
    """Counts and truths of the latents of all runs, each feature once a run that finds it."""
    found = rng.random((runs, len(p))) < p
    feature = np.nonzero(found)[1]
    return found[:, feature].sum(axis=0) - 1, p[feature]


@pytest.mark.parametrize("runs", [3, 5, 9])
@pytest.mark.parametrize("population", POPULATIONS)
def test_intervals_hold_the_truth_at_every_count(population, runs):
    """Nominal 95 %, judged among latents of one count, as a reader meets the interval."""
    rng = np.random.default_rng(2)
    held, latents = np.zeros(runs), np.zeros(runs)
    for _ in range(4):
        matched, p = runs_of(rng, POPULATIONS[population](rng, 2000), runs)
        trials = np.full(len(p), runs - 1)
        said = posterior.reproducibility(matched, trials, np.zeros(len(p), int), runs)
        held += np.bincount(matched, (said.low <= p) & (p <= said.high), runs)
        latents += np.bincount(matched, minlength=runs)
    many = latents > 0.02 * latents.sum()
    assert (held / np.maximum(latents, 1))[many].min() > 0.85
    assert held.sum() / latents.sum() > 0.93


@pytest.mark.parametrize("runs", [3, 5])
def test_each_fifth_by_rate_is_told_what_comes_true(runs):
    rng = np.random.default_rng(3)
    said, true = np.zeros(5), np.zeros(5)
    for _ in range(6):
        steep = rng.beta(2, 2, 1500)
        matched, p = runs_of(rng, steep, runs)
        bins = np.searchsorted([0.2, 0.4, 0.6, 0.8], p + 0.1 * rng.normal(size=len(p)))
        out = posterior.reproducibility(matched, np.full(len(p), runs - 1), bins, runs)
        said += np.array([out.mean[bins == b].mean() for b in range(5)]) / 6
        true += np.array([p[bins == b].mean() for b in range(5)]) / 6
    np.testing.assert_allclose(said, true, atol=0.04)


CROSSED = [(3, 3), (4, 4), (3, 6), (2, 8)]


@pytest.mark.parametrize(("inits", "data"), CROSSED, ids=[f"{i}x{d}" for i, d in CROSSED])
@pytest.mark.parametrize("by_init", [1.0, 0.5, 0.0], ids=["init decides", "half", "neither"])
def test_crossed_runs_that_share_a_seed_are_no_independent_trials(inits, data, by_init):
    """Whatever decides, init or run, and though counts cannot tell which."""
    rng, held = np.random.default_rng(5), []
    for population in (POPULATIONS["U"], POPULATIONS["hill"], lambda rng, n: np.full(n, 0.5)):
        p = population(rng, 1500)
        same, own = rng.random((inits, 1, 1500)) < p, rng.random((inits, data, 1500)) < p
        found = np.where(rng.random((inits, 1, 1500)) < by_init, same, own)
        matched, truth = [], []
        for i, d in np.ndindex(inits, data):
            others = np.delete(np.delete(found, i, 0), d, 1)
            matched.append(others.sum(axis=(0, 1))[found[i, d]])
            truth.append(p[found[i, d]])
        r, t = np.concatenate(matched), np.concatenate(truth)
        trials = np.full(len(r), (inits - 1) * (data - 1))
        out = posterior.reproducibility(r, trials, np.zeros(len(r), int), inits * data)
        assert (out.high > out.low).all()
        held.append(((out.low <= t) & (t <= out.high)).mean())
    assert min(held) >= 0.9


def test_what_runs_are_worth_may_be_said():
    counts = np.array([0, 4, 2, 1]), np.full(4, 4), np.zeros(4, int)
    crossed = posterior.reproducibility(*counts, 9)
    np.testing.assert_array_equal(crossed.low, posterior.reproducibility(*counts, 9, 2).low)
    more = posterior.reproducibility(*counts, 9, occasions=4)
    assert (more.high - more.low).mean() < (crossed.high - crossed.low).mean()


def test_copies_widen_and_do_not_move():
    counts = np.array([30, 10, 8, 6, 20])
    once, copied = posterior.fit_mixture({4: counts}), posterior.fit_mixture({4: counts * 5}, 5)
    np.testing.assert_allclose(copied.posterior(4)[1], once.posterior(4)[1], atol=1e-9)
    sharper = posterior.fit_mixture({4: counts * 5})
    assert sharper.weights.std(axis=0).sum() < once.weights.std(axis=0).sum()


@pytest.mark.parametrize("counts", [{2: [50, 0, 0]}, {2: [0, 0, 50]}, {1: [20, 30]}, {1: [1, 0]}])
def test_counts_without_spread_give_finite_honest_intervals(counts):
    trials, found = next(iter(counts.items()))
    mean, low, high = posterior.fit_mixture({trials: np.array(found)}).posterior(trials)
    assert np.isfinite([mean, low, high]).all()
    assert (low < mean).all()
    assert (mean < high).all()
    assert (np.diff(mean) > 0).all()


@pytest.mark.parametrize("fit", [beta_binomial.fit, posterior.fit_mixture])
def test_nothing_to_fit_is_refused(fit):
    with pytest.raises(ValueError, match="no latents"):
        fit({})


def test_the_posterior_is_that_of_the_grid():
    """The plain twin: Bayes' rule, draw by draw and cell by cell."""
    fitted = posterior.fit_mixture({4: np.array([30, 10, 8, 6, 20])})
    mean, _, _ = fitted.posterior(4)
    cells = np.sin((np.arange(fitted.weights.shape[1]) + 0.5) / fitted.weights.shape[1] * np.pi / 2)
    for count in range(5):
        of_draw = []
        for weights in fitted.weights:
            each = weights * stats.binom.pmf(count, 4, cells**2)
            of_draw.append((each @ cells**2) / each.sum())
        assert mean[count] == pytest.approx(np.mean(of_draw))


def test_a_small_bin_keeps_to_what_holds_for_all():
    rng = np.random.default_rng(2)
    bins = np.repeat([-1, 0, 1], [5, 445, 450])
    p = np.where(bins == 1, rng.beta(8, 2, 900), rng.beta(1, 8, 900))
    out = posterior.reproducibility(rng.binomial(4, p), np.full(900, 4), bins, 5)
    assert set(out.fits) == {"pooled", "dead", "rate1", "rate2"}
    assert out.fits["rate2"].mean > 0.6 > 0.3 > out.fits["rate1"].mean
    assert abs(out.fits["dead"].mean - out.fits["pooled"].mean) < 0.1
    alike = posterior.reproducibility(np.full(9, 2), np.full(9, 4), np.zeros(9, int), 5)
    assert set(alike.fits) == {"pooled"}


def test_without_other_runs_nothing_is_said():
    out = posterior.reproducibility(np.zeros(3, int), np.zeros(3, int), np.zeros(3, int), 1)
    assert np.isnan([out.mean, out.low, out.high]).all()
    # runs of a study with a missing one have different numbers of trials
    mixed = posterior.reproducibility(
        np.array([0, 2, 3, 0]), np.array([2, 2, 3, 0]), np.zeros(4, int), 1
    )
    assert np.isfinite(mixed.mean[:3]).all()
    assert np.isnan(mixed.mean[3])
