"""How alike latents fire by chance at their firing rate: the frequency-matched permutation (N8).

Two latents that fire on a third of all tokens each fire together often, whatever they mean. The
null keeps who is paired with whom but exchanges B's latents with others that fire about as often.

It is a null for pairs that something else chose, such as decoder rows. For pairs chosen by
activations themselves it is none: renaming B's latents and matching again gives the same
similarities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching.firing.chosen import ChosenPairs
from reseed.seeds import generator

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

FREQUENCY = "N8 frequency-matched permutation"

SIZE = 20
"""Latents in a bin of firing rate, at least; fewer where fewer fire."""


def frequency_bins(rate: NDArray[Any], size: int = SIZE) -> Integers:
    """Bins of latents that fire about as often, equally full.

    Args:
        rate: `[F]` share (or number) of tokens on which each latent fires.
        size: latents in a bin, at least.

    Returns:
        `[F]` number of each latent's bin, from the rarest up; -1 for those that never fire.
    """
    live = np.flatnonzero(rate > 0)
    order = live[np.argsort(rate[live], kind="stable")]
    bins = np.full(len(rate), -1)
    parts = np.array_split(order, max(1, len(order) // size))
    for number, part in enumerate(parts):
        bins[part] = number
    return bins


def exchanged(bins: Integers, *key: int | str) -> Integers:
    """Another latent of the same bin for each, at random, each used once.

    No latent stays where it is unless it is alone in its bin: one that did would put what was
    observed into the null.

    Args:
        bins: `[F]` from `frequency_bins`.
        key: of the generator, e.g. the pair of runs and the draw.

    Returns:
        `[F]` a permutation.
    """
    numbers = generator("null-frequency", *key)
    out = np.arange(len(bins))
    for bin_ in np.unique(bins):
        circle = numbers.permutation(np.flatnonzero(bins == bin_))
        out[circle] = np.roll(circle, 1)
    return out


def permutation_null(
    similarity: Callable[[Integers, Integers], Floats],
    pairs: Integers,
    bins: Integers,
    *,
    draws: int = 20,
    seed: int | str = 0,
) -> Floats:
    """What the activations of pairs have in common by their firing rates alone.

    Args:
        similarity: of latents `[E]` of A and `[E]` of B, e.g. `partial(sums.at, "correlation")` of
            a `reseed.matching.firing.cofiring.Cofiring`.
        pairs: `[E, 2]` row of A, row of B.
        bins: `[F_b]` of B's latents, from `frequency_bins`.
        draws: permutations.
        seed: of the draws.

    Returns:
        `[draws, E]`.
    """
    drawn = [exchanged(bins, seed, draw)[pairs[:, 1]] for draw in range(draws)]
    return np.stack([similarity(pairs[:, 0], partner) for partner in drawn])


def p_values(observed: Floats, null: Floats, bins: Integers) -> Floats:
    """Share of the null in a pair's bin that is at least as similar as the pair, plus one.

    (1 + number at or above) / (1 + number), which is never 0 (Phipson & Smyth 2010). All draws of
    all pairs of a bin count, as they answer the same question: how alike do latents of this firing
    rate fire by chance?

    Args:
        observed: `[E]`.
        null: `[draws, E]`.
        bins: `[E]` bin of each pair.

    Returns:
        `[E]`.
    """
    out = np.ones(len(observed))
    for bin_ in np.unique(bins):
        mine = bins == bin_
        pool = np.sort(null[:, mine], axis=None)
        above = len(pool) - np.searchsorted(pool, observed[mine], side="left")
        out[mine] = (1 + above) / (1 + len(pool))
    return out


class MatchedFiring:
    """How matched latents of two runs fire together, beside one draw of the null.

    Args:
        pairs: `[E, 2]` latent of A, latent of B.
        fired_a: `[F_a]` tokens on which each latent of A fires; only its length counts.
        fired_b: `[F_b]` of B, for the null.
        key: of the draw, e.g. the names of the two runs.
    """

    def __init__(
        self, pairs: Integers, fired_a: Integers, fired_b: Integers, *key: int | str
    ) -> None:
        self._pairs = pairs
        a, b = pairs.T
        null = exchanged(frequency_bins(fired_b), *key)[b]
        shape = (len(fired_a), len(fired_b))
        self._sums = ChosenPairs(np.concatenate([a, a]), np.concatenate([b, null]), shape)

    def add_entries(self, values_a: Any, latents_a: Any, values_b: Any, latents_b: Any) -> None:
        """Take in more tokens: K codes of each by A and by B, `[N, K]`; those of 0 are silent."""
        self._sums.add_entries(values_a, latents_a, values_b, latents_b)

    def table(self) -> pl.DataFrame:
        """latent_a, latent_b, act_corr, act_jaccard, null_corr, null_jaccard."""
        columns: dict[str, NDArray[Any]] = {
            "latent_a": self._pairs[:, 0],
            "latent_b": self._pairs[:, 1],
        }
        size = len(self._pairs)
        both = {"corr": self._sums.values("correlation"), "jaccard": self._sums.values("jaccard")}
        columns |= {f"act_{name}": values[:size] for name, values in both.items()}
        columns |= {f"null_{name}": values[size:] for name, values in both.items()}
        return pl.DataFrame(columns)
