"""Control runs in which parts of the SAE stay at their random start (arXiv 2602.14111).

F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reseed.training.spec import Control

FROZEN: Mapping[Control | None, str] = {"frozen_decoder": "W_dec", "frozen_encoder": "W_enc"}
"""The rows that a control never changes; biases are trained."""
LEAST_COSINE = 0.8
"""What a decoder row of `soft_frozen_decoder` keeps to where it started."""


def keep_near(rows: Tensor, start: Tensor, least: float = LEAST_COSINE) -> None:
    """Turn rows back, in place, until each has at least this cosine to where it started.

    A row that went too far becomes the nearest unit vector that has not: it keeps its direction
    across the start.

    Args:
        rows: `[F, D]`, of length 1.
        start: `[F, D]`, of length 1.
        least: the cosine, in (0, 1).
    """
    cosine = (rows * start).sum(1)
    far = (cosine < least).nonzero()[:, 0]
    if not len(far):
        return
    first = start[far]
    across = rows[far] - cosine[far, None] * first
    length = torch.linalg.vector_norm(across, dim=1, keepdim=True)
    # a row that points exactly away from its start has no direction across it: back to the start
    turned = least * first + (1.0 - least**2) ** 0.5 * across / length.clamp_min(1e-12)
    turned /= torch.linalg.vector_norm(turned, dim=1, keepdim=True)
    rows[far] = turned
