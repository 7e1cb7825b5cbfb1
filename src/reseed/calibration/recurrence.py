"""In which other runs each latent is found, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching.measures import shared_pairs
from reseed.runs import Pair
from reseed.seeds import generator

Floats = NDArray[np.float64]

MOST = 300
"""Subsets of one size that are looked at; of more, a seeded sample."""


def subsets(runs: int, size: int) -> NDArray[np.int64]:
    """`[n, size]` choices of `size` of `runs` runs: all of them, or `MOST` drawn by a seed."""
    if comb(runs, size) <= MOST:
        return np.array(list(combinations(range(runs), size)), np.int64).reshape(-1, size)
    draw = generator("calibration-subsets", runs, size)
    drawn = {tuple(sorted(draw.permutation(runs)[:size].tolist())) for _ in range(MOST)}
    return np.array(sorted(drawn), np.int64)


Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """Matches and truth of R runs of F latents each."""

    partner: NDArray[np.int64]
    """[R, F, R] the latent of run s with which a latent of run r is shared; -1 for none"""
    kind: NDArray[np.str_]
    """[R, F] what each latent is, see `truth.KINDS`"""
    feature: NDArray[np.int64]
    """[R, F] its nearest true feature"""
    rate: NDArray[np.float64]
    """[R, F] its firing rate on held-out samples; 0 is dead"""

    @property
    def found(self) -> Bools:
        """[R, F, R] whether a latent of run r is found in run s; False in its own."""
        return self.partner >= 0


def gather(
    runs: Sequence[str],
    tables: Mapping[Pair, pl.DataFrame],
    explained: Mapping[str, pl.DataFrame],
    rates: Mapping[str, NDArray[np.float64]],
    tau: float,
) -> Recurrence:
    """Collect what was measured about the runs of a group; their firing rates are `[F]`."""
    place = {run: number for number, run in enumerate(runs)}
    latents = len(explained[runs[0]])
    partner = np.full((len(runs), latents, len(runs)), -1)
    for (a, b), table in tables.items():
        shared = shared_pairs(table, tau)
        of_a, of_b = shared["latent_a"].to_numpy(), shared["latent_b"].to_numpy()
        partner[place[a], of_a, place[b]] = of_b
        partner[place[b], of_b, place[a]] = of_a
    return Recurrence(
        partner=partner,
        kind=np.stack([explained[run]["kind"].to_numpy().astype(np.str_) for run in runs]),
        feature=np.stack([explained[run]["feature"].to_numpy() for run in runs]),
        rate=np.stack([rates[run] for run in runs]),
    )
