"""What the same measurement gives when there is nothing to find."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.matching.pairs import Views
from reseed.seeds import generator

COVARIANCE = "N2 covariance-matched"
UNTRAINED = "N4 untrained pair"


class CovarianceNull:
    """Random latents with the anisotropy of real ones (null N2).

    Encoder and decoder rows of a latent are drawn together from one Gaussian with the joint mean
    and covariance of the real unit rows. Scaling a drawn row to length 1 flattens the spectrum, so
    the Gaussian is adjusted until its *unit* rows have the real second moments along the real
    principal directions of each view. Without that the null is too low: of independent
    dictionaries with amplitudes falling as 1/k it explains 65 % of an apparent share of 82 %, with
    it all (a test holds this).

    Args:
        views: rows `[F, D]` of one SAE; zero rows are left out.
    """

    def __init__(self, views: Views) -> None:
        encoder, decoder = (np.asarray(v, dtype=np.float64) for v in views)
        keep = (np.abs(encoder).sum(1) > 0) & (np.abs(decoder).sum(1) > 0)
        rows = [_unit(encoder[keep]), _unit(decoder[keep])]
        self.count, self._split = int(keep.sum()), encoder.shape[1]
        both = np.concatenate(rows, axis=1)
        self._mean = both.mean(axis=0)
        self._root = _root(both - self._mean)
        self._adjust([view.T @ view / len(view) for view in rows])

    def draw(self, *key: int | str) -> Views:
        """As many random latents as there are real ones that are not zero.

        Args:
            key: of the generator, e.g. the pair, the side and the draw.
        """
        mix = generator("null-covariance", *key).standard_normal((self.count, len(self._root)))
        rows = self._mean + mix @ self._root
        return Views(rows[:, : self._split], rows[:, self._split :])

    def _adjust(self, moments: list[NDArray[np.float64]]) -> None:
        """Scale the principal directions of each view until unit rows have these moments."""
        size = max(2000, len(self._root))
        mix = generator("null-adjust").standard_normal((size, len(self._root)))
        bases = [np.linalg.eigh(moment) for moment in moments]
        parts = (slice(0, self._split), slice(self._split, None))
        for _ in range(_ROUNDS):
            rows, off = self._mean + mix @ self._root, 0.0
            for (wanted, basis), part in zip(bases, parts, strict=True):
                found = ((_unit(rows[:, part]) @ basis) ** 2).mean(axis=0)
                real = wanted > wanted[-1] * 1e-9
                scale = np.sqrt(np.where(real, wanted, 1.0) / np.where(real, found, 1.0))
                change = (basis * scale) @ basis.T
                self._root[:, part] = self._root[:, part] @ change
                self._mean[part] = self._mean[part] @ change
                off = max(off, float(np.abs(found - wanted).sum()))
            if off < _CLOSE:
                return


_ROUNDS = 20
_CLOSE = 2e-3
"""Summed difference of the second moments, of a total of 1, at which the adjustment ends."""


def _root(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[rank, 2D]` R with RᵀR the covariance of the rows."""
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(centred) - 1, 1))
    keep = values > values[-1] * 1e-12
    return (vectors[:, keep] * np.sqrt(values[keep])).T


def chance_corrected(observed: float, null: float) -> float:
    """(observed - null) / (1 - null): 0 at chance, 1 when everything agrees."""
    return (observed - null) / (1.0 - null) if null < 1.0 else 0.0


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
