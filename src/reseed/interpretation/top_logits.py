"""Which tokens a latent makes likely: its decoder row through the unembedding (the logit lens)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reseed.errors import SpecError
from reseed.interpretation.records import Latent
from reseed.records import Floats
from reseed.subjects.causal import CausalModel

_TOKENS = 20
"""Kept of each latent; the explainer is shown as many as its settings say."""


def top_logits(
    subject: CausalModel, rows: Mapping[Latent, Floats], site: str
) -> dict[Latent, Sequence[str]]:
    """The tokens that each decoder row raises most, most first.

    Args:
        subject: with its head.
        rows: `[D]` of each latent.
        site: they write to, for messages.

    Raises:
        SpecError: if the site is not as wide as what the head reads.
    """
    model: Any = subject.model
    head = model.get_output_embeddings().weight.detach().float()
    out: dict[Latent, Sequence[str]] = {}
    for latent, row in rows.items():
        if len(row) != head.shape[1]:
            raise SpecError(
                f"interpretation.top_logits: {site} has {len(row)} dimensions, but the head of "
                f"{subject.name} reads {head.shape[1]}; only sites that write to the residual "
                "stream make tokens likely in this way, so set it to false"
            )
        # constants are not taken out: only the order of the tokens counts
        best = torch.topk(head @ torch.from_numpy(row.copy()).float(), _TOKENS).indices
        out[latent] = subject.tokenizer.pieces(best.tolist())
    return out
