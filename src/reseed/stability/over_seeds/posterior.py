"""How probable it is that an independent run finds a latent: a posterior, never yes or no.

A latent is found in r of T independent other runs. Its reproducibility p is taken as a draw from a
distribution G that all latents (of a bin by firing rate) share. Few runs leave nearly all of G
open: T trials tell its first T moments. So G has no shape that is assumed. It is laid out on a grid
and fitted to the counts from many starts (steps, peaks and slopes), by EM on resampled counts
(nonparametric maximum likelihood, Laird 1978; from a given start EM goes to a distribution near it
that explains the counts). What the counts leave open, the starts keep open, and the posterior of a
latent is the average over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reseed.seeds import generator
from reseed.stability.over_seeds.beta_binomial import Histograms, histograms

Floats = NDArray[np.float64]

_CELLS = 120

_EDGES = np.sin(np.linspace(0, np.pi / 2, _CELLS + 1)) ** 2

_GRID = np.sin((np.arange(_CELLS) + 0.5) / _CELLS * np.pi / 2) ** 2
"""Values of p that G is laid out on, denser towards 0 and 1."""

_DRAWS = 120
"""Starts, each with counts of its own."""

_STEPS = 200
"""Of EM: enough to explain the counts, few enough to stay near the start where they are silent."""

_TAIL = 0.02
"""Left out at either end of a 95 % interval: less than .025, since the starts do not leave open all
that counts do. Chosen by the coverage at single counts."""

_UNSEEN = 0.5
"""Features that each count may have had more: that none was counted is no proof of none."""

_OF_START = 2.0
"""Features that a start counts for beside those that were counted."""

_OF_ALL = 3.0
"""Features that the distribution over all latents counts for in a bin by firing rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The distribution of reproducibility over latents, as far as the counts tell it."""

    weights: Floats
    """`[draws, cells]` each draw a distribution on the grid"""
    latents: int

    @property
    def mean(self) -> float:
        """Mean reproducibility."""
        return float((self.weights @ _GRID).mean())

    @property
    def sd(self) -> float:
        """Standard deviation of the reproducibility of latents, averaged over draws."""
        mean = self.weights @ _GRID
        return float(np.sqrt((self.weights @ _GRID**2 - mean**2).clip(0)).mean())

    def posterior(self, trials: int, effective: int | None = None) -> tuple[Floats, Floats, Floats]:
        """Mean and 95 % interval of the reproducibility of a latent with each count, `[T + 1]`.

        No count of trials tells p = 0 of a latent that is found nowhere from a p just above it, so
        its interval begins at 0, and that of one found everywhere ends at 1. `effective` is how
        many independent trials the counts are worth, where they depend on each other.
        """
        worth = 1.0 if effective is None else effective / trials
        hits = np.arange(trials + 1)[:, None] * worth
        likelihood = _GRID**hits * (1 - _GRID) ** (trials * worth - hits)
        each = self.weights[:, None, :] * likelihood
        of_count = (each / each.sum(axis=2, keepdims=True)).mean(axis=0)
        below = np.concatenate([np.zeros((trials + 1, 1)), of_count.cumsum(axis=1)], axis=1)
        low, high = (
            np.array([np.interp(at, row / row[-1], _EDGES) for row in below])
            for at in (_TAIL, 1 - _TAIL)
        )
        low[0], high[-1] = 0.0, 1.0
        return of_count @ _GRID, low, high


def fit_mixture(counts: Histograms, copies: float = 1.0, around: Mixture | None = None) -> Mixture:
    """Fit what latents' reproducibility is distributed like to how often they were found.

    Args:
        counts: see `Histograms`.
        copies: how often a feature is among the latents. In a study of N runs each can be counted
            from N sides, and N equal copies say no more than one: counts are resampled as features.
        around: distribution of all latents, which a bin of them is fitted from; left out, starts
            of many shapes.

    Raises:
        ValueError: if nothing was counted.
    """
    latents = sum(float(counted.sum()) for counted in counts.values())
    if latents <= 0 or min(counts) < 1:
        raise ValueError("no latents with trials, so there is nothing to fit")
    begin = _starts() if around is None else around.weights
    held = _OF_START if around is None else _OF_ALL
    parts: list[tuple[Floats, Floats]] = []
    for trials, counted in counts.items():
        likelihood = np.asarray(stats.binom.pmf(np.arange(trials + 1)[:, None], trials, _GRID))
        share = counted.sum() / latents
        features = np.asarray(counted, dtype=np.float64) / copies
        draw = generator("posterior", trials, round(features.sum()))
        resampled = draw.gamma(features + _UNSEEN, size=(len(begin), trials + 1))
        parts.append((likelihood, resampled + held * share * (begin @ likelihood.T)))
    total = sum(found.sum(axis=1, keepdims=True) for _, found in parts)
    weights = begin
    for _ in range(_STEPS):
        moved = sum(
            (found / np.maximum(weights @ likelihood.T, 1e-300)) @ likelihood
            for likelihood, found in parts
        )
        weights = weights * moved / total
    return Mixture(weights=weights, latents=round(latents))


@cache
def _starts() -> Floats:
    """`[draws, cells]` mixtures of one to three beta distributions of any width, narrow or wide."""
    draw = generator("posterior-starts", _DRAWS)
    out = np.full((_DRAWS, _CELLS), 1e-6)
    for start in out:
        for weight in draw.dirichlet(np.ones(draw.integers(1, 4))):
            middle, size = draw.uniform(0.01, 0.99), np.exp(draw.normal(1.0, 1.5))
            cumulated = stats.beta.cdf(_EDGES, middle * size, (1 - middle) * size)
            start += weight * np.diff(cumulated)
    return out / out.sum(axis=1, keepdims=True)


class Reproducibility(NamedTuple):
    """Of each latent, and how it was found."""

    mean: Floats
    low: Floats
    high: Floats
    fits: dict[str, Mixture]
    """`pooled`, and one for each bin"""


def reproducibility(
    matched: NDArray[np.int64],
    trials: NDArray[np.int64],
    bins: NDArray[np.int64],
    copies: float,
    occasions: int | None = None,
) -> Reproducibility:
    """Posterior of each latent, conditional on how often it fires.

    Each bin of firing rate (the dead are one more) has a fit of its own, which starts from that of
    all latents and is held by it as by `_OF_ALL` features more.

    **Crossed seeds**: other runs that share a seed with each other are not independent trials. How
    much they depend cannot be told from counts, so they are taken as worth what they surely are:
    one fewer than the seed with fewer levels has. G is fitted to what as many runs drawn from the
    T would count, which is right if they are independent, and to the count in proportion, which
    is right if the seed decides; half of the draws each. The mean, a best guess and no bound, takes
    the runs as they are counted.

    Args:
        matched: `[n]` in how many of the independent other runs each latent was found.
        trials: `[n]` how many those are; 0 gives NaN.
        bins: `[n]` bin of firing rate, -1 for the dead.
        copies: as of `fit_mixture`: the number of runs.
        occasions: independent trials that all other runs are worth. Left out, as many as there are,
            or for crossed seeds what `copies` and `trials` say of their numbers.
    """
    tested = trials > 0
    mean, low, high = (np.full(len(matched), np.nan) for _ in range(3))
    if not tested.any():
        return Reproducibility(mean, low, high, {})
    if occasions is None:
        occasions = _independent_trials(int(trials.max()), copies)

    def fitted(part: NDArray[np.bool_], around: _Fits | None = None) -> _Fits:
        counts = histograms(matched[part], trials[part])
        plain = fit_mixture(counts, copies, around and around.plain)
        if max(counts) <= occasions:
            return _Fits(plain, plain)
        ways = (way(counts, occasions) for way in (_drawn, _scaled))
        both = [fit_mixture(fewer, copies, around and around.wide) for fewer in ways]
        weights = np.concatenate([of_way.weights[at::2] for at, of_way in enumerate(both)])
        return _Fits(plain, Mixture(weights=weights, latents=int(part.sum())))

    pooled = fitted(tested)
    fits = {"pooled": pooled.plain}
    numbers = np.unique(bins[tested])
    for number in numbers:
        part = tested & (bins == number)
        of_bin = pooled if len(numbers) == 1 else fitted(part, pooled)
        if of_bin is not pooled:
            fits[name_of(int(number))] = of_bin.plain
        for t in np.unique(trials[part]):
            which = part & (trials == t)
            middle, *_ = of_bin.plain.posterior(int(t))
            _, *ends = of_bin.wide.posterior(int(t), min(int(t), occasions))
            for column, values in zip((mean, low, high), (middle, *ends), strict=True):
                column[which] = values[matched[which]]
    return Reproducibility(mean, low, high, fits)


class _Fits(NamedTuple):
    """Of one part of the latents."""

    plain: Mixture
    """trials as they are counted"""
    wide: Mixture
    """trials for what they are worth"""


def name_of(number: int) -> str:
    """Name of the stratum of a bin."""
    return "dead" if number < 0 else f"rate{number + 1}"


def _independent_trials(trials: int, runs: float) -> int:
    """What the other runs of a latent are worth; all of them unless seeds are crossed.

    Of I x D crossed runs (I - 1)(D - 1) share neither seed with a given one, so both numbers tell I
    and D; runs that do not fill their grid are taken as the least.
    """
    if runs <= trials + 1:
        return trials
    both = runs - trials + 1  # I + D
    inside = both * both - 4 * runs
    levels = (both - np.sqrt(inside)) / 2 if inside >= 0 else 2.0
    return int(np.clip(round(levels) - 1, 1, trials))


def _drawn(counts: Histograms, size: int) -> dict[int, NDArray[Any]]:
    """Counts as they are expected in `size` of the trials, drawn at random."""
    return _fewer(counts, size, stats.hypergeom.pmf)


def _scaled(counts: Histograms, size: int) -> dict[int, NDArray[Any]]:
    """Counts in proportion to `size` trials, parts of a whole to both neighbours."""
    return _fewer(counts, size, _near)


def _near(at: Any, trials: int, found: Any, kept: int) -> Any:
    return (1 - np.abs(at - found * kept / trials)).clip(0)


def _fewer(counts: Histograms, size: int, share: Callable[..., Any]) -> dict[int, NDArray[Any]]:
    """What share of the latents of each count goes to each count of fewer trials, summed."""
    out: dict[int, NDArray[Any]] = {}
    for trials, counted in counts.items():
        kept = min(trials, size)
        at, found = np.arange(kept + 1)[:, None], np.arange(trials + 1)
        out[kept] = out.get(kept, 0) + share(at, trials, found, kept) @ counted
    return out
