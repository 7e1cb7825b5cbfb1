"""Matching pursuit (Mallat and Zhang, 1993; in SAEs arXiv 2506.03093).

    r = x - b_dec, z = 0;  k times:  i = argmax(r · W_dec),  a = relu(r · W_dec[i]),
    z[i] += a,  r -= a W_dec[i]

A latent may be chosen more than once; its values add up. N rows, D dimensions, F latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reseed.sae.kernels import Codes, top_codes


def pursue(centred: Tensor, W_dec: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Dense codes `[N, F]` and what they leave over `[N, D]`; differentiable.

    Which latent is chosen passes no gradient; how strongly it fires does, through all steps.

    Args:
        centred: `[N, D]`, less `b_dec`.
        W_dec: `[F, D]`, rows of length 1.
        k: steps.
    """
    residual = centred
    codes = centred.new_zeros(len(centred), len(W_dec))
    for _ in range(k):
        with torch.no_grad():
            chosen = (residual @ W_dec.T).argmax(dim=1)
        rows = W_dec[chosen]
        values = torch.relu((residual * rows).sum(dim=1, keepdim=True))
        codes = codes.scatter_add(1, chosen[:, None], values)
        residual = residual - values * rows
    return codes, residual


def codes(centred: Tensor, W_dec: Tensor, k: int) -> Codes:
    """The codes of `pursue` as `Codes` of k entries a row."""
    return top_codes(pursue(centred, W_dec, k)[0], k)
