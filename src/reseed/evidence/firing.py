"""How often and how strongly each latent fires, and how well the SAE reconstructs."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reseed.errors import SubjectError
from reseed.sae.codes import Codes

_ROUNDING = 1e-12
"""Share of the squared rows below which their variance is rounding."""


class Firing:
    """Sums over rows; two of them over different rows add up to the whole.

    Args:
        latents: F.
        dimensions: of what is reconstructed.
    """

    def __init__(self, latents: int, dimensions: int) -> None:
        self.rows = 0
        self._fired = torch.zeros(latents, dtype=torch.int64)
        self._sum = torch.zeros(latents, dtype=torch.float64)
        self._max = torch.zeros(latents, dtype=torch.float32)
        self._error = 0.0
        self._x = torch.zeros(dimensions, dtype=torch.float64)
        self._xx = 0.0

    def add(self, x: Tensor, codes: Codes, reconstruction: Tensor) -> None:
        """Take in more rows.

        Args:
            x: `[N, D]` what was to be reconstructed.
            codes: of these rows.
            reconstruction: `[N, D]`.
        """
        fires = codes.values > 0
        latents, values = codes.latents[fires], codes.values[fires]
        self.rows += len(x)
        self._fired += torch.bincount(latents, minlength=len(self._fired))
        self._sum.scatter_add_(0, latents, values.double())
        self._max.scatter_reduce_(0, latents, values.float(), "amax")
        self._error += float((x - reconstruction).double().square().sum())
        self._x += x.double().sum(0)
        self._xx += float(x.double().square().sum())

    def table(self) -> pl.DataFrame:
        """Columns latent, fired (rows), rate, mean_act (when it fires), max_act."""
        fired = self._fired.numpy()
        return pl.DataFrame(
            {
                "latent": np.arange(len(fired)),
                "fired": fired,
                "rate": fired / max(self.rows, 1),
                "mean_act": self._sum.numpy() / np.maximum(fired, 1),
                "max_act": self._max.numpy(),
            }
        )

    def reconstruction(self) -> dict[str, float | int]:
        """rows, fvu, fvu_uncentred, l0 (latents that fire in a row).

        fvu is Σ(x̂ - x)² / Σ(x - mean)² over all rows; fvu_uncentred is Σ(x̂ - x)² / Σx², 1 - the
        explained variance of arXiv 2410.20526.

        Raises:
            SubjectError: if the rows are all alike, so that there is nothing to explain.
        """
        scale = self._xx - float(self._x.square().sum()) / max(self.rows, 1)
        if scale <= _ROUNDING * self._xx:
            raise SubjectError(
                f"the {self.rows:,} held-out rows are all alike, so there is no variance to "
                "explain; look at the end of the data, or raise activations.held_out"
            )
        return {
            "rows": self.rows,
            "fvu": self._error / scale,
            "fvu_uncentred": self._error / self._xx,
            "l0": float(self._fired.sum()) / max(self.rows, 1),
        }
