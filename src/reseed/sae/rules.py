"""From pre-activations to codes: the inference rules of all SAEs; `records.SAEArrays` has them.

N rows, F latents.

The one threshold at which so many latents fire on average (Llama Scope, arXiv 2410.20526).

N rows, K latents that are to fire, F latents.

Matching pursuit (Mallat and Zhang, 1993; in SAEs arXiv 2506.03093).

    r = x - b_dec, z = 0;  k times:  i = argmax(r · W_dec),  a = relu(r · W_dec[i]),
    z[i] += a,  r -= a W_dec[i]

A latent may be chosen more than once; its values add up. N rows, D dimensions, F latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from reseed.errors import SpecError, nearest
from reseed.sae.codes import Codes, dense, top_codes
from reseed.sae.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


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
