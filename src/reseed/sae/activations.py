"""From pre-activations to codes: the inference rules of all SAEs; `records.SAEArrays` has them.

N rows, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reseed.errors import SpecError, nearest
from reseed.sae.kernels import dense, top_codes

KINDS = ("topk", "groupmax", "relu", "jumprelu", "batchtopk", "one_hot", "matching_pursuit")
"""What `SAEArrays.activation` may be; `matching_pursuit` needs the decoder, see `pursuit`."""


def check(activation: Mapping[str, Any], latents: int, threshold: Any) -> None:
    """Refuse a rule that cannot be applied.

    Args:
        activation: the rule as JSON.
        latents: F.
        threshold: `[F]` or None.

    Raises:
        SpecError: if the rule is unknown, or lacks what it needs.
    """
    kind = activation.get("kind")
    if kind not in KINDS:
        raise SpecError(f"activation {kind!r}: {nearest(str(kind), KINDS)}")
    if (kind == "jumprelu") != (threshold is not None):
        raise SpecError(
            "a jumprelu SAE needs a threshold for each latent, and no other kind has one; this is "
            f"{kind!r} {'without' if threshold is None else 'with'} thresholds"
        )
    if kind in ("relu", "jumprelu", "one_hot"):
        return
    k = activation.get("k")
    if not isinstance(k, int) or not 1 <= k <= latents:
        raise SpecError(f"{kind} needs a whole k from 1 to its {latents} latents, not {k!r}")
    if kind == "groupmax" and latents % k:
        raise SpecError(f"groupmax needs latents in k equal runs; {latents} is no multiple of {k}")


def apply(pre: Tensor, activation: Mapping[str, Any], threshold: Tensor | None) -> Tensor:
    """Dense codes `[N, F]` from pre-activations `[N, F]`; for all rules but matching pursuit.

    Args:
        pre: pre-activations.
        activation: a rule that passed `check`.
        threshold: `[F]`, for jumprelu.
    """
    match activation["kind"]:
        case "relu":
            return torch.relu(pre)
        case "jumprelu":
            assert threshold is not None
            return torch.relu(pre) * (pre > threshold)
        case "one_hot":
            return torch.zeros_like(pre).scatter_(1, pre.argmax(1, keepdim=True), 1.0)
        case "groupmax":
            return _groupmax(pre, activation["k"])
        case "batchtopk":
            return _batch_top(pre, activation["k"])
        case _:
            return dense(top_codes(pre, activation["k"]), pre.shape[1])


def _groupmax(pre: Tensor, k: int) -> Tensor:
    groups = torch.relu(pre).view(len(pre), k, -1)
    best, place = groups.max(dim=2, keepdim=True)
    return torch.zeros_like(groups).scatter_(2, place, best).view_as(pre)


def _batch_top(pre: Tensor, k: int) -> Tensor:
    flat = torch.relu(pre).flatten()
    best = flat.topk(min(k * len(pre), flat.numel()), sorted=False)
    return torch.zeros_like(flat).scatter_(0, best.indices, best.values).view_as(pre)
