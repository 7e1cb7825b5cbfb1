"""How probable it is that an independent run finds a latent: a posterior, never yes or no.

A latent is found in r of T independent other runs. Its reproducibility p is taken as a draw from a
Beta(alpha, beta) that all latents share (empirical Bayes); given r it is Beta(alpha + r,
beta + T - r). The posterior is averaged over what the counts leave open of alpha and beta, so that
the interval does not pretend to know them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

ENOUGH = 100
"""Latents, of all runs, that a bin needs for a fit of its own."""

_GRID = 9
"""Points in each direction on which what is open of alpha and beta is laid out."""

_REACH = 2.5
"""How many standard errors the grid reaches."""

_PRIOR_SD = 1.5
"""Of log(alpha + beta) and of logit(mean), around 0: weak beside a hundred latents, and what keeps
the fit finite where all counts are equal or there is one trial only."""

Histograms = Mapping[int, NDArray[Any]]
"""trials T to how many latents were found 0, 1, ... T times, `[T + 1]`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaBinomial:
    """The distribution of reproducibility over latents."""

    alpha: float
    beta: float
    log_likelihood: float
    latents: int
    nodes: Floats
    """`[n, 3]` alpha, beta and weight: what the counts leave open of both"""

    @property
    def mean(self) -> float:
        """Mean reproducibility."""
        return self.alpha / (self.alpha + self.beta)

    def expected(self, trials: int) -> Floats:
        """Expected share of latents with each count from 0 to `trials`, `[T + 1]`."""
        counts = np.arange(trials + 1)
        return np.asarray(stats.betabinom.pmf(counts, trials, self.alpha, self.beta))

    def posterior(self, trials: int) -> tuple[Floats, Floats, Floats]:
        """Mean and 95 % interval of the reproducibility of a latent with each count, `[T + 1]`.

        An end within a millionth of 0 or 1 is given as 0 or 1.
        """
        counts = np.arange(trials + 1)
        a = self.nodes[:, :1] + counts
        b = self.nodes[:, 1:2] + trials - counts
        weight = self.nodes[:, 2:]
        mean = (weight * a / (a + b)).sum(axis=0)
        low, high = (_quantile(a, b, weight, at) for at in (0.025, 0.975))
        return mean, np.where(low < 1e-6, 0.0, low), np.where(high > 1 - 1e-6, 1.0, high)


def histograms(matched: NDArray[np.int64], trials: NDArray[np.int64]) -> dict[int, NDArray[Any]]:
    """Count latents by how often they were found, apart for each number of trials."""
    return {
        int(t): np.bincount(matched[trials == t], minlength=int(t) + 1)
        for t in np.unique(trials)
        if t > 0
    }


def fit(counts: Histograms, copies: float = 1.0, *, prior: bool = True) -> BetaBinomial:
    """Fit alpha and beta to how often latents were found.

    `copies` is how often a feature is among the latents: in a study of N runs each feature can be
    counted from N sides, and N equal copies say no more than one. It widens the uncertainty of
    alpha and beta, not the fit. Without the weak prior on mean and concentration this is the
    maximum of the likelihood.
    """
    latents = int(sum(counted.sum() for counted in counts.values()))
    if latents == 0 or min(counts) < 1:
        raise ValueError("no latents with trials, so there is nothing to fit")

    def loss(at: Floats) -> float:
        prior_here = _log_prior(at) if prior else 0.0
        return -(_log_likelihood(at, counts) / copies + prior_here)

    bounds = [(-9.0, 9.0), (-7.0, 9.0)]
    optimum = optimize.minimize(loss, _start(counts), method="L-BFGS-B", bounds=bounds)
    best = np.asarray(optimum.x, dtype=np.float64)
    alpha, beta = _shape(best)
    return BetaBinomial(
        alpha=float(alpha),
        beta=float(beta),
        log_likelihood=_log_likelihood(best, counts),
        latents=latents,
        nodes=_nodes(loss, best, bounds),
    )


def _start(counts: Histograms) -> Floats:
    hits = sum(float(latents @ np.arange(t + 1)) for t, latents in counts.items())
    tries = sum(float(latents.sum()) * t for t, latents in counts.items())
    mean = (hits + 0.5) / (tries + 1)
    return np.array([np.log(mean / (1 - mean)), 0.0])


def _shape(at: Floats) -> tuple[Floats, Floats]:
    """Alpha and beta from logit(mean) and log(alpha + beta)."""
    mean, size = special.expit(at[..., 0]), np.exp(at[..., 1])
    return mean * size, (1 - mean) * size


def _log_likelihood(at: Floats, counts: Histograms) -> float:
    alpha, beta = _shape(at)
    total = 0.0
    for trials, latents in counts.items():
        r = np.arange(trials + 1)
        # without the number of orders, which is the same whatever alpha and beta are
        log_likelihood = special.betaln(alpha + r, beta + trials - r) - special.betaln(alpha, beta)
        total += float((latents * log_likelihood).sum())
    return total


def _log_prior(at: Floats) -> float:
    return float(-0.5 * ((at / _PRIOR_SD) ** 2).sum())


def _nodes(
    loss: Callable[[Floats], float], best: Floats, bounds: list[tuple[float, float]]
) -> Floats:
    """A grid around the fit, each point weighted by how well it explains the counts."""
    errors = _errors(loss, best)
    steps = np.linspace(-_REACH, _REACH, _GRID)
    points = np.array([best + errors @ np.array([u, v]) for u in steps for v in steps])
    low, high = np.array(bounds).T
    points = points.clip(low, high)
    values = np.array([-loss(point) for point in points])
    weight = np.exp(values - values.max())
    alpha, beta = _shape(points)
    return np.stack([alpha, beta, weight / weight.sum()], axis=1)


def _errors(loss: Callable[[Floats], float], best: Floats) -> Floats:
    """`[2, 2]` square root of the covariance of the fit, from the curvature of the loss."""
    step = 1e-3
    curve = np.zeros((2, 2))
    unit = step * np.eye(2)
    for i in range(2):
        for j in range(2):
            corners = [
                sign_i * sign_j * loss(best + sign_i * unit[i] + sign_j * unit[j])
                for sign_i in (1, -1)
                for sign_j in (1, -1)
            ]
            curve[i, j] = sum(corners) / (4 * step**2)
    values, vectors = np.linalg.eigh(curve)
    # where the counts say nothing the prior's width is left
    return vectors / np.sqrt(values.clip(1 / (2 * _PRIOR_SD) ** 2))


def _quantile(a: Floats, b: Floats, weight: Floats, at: float) -> Floats:
    """Quantile of the weighted mixture of Beta(a, b) in each column, by bisection."""
    low, high = np.zeros(a.shape[1]), np.ones(a.shape[1])
    for _ in range(40):
        middle = (low + high) / 2
        below = (weight * special.betainc(a, b, middle)).sum(axis=0) < at
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


class Reproducibility(NamedTuple):
    """Of each latent, and how it was found."""

    mean: Floats
    low: Floats
    high: Floats
    fits: dict[str, BetaBinomial]
    """`pooled`, and one for each bin that has a fit of its own"""


def reproducibility(
    matched: NDArray[np.int64],
    trials: NDArray[np.int64],
    bins: NDArray[np.int64],
    copies: float,
) -> Reproducibility:
    """Posterior of each latent, conditional on how often it fires where the data bear it.

    The rule: bins of firing rate (the dead are one more) get fits of their own if that explains the
    counts better by Akaike's criterion than one fit for all, log-likelihoods divided by `copies`.
    Then each bin of at least `ENOUGH` latents has its own; smaller ones keep the pooled fit.

    Of each latent, `[n]`: in how many of the independent other runs it was found, and its bin, -1
    for the dead. NaN without trials. `copies` as of `fit`.
    """
    tested = trials > 0
    mean, low, high = (np.full(len(matched), np.nan) for _ in range(3))
    if not tested.any():
        return Reproducibility(mean, low, high, {})
    pooled = fit(histograms(matched[tested], trials[tested]), copies)
    fits = {"pooled": pooled}
    parts = {b: tested & (bins == b) for b in np.unique(bins[tested])}
    own = {
        b: fit(histograms(matched[p], trials[p]), copies) if p.sum() >= ENOUGH else None
        for b, p in parts.items()
    }
    if _better(parts, own, pooled, matched, trials, copies):
        fits |= {name_of(int(b)): of_bin for b, of_bin in own.items() if of_bin is not None}
    for b, part in parts.items():
        chosen = fits.get(name_of(int(b)), pooled)
        for t in np.unique(trials[part]):
            which = part & (trials == t)
            for column, values in zip((mean, low, high), chosen.posterior(int(t)), strict=True):
                column[which] = values[matched[which]]
    return Reproducibility(mean, low, high, fits)


def name_of(number: int) -> str:
    """Name of the stratum of a bin."""
    return "dead" if number < 0 else f"rate{number + 1}"


def _better(
    parts: Mapping[Any, NDArray[np.bool_]],
    own: Mapping[Any, BetaBinomial | None],
    pooled: BetaBinomial,
    matched: NDArray[np.int64],
    trials: NDArray[np.int64],
    copies: float,
) -> bool:
    """Whether fits of their own gain more than one unit of log-likelihood for each parameter."""
    gain, parameters = 0.0, -2
    at = np.array([_logit(pooled.mean), np.log(pooled.alpha + pooled.beta)])
    for b, of_bin in own.items():
        if of_bin is None:
            continue
        here = histograms(matched[parts[b]], trials[parts[b]])
        gain += (of_bin.log_likelihood - _log_likelihood(at, here)) / copies
        parameters += 2
    return parameters > 0 and gain > parameters


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))
