"""Which latents of an SAE are near to each other, for hard negatives.

Near means a large cosine of decoder rows: it is known before the pass over the text, it does not
depend on which text that is, and it costs one product. Co-firing would need a pass of its own.

F latents, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reseed.evidence.examples import Neighbours

_BLOCK = 1024
"""Latents whose cosines with all others are there at a time."""


def nearest_decoders(W_dec: Tensor, count: int) -> Neighbours:
    """The `count` latents with the largest positive cosine to each.

    Args:
        W_dec: `[F, D]`; rows of length 0 have no neighbours and are none.
        count: at most this many of each.
    """
    rows = torch.nn.functional.normalize(W_dec.detach().float(), dim=1)
    latents, most = len(rows), max(0, min(count, len(rows) - 1))
    cosines, indices = torch.empty(latents, most), torch.empty(latents, most, dtype=torch.int64)
    for first in range(0, latents, _BLOCK):
        block = rows[first : first + _BLOCK] @ rows.T
        here = torch.arange(len(block))
        block[here, first + here] = -2.0
        found = block.topk(most, dim=1)
        cosines[first : first + _BLOCK], indices[first : first + _BLOCK] = found
    return edges_of(cosines.numpy(), indices.numpy())


def edges_of(
    cosine: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    near: np.ndarray[tuple[int, int], np.dtype[np.int64]],
) -> Neighbours:
    """Neighbours from what is near to each latent.

    Args:
        cosine: `[F, m]`; those of 0 and below are left out.
        near: `[F, m]` the latents.
    """
    latents = len(cosine)
    of = np.repeat(np.arange(latents), cosine.shape[1])
    there = cosine.ravel() > 0
    of, near, size = of[there], near.ravel()[there], cosine.ravel()[there]
    order = np.lexsort((of, near))
    start = np.searchsorted(near[order], np.arange(latents + 1))
    return Neighbours(start=start, of=of[order], cosine=size[order].astype(np.float32))
