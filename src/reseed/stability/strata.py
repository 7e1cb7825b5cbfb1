"""Sets of latents on which every share is given: all, live, dead, dense, and by firing rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATE_BINS = 5

Members = Mapping[str, NDArray[np.bool_]]
"""run to which of its latents belong, `[F]`"""


class RateBin(NamedTuple):
    """Live latents between two firing rates."""

    name: str
    """`rate1` fires least"""
    low: float
    """exclusive, but for the first bin"""
    high: float
    """inclusive"""


def rate_bins(rates: Mapping[str, NDArray[np.float64]]) -> list[RateBin]:
    """Bins of equal size by firing rate over the live latents of all runs, edges shared by runs.

    Args:
        rates: firing rate of each latent of each run; 0 is dead.

    Returns:
        Up to `RATE_BINS` bins; fewer where so many latents fire equally often that edges fall
        together, none where all are dead.
    """
    live = [found[found > 0] for found in rates.values()]
    pooled = np.concatenate(live) if live else np.zeros(0)
    if not len(pooled):
        return []
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, RATE_BINS + 1)))
    if len(edges) == 1:
        return [RateBin("rate1", float(edges[0]), float(edges[0]))]
    ends = zip(edges[:-1], edges[1:], strict=True)
    return [RateBin(f"rate{n}", float(a), float(b)) for n, (a, b) in enumerate(ends, 1)]


def bin_of(rates: NDArray[np.float64], bins: list[RateBin]) -> NDArray[np.int64]:
    """Number of the bin of each latent, from 0; -1 for a dead one."""
    if not bins:
        return np.full(len(rates), -1)
    place = np.searchsorted([one.high for one in bins], rates, side="left")
    return np.where(rates > 0, place.clip(0, len(bins) - 1), -1)


def strata(
    rates: Mapping[str, NDArray[np.float64]], dense_rate: float
) -> tuple[dict[str, dict[str, NDArray[np.bool_]]], list[RateBin]]:
    """All strata of the runs of a group.

    Args:
        rates: firing rate of each latent of each run; 0 is dead.
        dense_rate: above it a latent is dense.

    Returns:
        stratum to run to members, and the bins that the strata `rate1`, `rate2` ... stand for.
    """
    bins = rate_bins(rates)
    out: dict[str, dict[str, NDArray[np.bool_]]] = {
        "all": {run: np.ones(len(found), dtype=bool) for run, found in rates.items()},
        "live": {run: found > 0 for run, found in rates.items()},
        "dead": {run: found == 0 for run, found in rates.items()},
        "dense": {run: found > dense_rate for run, found in rates.items()},
    }
    places = {run: bin_of(found, bins) for run, found in rates.items()}
    for number, one in enumerate(bins):
        out[one.name] = {run: place == number for run, place in places.items()}
    return out, bins
