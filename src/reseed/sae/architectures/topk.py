"""TopK with the training rule of arXiv 2501.16615 (and AuxK of arXiv 2406.04093 as an option).

    z = TopK(relu((x - b_dec) W_encᵀ + b_enc)),  x̂ = z W_dec + b_dec
    loss = FVU + α AuxK (+ FVU with 4 k latents / 8: Multi-TopK of 2406.04093, an option)
    FVU = Σ (x̂ - x)² / Σ (x - mean over the batch)²
    AuxK = min(dead / k_aux, 1) Σ (ê - e)² / Σ (x - mean)²,  e = x - x̂,  ê = top k_aux dead codes

Gradients are written out in `step`, since they touch only the rows of active latents; `objective`
is the same for autograd and a test holds the two together. Multi-TopK has `objective` alone.

B batch, D dimensions, F latents, K active.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from reseed.sae import Tensor, parts, torch
from reseed.sae import codes as kernels
from reseed.sae.architecture import Architecture, At, Batch, Objective, Parameters
from reseed.sae.in_blocks import InBlocksSpec
from reseed.sae.model import SAE
from reseed.sae.parts import auxk_size, initial


class TopKSpec(InBlocksSpec):
    """The k largest pre-activations of each row fire (arXiv 2406.04093; recipe of 2501.16615)."""

    OPTIONAL: ClassVar[frozenset[str]] = InBlocksSpec.OPTIONAL | {"multi_topk"}

    architecture: Literal["topk"] = "topk"
    k: Annotated[int, Field(ge=1)] = 32
    """Latents that may fire at a time."""
    auxk_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the auxiliary loss that lets dead latents explain the error; 0 as in the paper."""
    multi_topk: bool = False
    """Whether 4 k latents shall reconstruct too, at an eighth of the weight (2406.04093, A.2)."""

    @property
    def settings(self) -> dict[str, Any]:
        return {"k": self.k} | ({"multi": 4} if self.multi_topk else {})


class Step(NamedTuple):
    """What one batch says: gradients and what to report."""

    gradients: Parameters
    fvu: float
    l0: float
    """mean number of latents with a positive code"""
    fired: Tensor
    """[F] bool"""


def step(p: Parameters, x: Tensor, spec: TopKSpec, dead: Tensor) -> Step:
    """Gradients of the loss on a batch x `[B, D]`; `dead` `[F]` latents are silent for too long."""
    width = p["W_enc"].shape[0]
    centred = x - p["b_dec"]
    codes = kernels.top_codes(torch.addmm(p["b_enc"], centred, p["W_enc"].T), spec.k)
    error = kernels.decode(codes, p["W_dec"]).sub_(centred)
    scale = x.sub(x.mean(0)).square_().sum()
    residual = error * (2.0 / scale)

    # an entry of value 0 is behind the ReLU: nothing flows through it
    flow = kernels.code_gradients(residual, p["W_dec"], codes.latents) * (codes.values > 0)
    index = kernels.by_latent(codes.latents, width)
    gradients = {
        "W_enc": kernels.transposed_product(flow, index, centred),
        "b_enc": x.new_zeros(width).scatter_add_(0, codes.latents.reshape(-1), flow.reshape(-1)),
        "W_dec": kernels.transposed_product(codes.values, index, residual),
    }
    gradients["b_dec"] = residual.sum(0) - gradients["b_enc"] @ p["W_enc"]
    if spec.auxk_alpha > 0 and bool(dead.any()):
        _add_auxk(gradients, p, centred, error, scale, spec, dead)
    fired = torch.zeros(width, dtype=torch.bool, device=x.device)
    fired[codes.latents[codes.values > 0]] = True
    fvu = float(error.square().sum() / scale)
    return Step(gradients, fvu, float((codes.values > 0).sum() / x.shape[0]), fired)


def _add_auxk(
    gradients: Parameters,
    p: Parameters,
    centred: Tensor,
    error: Tensor,
    scale: Tensor,
    spec: TopKSpec,
    dead: Tensor,
) -> None:
    """Add the gradients of the auxiliary loss; only rows of dead latents are touched."""
    rows = dead.nonzero()[:, 0]
    W_enc, W_dec = p["W_enc"][rows], p["W_dec"][rows]
    active, share = auxk_size(centred.shape[1], len(rows))
    codes = kernels.top_codes(torch.addmm(p["b_enc"][rows], centred, W_enc.T), active)
    weight = spec.auxk_alpha * share * 2.0 / scale
    # the target e = x - x̂ is a constant: what the live latents leave unexplained
    residual = (kernels.decode(codes, W_dec) + error) * weight
    flow = kernels.code_gradients(residual, W_dec, codes.latents) * (codes.values > 0)
    index = kernels.by_latent(codes.latents, len(rows))
    bias = flow.new_zeros(len(rows)).scatter_add_(0, codes.latents.reshape(-1), flow.reshape(-1))
    gradients["W_enc"][rows] += kernels.transposed_product(flow, index, centred)
    gradients["W_dec"][rows] += kernels.transposed_product(codes.values, index, residual)
    gradients["b_enc"][rows] += bias
    gradients["b_dec"] -= bias @ W_enc


def objective(p: Parameters, batch: Batch, spec: TopKSpec, at: At) -> Objective:
    """The plain twin of `step`: the loss as a differentiable scalar."""
    x, width = batch.x, p["W_enc"].shape[0]
    pre = parts.pre_activations(p, x)
    z = parts.top(pre, spec.k)
    x_hat, scale, fvu = parts.reconstructed(p, z, x)
    loss = fvu
    if spec.auxk_alpha > 0 and bool(at.dead.any()):
        share, squares = parts.auxk(pre, p["W_dec"], x - x_hat, at.dead)
        loss = loss + spec.auxk_alpha * share * squares / scale
    if spec.multi_topk:
        more = parts.top(pre, min(4 * spec.k, width))
        loss = loss + (more @ p["W_dec"] + p["b_dec"] - x).square().sum() / scale / 8
    return Objective(loss, fvu.detach(), z.detach(), {}, x_hat, loss - fvu)


def freeze(p: Parameters, spec: TopKSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same for TopK."""
    return parts.frozen(p, {"kind": "topk", "k": spec.k}, about)


TOPK = Architecture(
    TopKSpec, initial, objective, freeze, thaw=parts.thawed, thaws=frozenset({"topk"})
)
