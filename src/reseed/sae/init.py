"""The weights that a training starts from: a function of the init seed and the shape alone."""

from __future__ import annotations

import numpy as np

from reseed.records import Floats
from reseed.seeds import generator


def encoder_rows(latents: int, dimensions: int, init_seed: int) -> Floats:
    """Encoder rows uniform in ±1/sqrt(D), the default of a linear layer (recipe of 2501.16615).

    Args:
        latents: F.
        dimensions: D.
        init_seed: the only source of randomness.

    Returns:
        float32 `[F, D]`.
    """
    bound = 1.0 / np.sqrt(dimensions)
    numbers = generator("encoder-init", init_seed).random((latents, dimensions), dtype=np.float32)
    return (2.0 * bound * numbers - bound).astype(np.float32)


def unit_rows(rows: Floats) -> Floats:
    """Rows scaled to length 1; zero rows stay zero.

    Args:
        rows: `[F, D]`.
    """
    norms = np.sqrt(np.einsum("fd,fd->f", rows, rows, dtype=np.float64))
    return (rows / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
