"""Finding NaN and infinity in activations before they reach a training."""

from __future__ import annotations

import torch
from torch import Tensor


def first_bad_row(rows: Tensor) -> int | None:
    """The first row of `[n, D]` that has a NaN or an infinity, or None."""
    # A sum over a NaN or an infinity is never finite, and it reads the memory only once; a sum that
    # overflows is told apart by the exact test.
    if rows.numel() == 0 or torch.isfinite(rows.sum()):
        return None
    bad = ~torch.isfinite(rows).all(dim=1)
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else None
