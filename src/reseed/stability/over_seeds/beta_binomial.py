"""The beta-binomial fit to how often latents are found: the smooth curve beside N of M.

A latent is found in r of T independent other runs. Its reproducibility p is taken as a draw from a
Beta(alpha, beta) that all latents share. What the table of latents says of each of them rests on a
richer prior, see `reseed.stability.over_seeds.posterior`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

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
    latents: int

    @property
    def mean(self) -> float:
        """Mean reproducibility."""
        return self.alpha / (self.alpha + self.beta)

    def expected(self, trials: int) -> Floats:
        """Expected share of latents with each count from 0 to `trials`, `[T + 1]`."""
        counts = np.arange(trials + 1)
        return np.asarray(stats.betabinom.pmf(counts, trials, self.alpha, self.beta))

    def only_here(self, runs: NDArray[np.int64]) -> Floats:
        """Expected share of latents that none of `runs` - 1 other runs finds."""
        others = np.asarray(runs) - 1.0
        at_once = special.betaln(self.alpha, self.beta + others)
        return np.exp(at_once - special.betaln(self.alpha, self.beta))


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
    counted from N sides, and N equal copies say no more than one. It weakens the counts beside the
    weak prior on mean and concentration; without that this is the maximum of the likelihood.
    """
    latents = int(sum(counted.sum() for counted in counts.values()))
    if latents == 0 or min(counts) < 1:
        raise ValueError("no latents with trials, so there is nothing to fit")

    def loss(at: Floats) -> float:
        prior_here = _log_prior(at) if prior else 0.0
        return -(_log_likelihood(at, counts) / copies + prior_here)

    bounds = [(-9.0, 9.0), (-7.0, 9.0)]
    optimum = optimize.minimize(loss, _start(counts), method="L-BFGS-B", bounds=bounds)
    alpha, beta = _shape(np.asarray(optimum.x, dtype=np.float64))
    return BetaBinomial(alpha=float(alpha), beta=float(beta), latents=latents)


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
