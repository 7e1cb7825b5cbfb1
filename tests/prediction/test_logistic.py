"""The regression against an independent minimiser, known curves and hard cases."""

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.optimize import minimize
from scipy.special import expit

from reseed.prediction import logistic
from reseed.prediction.logistic import Smooth, fit, objective


def drawn(rows: int, seed: int = 0, columns: int = 2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    trials = rng.integers(1, 6, rows)
    return rng, x, trials, rng.integers(0, 3, rows)


def test_a_fit_is_the_minimum_that_another_minimiser_finds() -> None:
    rng, x, trials, fold = drawn(300)
    found = rng.binomial(trials, expit(x[:, 0] - 0.5 * x[:, 1] ** 2))
    model = fit(x, found, trials, fold)
    smooths = [smooth(column) for smooth, column in zip(model.smooths, x.T, strict=True)]
    design = np.concatenate([np.ones((300, 1)), *smooths], axis=1)
    penalty = np.full(design.shape[1], model.shrinkage)
    penalty[0], penalty[1 : 1 + smooths[0].shape[1]] = 1e-6, logistic.FIRST
    arguments = (design, found.astype(float), trials.astype(float), penalty)
    other = minimize(objective, np.zeros(design.shape[1]), arguments, method="BFGS", tol=1e-9)
    ours = np.concatenate([[model.intercept], model.weights])
    assert objective(ours, *arguments) <= other.fun + 1e-8
    np.testing.assert_allclose(expit(design @ other.x), model.probability(x), atol=1e-4)


def test_a_known_curve_comes_out() -> None:
    rng, x, trials, fold = drawn(20_000)
    truth = expit(np.sin(2 * x[:, 0]) + 0.8 * x[:, 1])
    model = fit(x, rng.binomial(trials, truth), trials, fold)
    inside = (np.abs(x) < 2).all(axis=1)
    assert np.abs(model.probability(x) - truth)[inside].mean() < 0.02
    assert model.shrinkage < 1e3


def test_a_column_of_noise_is_shrunk_away() -> None:
    rng, x, trials, fold = drawn(2000, columns=4)
    found = rng.binomial(trials, expit(x[:, 0]))
    alone, everything = fit(x[:, :1], found, trials, fold), fit(x, found, trials, fold)
    assert everything.shrinkage >= 100
    np.testing.assert_allclose(everything.probability(x), alone.probability(x), atol=0.05)


def test_scale_and_shift_of_a_column_change_nothing() -> None:
    rng, x, trials, fold = drawn(500)
    found = rng.binomial(trials, expit(x.sum(axis=1)))
    moved = x * np.array([1e-3, 1e4]) + np.array([5.0, -7.0])
    np.testing.assert_allclose(
        fit(moved, found, trials, fold).probability(moved),
        fit(x, found, trials, fold).probability(x),
        atol=1e-5,
    )


@pytest.mark.parametrize("everything", [0, 1])
def test_trials_that_all_end_alike_give_finite_probabilities(everything) -> None:
    _, x, trials, fold = drawn(50)
    p = fit(x, everything * trials, trials, fold).probability(x)
    assert (np.abs(p - everything) < 0.05).all()
    assert np.isfinite(p).all()


def test_separable_rows_and_columns_of_one_value() -> None:
    _, x, trials, fold = drawn(100)
    x[:, 1] = 3.0
    model = fit(x, np.where(x[:, 0] > 0, trials, 0), trials, fold)
    p = model.probability(x)
    assert np.isfinite(p).all()
    assert p[x[:, 0] > 0.5].min() > 0.5 > p[x[:, 0] < -0.5].max()
    nothing = fit(np.ones((10, 1)), np.arange(10) % 2, np.ones(10, np.int64), np.zeros(10, int))
    np.testing.assert_allclose(nothing.probability(np.ones((2, 1))), 0.5, atol=1e-6)


def test_a_basis_is_a_partition_and_constant_outside() -> None:
    values = np.random.default_rng(0).normal(size=400)
    smooth = Smooth.of(values)
    np.testing.assert_allclose(smooth(values).sum(axis=1), 1.0)
    np.testing.assert_array_equal(smooth(np.array([99.0])), smooth(np.array([values.max()])))
    plain = BSpline(smooth.knots, np.eye(smooth(values).shape[1]), 3)
    np.testing.assert_allclose(smooth(values), plain(values), atol=1e-12)
    ties = Smooth.of(np.array([0.0] * 90 + [1.0] * 10))
    assert np.isfinite(ties(np.array([0.0, 0.5, 1.0]))).all()
