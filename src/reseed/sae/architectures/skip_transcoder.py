"""Skip transcoders (arXiv 2501.18823): a linear map beside the latents of a transcoder.

    ŷ = z W_dec + b_dec + x W_skipᵀ

with z and the loss of `transcoder`. W_skip `[E, D]` starts at 0.
"""

from __future__ import annotations

from reseed.sae.architecture import Parameters, Start
from reseed.sae.architectures import transcoder
from reseed.sae.architectures.transcoder import SkipTranscoderSpec, freeze, objective
from reseed.sae.lazy import torch

__all__ = ["BUFFERS", "UNIT_ROWS", "freeze", "initial", "objective"]

UNIT_ROWS = frozenset({"W_dec"})
BUFFERS: frozenset[str] = frozenset()


def initial(spec: SkipTranscoderSpec, start: Start) -> Parameters:
    """Those of a transcoder, and no skip yet."""
    skip = torch.zeros(len(start.y_centre), len(start.x_centre))
    return {**transcoder.initial(spec, start), "W_skip": skip}
