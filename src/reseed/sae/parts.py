"""What several architectures are made of.

B batch, D dimensions, F latents. The length of a batch is the root mean square distance of its rows
to their mean; losses and settings are in parts of it, so that they do not change with the unit that
activations are measured in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reseed.sae import codes as kernels
from reseed.sae.architecture import Parameters, Start, squared_variation
from reseed.sae.lazy import torch
from reseed.sae.model import SAE
from reseed.sae.start import unit_rows

if TYPE_CHECKING:
    from torch import Tensor


def autoencoder(start: Start) -> Parameters:
    """W_enc, b_enc, W_dec, b_dec before training: decoder rows are the scaled encoder rows."""
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.zeros(len(start.rows)),
        "W_dec": torch.from_numpy(unit_rows(start.rows)),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
    }


def pre_activations(p: Parameters, x: Tensor) -> Tensor:
    """`(x - b_dec) W_encᵀ + b_enc`, `[B, D] -> [B, F]`."""
    return (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]


def batch_length(x: Tensor) -> Tensor:
    """Root mean square distance of rows to their mean: `[B, D]` to a scalar."""
    return (squared_variation(x) / len(x)).sqrt()


def batch_top(pre: Tensor, k: int) -> Tensor:
    """The k B largest of relu(pre) in the whole batch (BatchTopK, arXiv 2412.06410), `[B, F]`.

    Among equals the lowest rows fire, in a row the lowest latents.
    """
    flat = torch.relu(pre).flatten()
    wanted = min(k * len(pre), flat.numel())
    least = flat.detach().topk(wanted, sorted=False).values.min()
    chosen = ~(flat.detach() < least)  # NaN stays
    surplus = int(chosen.sum()) - wanted
    if surplus > 0 and float(least) > 0:
        chosen[(flat.detach() == least).nonzero()[-surplus:, 0]] = False
    return torch.where(chosen, flat, 0.0).view_as(pre)


def auxk_size(dimensions: int, dead: int) -> tuple[int, float]:
    """How many dead latents may fire, and the factor that fades the loss out as few are dead."""
    wanted = max(1, dimensions // 2)
    return min(wanted, dead), min(dead / wanted, 1.0)


def auxk(pre: Tensor, W_dec: Tensor, error: Tensor, dead: Tensor) -> Tensor:
    """AuxK of arXiv 2406.04093 over the squared variation: dead latents explain the error.

        min(dead / k_aux, 1) Σ (ê - e)²,  ê = (top k_aux dead codes) W_dec,  k_aux = D / 2

    Args:
        pre: `[B, F]` pre-activations.
        W_dec: `[F, D]`.
        error: `[B, D]` x - x̂, a constant.
        dead: `[F]` bool, some of them true.
    """
    active, share = auxk_size(error.shape[1], int(dead.sum()))
    only_dead = torch.where(dead, pre, -torch.inf)
    codes = kernels.dense(kernels.top_codes_plain(only_dead, active), pre.shape[1])
    return share * (codes @ W_dec - error).square().sum()


def running_threshold(before: Tensor, codes: Tensor, momentum: float) -> Tensor:
    """Running mean of the smallest positive code of a batch; the first one as it is.

    Args:
        before: scalar, negative where there was none yet.
        codes: `[B, F]`.
        momentum: share of the mean that stays.
    """
    positive = codes[codes > 0]
    if not len(positive):
        return before
    smallest = positive.min()
    return torch.where(before < 0, smallest, momentum * before + (1 - momentum) * smallest)


def frozen(
    p: Parameters,
    activation: Mapping[str, Any],
    about: Mapping[str, Any],
    threshold: Tensor | None = None,
) -> SAE:
    """The SAE of W_enc, b_enc, W_dec, b_dec with this inference rule."""
    return SAE(
        W_enc=p["W_enc"].detach().clone(),
        W_dec=p["W_dec"].detach().clone(),
        b_enc=p["b_enc"].detach().clone(),
        b_dec=p["b_dec"].detach().clone(),
        activation=activation,
        threshold=threshold,
        about=about,
    )


def batch_frozen(p: Parameters, k: int, about: Mapping[str, Any]) -> SAE:
    """BatchTopK as JumpReLU with its running threshold; before there is one, by its batch rule."""
    if float(p["threshold"]) < 0:
        return frozen(p, {"kind": "batchtopk", "k": k}, about)
    threshold = p["threshold"].detach().expand(len(p["b_enc"])).clone()
    return frozen(p, {"kind": "jumprelu"}, about, threshold)


def rows_to_unit(p: Parameters) -> Parameters:
    """Decoder rows scaled to length 1, their lengths moved into the encoder; zero rows stay."""
    norms = torch.linalg.vector_norm(p["W_dec"].detach(), dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    return dict(p) | {
        "W_enc": p["W_enc"].detach() * norms[:, None],
        "b_enc": p["b_enc"].detach() * norms,
        "W_dec": p["W_dec"].detach() / norms[:, None],
    }
