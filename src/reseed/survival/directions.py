"""The same question of the site itself: what correlates where there are no latents at all.

A latent can only survive as far as what it reads does. So the two versions are also compared along
each raw dimension, along random directions of equal variance (g S^-1/2, g normal and S the
covariance of the whole's rows: every principal axis counts alike) and along random combinations of
rows (g S^1/2: axes count by their variance). All come from the covariances within and between the
versions, so any number of directions costs nothing beside one pass. Directions are not sparse; what
sparsity itself costs is shown by the untrained SAE.

D dimensions of a site, N rows.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.sae import Tensor, torch
from reseed.seeds import generator

Floats = NDArray[np.float64]

_FLAT = 1e-10
"""Share of the largest variance below which an axis counts as flat, and is left out."""


class SiteMoments:
    """Means and products of the rows of a site in both versions."""

    def __init__(self, dimensions: int) -> None:
        self.rows = 0
        self._sum = torch.zeros(2, dimensions, dtype=torch.float64)
        self._product = torch.zeros(3, dimensions, dimensions, dtype=torch.float64)
        self._moved = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in more rows `[N, D]` of the whole and of the variant."""
        a, b = x.double(), y.double()
        self.rows += len(a)
        self._sum += torch.stack([a.sum(0), b.sum(0)])
        self._product += torch.stack([a.T @ a, b.T @ b, a.T @ b])
        self._moved += float((b - a).square().sum())

    def distance(self) -> float | None:
        """Σ‖y - x‖² / Σ‖x - mean‖²; None where the rows do not vary."""
        spread = float(np.trace(self._covariances()[0])) * self.rows
        return self._moved / spread if spread > 0 else None

    def table(self, count: int, site: str) -> pl.DataFrame:
        """The r of each direction: kind, r, site; `count` of each kind but raw dimensions."""
        own, _, _ = self._covariances()
        values, axes = np.linalg.eigh(own)
        kept = values > _FLAT * max(float(values[-1]), 0.0)
        values, axes = values[kept], axes[:, kept]
        numbers = generator("survival-directions", site).standard_normal((count, len(values)))
        parts = {
            "dimension": np.eye(len(own)),
            "equal variance": (numbers / np.sqrt(values)) @ axes.T,
            "combination of rows": (numbers * np.sqrt(values)) @ axes.T,
        }
        frames = [
            pl.DataFrame({"kind": [kind] * len(u), "r": self._along(u)})
            for kind, u in parts.items()
        ]
        return pl.concat(frames).with_columns(pl.lit(site).alias("site"))

    def _along(self, u: Floats) -> Floats:
        """`[n]` correlations along directions `[n, D]`; 0 where a version does not vary."""
        own, other, both = (((u @ c) * u).sum(1) for c in self._covariances())
        scale = np.sqrt(own.clip(0) * other.clip(0))
        out = np.divide(both, scale, out=np.zeros_like(scale), where=scale > 0)
        return out.clip(-1.0, 1.0)

    def _covariances(self) -> tuple[Floats, Floats, Floats]:
        rows = max(self.rows, 1)
        a, b = self._sum / rows
        own, other, both = self._product / rows
        pairs = (own, a, a), (other, b, b), (both, a, b)
        first, second, third = ((p - torch.outer(s, t)).numpy() for p, s, t in pairs)
        return first, second, third
