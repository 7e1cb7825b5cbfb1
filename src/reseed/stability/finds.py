"""In which other runs each latent was found: what curves, counts and posteriors are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finds:
    """Of one run, seen as the base of a star."""

    run: str
    others: tuple[str, ...]
    """independent runs, see `reseed.stability.design`"""
    matched: NDArray[np.bool_]
    """`[F, T]` whether a latent is shared with each of them"""

    def without(self, left: set[str]) -> Finds:
        """The same where some of the other runs were not there."""
        keep = [place for place, other in enumerate(self.others) if other not in left]
        others = tuple(self.others[place] for place in keep)
        return Finds(run=self.run, others=others, matched=self.matched[:, keep])


def finds(edges: pl.DataFrame, pairs: Sequence[Pair], sizes: Mapping[str, int]) -> dict[str, Finds]:
    """Read the shared pairs of latents from the side of each run.

    Args:
        edges: run_a, latent_a, run_b, latent_b.
        pairs: of independent runs; edges of others are left out.
        sizes: latents of each run.

    Returns:
        run to its finds, in the order of `sizes`.
    """
    others: dict[str, list[str]] = {run: [] for run in sizes}
    for a, b in pairs:
        others[a].append(b)
        others[b].append(a)
    out = {
        run: Finds(
            run=run,
            others=tuple(others[run]),
            matched=np.zeros((sizes[run], len(others[run])), dtype=bool),
        )
        for run in sizes
    }
    for (a, b), rows in edges.group_by("run_a", "run_b"):
        for mine, other, column in ((str(a), str(b), "latent_a"), (str(b), str(a), "latent_b")):
            if other in out[mine].others:
                latents = rows[column].to_numpy()
                out[mine].matched[latents, out[mine].others.index(other)] = True
    return out
