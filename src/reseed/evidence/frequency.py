"""How alike latents fire by chance at their firing rate: the frequency-matched permutation (N8).

Two latents that fire on a third of all tokens each fire together often, whatever they mean. The
null keeps who is paired with whom but exchanges B's latents with others that fire about as often.

It is a null for pairs that something else chose, such as decoder rows. For pairs chosen by
activations themselves it is none: renaming B's latents and matching again gives the same
similarities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from reseed.matching.codes import ChosenPairs, Codes, explained
from reseed.matching.entries import cosines_of
from reseed.matching.geometry import Floats, Integers, cosine, finite_rows
from reseed.seeds import generator

FREQUENCY = "N8 frequency-matched permutation"

SIZE = 20
"""Latents in a bin of firing rate, at least; fewer where fewer fire."""


def frequency_bins(rate: NDArray[Any], size: int = SIZE) -> Integers:
    """`[F]` bin of each latent, from the rarest up; -1 for those that never fire.

    Bins hold latents that fire about as often, equally many, at least `size`.
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
    observed into the null. The key of the generator is e.g. the pair of runs and the draw.
    """
    numbers = generator("null-frequency", *key)
    out, order = np.arange(len(bins)), np.argsort(bins, kind="stable")
    starts = np.flatnonzero(np.diff(bins[order])) + 1
    for members in np.split(order, starts):
        circle = numbers.permutation(members)
        out[circle[1:]], out[circle[:1]] = circle[:-1], circle[-1:]
    return out


class MatchedFiring:
    """How matched latents of two runs fire together, beside one draw of the null.

    Args:
        pairs: `[E, 2]` latent of A, latent of B.
        fired_a: `[F_a]` tokens on which each latent of A fires; only its length counts.
        fired_b: `[F_b]` of B, for the null.
        key: of the draw, e.g. the names of the two runs.
        rows: decoder rows of A and of B, for contributions.
    """

    def __init__(
        self,
        pairs: Integers,
        fired_a: Integers,
        fired_b: Integers,
        *key: int | str,
        rows: tuple[Any, Any] | None = None,
    ) -> None:
        self._pairs, self._rows = pairs, rows
        a, b = pairs.T
        null = exchanged(frequency_bins(fired_b), *key)[b]
        shape = (len(fired_a), len(fired_b))
        self._ends = np.concatenate([a, a]), np.concatenate([b, null])
        self._sums = ChosenPairs(*self._ends, shape)

    def add_entries(self, values_a: Any, latents_a: Any, values_b: Any, latents_b: Any) -> None:
        """Take in more tokens: K codes of each by A and by B, `[N, K]`; those of 0 are silent."""
        self._sums.add_entries(values_a, latents_a, values_b, latents_b)

    def add(self, A: Codes, B: Codes) -> None:
        """The same of codes that are sparse already, see `matching.codes`."""
        self._sums.add(A, B)

    def table(self) -> pl.DataFrame:
        """latent_a, latent_b, act_corr, act_jaccard, null_corr, null_jaccard.

        With decoder rows also contribution and null_contribution, cosines of contributions; and
        explained_a, explained_b: what of each's contribution the other explains in its place.
        """
        columns: dict[str, NDArray[Any]] = {
            "latent_a": self._pairs[:, 0],
            "latent_b": self._pairs[:, 1],
        }
        size = len(self._pairs)
        both = {"corr": self._sums.values("correlation"), "jaccard": self._sums.values("jaccard")}
        columns |= {f"act_{name}": values[:size] for name, values in both.items()}
        columns |= {f"null_{name}": values[size:] for name, values in both.items()}
        if self._rows is not None:
            columns |= self._contributions(*self._rows)
        return pl.DataFrame(columns).with_columns(cs.float().fill_nan(None))

    def _contributions(self, A: Any, B: Any) -> dict[str, Floats]:
        size, geometry = len(self._pairs), cosine(A, B)
        values = self._sums.values("cosine") * cosines_of(geometry, *self._ends)
        of_a, of_b = (
            length[:size] * np.linalg.norm(finite_rows(rows, "W_dec")[latents], axis=1)
            for length, rows, latents in zip(
                self._sums.lengths(), (A, B), self._pairs.T, strict=True
            )
        )
        fires = (of_a > 0) & (of_b > 0)
        ratio = np.divide(of_b, of_a, out=np.ones(size), where=fires)
        share = {"explained_a": explained(values[:size], ratio)}
        share["explained_b"] = explained(values[:size], 1 / ratio)
        return {
            "contribution": values[:size],
            "null_contribution": values[size:],
            **{name: np.where(fires, value, np.nan) for name, value in share.items()},
        }
