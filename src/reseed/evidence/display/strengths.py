"""How strongly each latent fires: activations above 0 counted in bins of two an octave."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.loops.compiled import compiled
from reseed.sae import Tensor

Integers = NDArray[np.int64]

Short = NDArray[np.int32]

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
    """How often each latent fires, and counts of activations by bin.

    Two of them over different rows add up to the whole.

    Args:
        latents: F; 180 bytes are held of each.

    Attributes:
        fired: `[F]` activations above 0,
        total: `[F]` their sum,
        largest: `[F]` the largest of them, 0 without.
    """

    def __init__(self, latents: int) -> None:
        self.fired = np.zeros(latents, np.int64)
        self.total = np.zeros(latents)
        self.largest = np.zeros(latents, np.float32)
        self._counts = np.zeros((latents, _BINS), np.int32)

    def add(self, latents: Tensor, values: Tensor) -> None:
        """Take in activations, of any shape; those not above 0 are none."""
        strong = np.ascontiguousarray(values.float().numpy()).reshape(-1)
        which = np.ascontiguousarray(latents.numpy()).reshape(-1)
        _add(
            which, strong, strong.view(np.int32), self.fired, self.total, self.largest, self._counts
        )

    def table(self) -> pl.DataFrame:
        """latent, first (its first bin that is not empty), counts (from there to the last such).

        Latents that never fired have no row.
        """
        counts = self._counts
        rows: list[tuple[int, int, list[int]]] = []
        for latent in np.flatnonzero(counts.any(axis=1)).tolist():
            there = np.flatnonzero(counts[latent])
            low, high = int(there[0]), int(there[-1]) + 1
            rows.append((latent, low + _FIRST, counts[latent, low:high].tolist()))
        return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


@compiled
def _add(
    latents: Integers,
    values: NDArray[np.float32],
    bits: Short,
    fired: Integers,
    total: NDArray[np.float64],
    largest: NDArray[np.float32],
    counts: Short,
) -> None:
    for e in range(len(values)):
        if values[e] > 0:
            j = latents[e]
            # read off the bits, so that an edge is the same on every machine
            number = (bits[e] >> 22) - (_ONE + _FIRST)
            counts[j, min(max(number, 0), _BINS - 1)] += 1
            fired[j] += 1
            total[j] += np.float64(values[e])
            largest[j] = max(largest[j], values[e])
