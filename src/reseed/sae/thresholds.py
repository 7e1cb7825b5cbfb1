"""The one threshold at which so many latents fire on average (Llama Scope, arXiv 2410.20526).

N rows, K latents that are to fire, F latents.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NOT_YET = -1.0
"""What a threshold is before it is found."""


def common_threshold(values: Iterable[Tensor], k: int, most_rows: int) -> Tensor:
    """The (N K)-th largest of all values; 0 if fewer than that are positive.

    A JumpReLU lets pass what is above its threshold, so N K - 1 values pass this one.

    Args:
        values: `[N_i, F]`, piece by piece; N is the sum.
        k: K.
        most_rows: what N is at the most; decides what has to be kept between pieces.

    Returns:
        scalar.
    """
    kept, rows = torch.empty(0), 0
    for part in values:
        rows += len(part)
        both = torch.cat([kept, torch.relu(part).flatten()])
        kept = both.topk(min(most_rows * k, both.numel()), sorted=False).values
    if not rows:
        return torch.zeros(())
    return kept.sort(descending=True).values[min(rows * k, len(kept)) - 1]
