"""How strongly each latent fires: activations above 0 counted in bins of two an octave."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.sae import Tensor, torch

FILE = "histogram.parquet"

_FIRST, _BINS = -20, 40
"""Bin 0 begins at an activation of 1; the bins at the ends hold what is beyond 2^-10 and 2^10."""

_ONE = 0x3F800000 >> 22
"""Of the float32 1.0, the bits that say its bin: the exponent and the first bit after the point."""

_SCHEMA = {"latent": pl.UInt32, "first": pl.Int8, "counts": pl.List(pl.UInt32)}


def bin_edges(first: int, count: int) -> NDArray[np.float64]:
    """`[count + 1]` the edges of so many bins from bin `first` on: ..., 1, 1.5, 2, 3, 4, 6, ..."""
    number = np.arange(first, first + count + 1)
    return np.ldexp(np.where(number % 2 == 0, 1.0, 1.5), number // 2)


class Strengths:
    """Counts of activations by bin; two over different rows add up to the whole.

    Args:
        latents: F; 160 bytes are held of each.
    """

    def __init__(self, latents: int) -> None:
        self._counts = torch.zeros(latents * _BINS, dtype=torch.int32)

    def add(self, latents: Tensor, values: Tensor) -> None:
        """Take in activations above 0, `[n]` each."""
        # read off the bits, so that an edge is the same on every machine
        bins = (values.float().view(torch.int32) >> 22) - (_ONE + _FIRST)
        place = latents * _BINS + bins.clamp(0, _BINS - 1)
        self._counts.scatter_add_(0, place, torch.ones_like(bins))

    def table(self) -> pl.DataFrame:
        """latent, first (its first bin that is not empty), counts (from there to the last such).

        Latents that never fired have no row.
        """
        counts = self._counts.reshape(-1, _BINS).numpy()
        rows: list[tuple[int, int, list[int]]] = []
        for latent in np.flatnonzero(counts.any(axis=1)).tolist():
            there = np.flatnonzero(counts[latent])
            low, high = int(there[0]), int(there[-1]) + 1
            rows.append((latent, low + _FIRST, counts[latent, low:high].tolist()))
        return pl.DataFrame(rows, schema=_SCHEMA, orient="row")
