"""What the same measurement gives when there is nothing to find."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.matching.pairs import Views
from reseed.seeds import generator

COVARIANCE = "N2 covariance-matched"
UNTRAINED = "N4 untrained pair"


def covariance_matched(views: Views, *key: int | str) -> Views:
    """Random latents with the mean and the covariance of real ones (null N2).

    Each random latent is a Gaussian combination of all real ones, its encoder and decoder row with
    the same coefficients: the joint Gaussian with exactly the sample's mean and covariance, the one
    between encoder and decoder included. What two such dictionaries share, anisotropy explains.

    Args:
        views: rows `[F, D]`; rows are scaled to length 1 first, zero rows are left out.
        key: of the generator, e.g. the pair, the side and the draw.

    Returns:
        As many random rows as there are real ones that are not zero.
    """
    encoder, decoder = (np.asarray(v, dtype=np.float64) for v in views)
    keep = (np.abs(encoder).sum(1) > 0) & (np.abs(decoder).sum(1) > 0)
    both = np.concatenate([_unit(encoder[keep]), _unit(decoder[keep])], axis=1)
    mean, count = both.mean(axis=0), len(both)
    mix = generator("null-covariance", *key).standard_normal((count, count))
    rows = mean + mix @ (both - mean) / np.sqrt(max(count - 1, 1))
    return Views(rows[:, : encoder.shape[1]], rows[:, encoder.shape[1] :])


def chance_corrected(observed: float, null: float) -> float:
    """(observed - null) / (1 - null): 0 at chance, 1 when everything agrees."""
    return (observed - null) / (1.0 - null) if null < 1.0 else 0.0


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
