"""Intervals of a share from counts alone: Wilson's and Clopper-Pearson's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def wilson(
    share: Floats, trials: float, z: float = float(stats.norm.ppf(0.975))
) -> tuple[Floats, Floats]:
    """Score interval (Wilson 1927) of a probability from the share of so many trials.

    These need not be whole; z is how many standard errors it reaches, for 95 % if left out.
    """
    wider = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / wider
    reach = z / wider * np.sqrt(share * (1 - share) / trials + (z / trials / 2) ** 2)
    return np.where(share > 0, middle - reach, 0.0), np.where(share < 1, middle + reach, 1.0)


def clopper_pearson(share: Floats, trials: Floats | float) -> tuple[Floats, Floats]:
    """95 % interval of a probability from the share of so many trials, which need not be whole."""
    hits = share * trials
    low = stats.beta.ppf(0.025, np.maximum(hits, 1e-12), trials - hits + 1)
    high = stats.beta.ppf(0.975, hits + 1, np.maximum(trials - hits, 1e-12))
    return np.where(hits > 0, low, 0.0), np.where(hits < trials, high, 1.0)


def inside(
    ends: tuple[Floats, Floats] | Floats, lowest: float = 0.0, highest: float = 1.0
) -> tuple[Floats, Floats]:
    """Ends of an interval of what can lie nowhere else: what is cut off held nothing. NaN stays."""
    low, high = (np.clip(end, lowest, highest) for end in ends)
    return low, high


def wider_than_counts(
    ends: tuple[Floats, Floats], share: Floats, trials: Floats | float
) -> tuple[Floats, Floats]:
    """Ends of a share within [0, 1], no narrower than so many trials allow; NaN stays."""
    few, many = clopper_pearson(share, trials)
    low, high = inside(ends)
    return np.where(few < low, few, low), np.where(many > high, many, high)
