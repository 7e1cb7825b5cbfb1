"""JumpReLU (arXiv 2407.14435): a threshold for each latent, learnt through a kernel.

    p = (x - b_dec) W_encᵀ + b_enc,  z = relu(p) 1[p > θ],  x̂ = z W_dec + b_dec,  θ = ℓ |t|
    loss = FVU + λ Σ 1[p > θ] / B

    d z / d θ = -(θ / ε) K((p - θ) / ε),  d 1[p > θ] / d θ = -(1 / ε) K((p - θ) / ε)

K is the rectangle from -1/2 to 1/2, ε the bandwidth times ℓ, and ℓ the root mean square distance of
the first batch's rows to their mean (the paper's inputs have E |x|² = 1). The threshold is trained
as t, in units of ℓ; the paper trains its logarithm, which Adam hardly moves in a short training.
Decoder rows have length 1. Where a `target_l0` is to be held, thresholds are multiplied by one
number after the last step, with which so many fire in the last rows.

With `sparsity = "tanh"` (Anthropic, January 2025 update) the penalty is λ Σ tanh(c z |W_dec| / σ)
/ B, σ² = ℓ² / D, decoder rows are free, the kernels' gradients reach p too, and dead latents may
get λ_p Σ relu(θ - p) |W_dec| / (B σ). Its inputs have E |x| = √D, so c is the same here and its
bandwidth of 2 is 2 / √D. Such an SAE is saved with rows of length 1. x [B, D], z [B, F], t [F].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reseed.sae import Tensor, codes, parts, torch
from reseed.sae.architecture import (
    Architecture,
    At,
    Batch,
    BatchSource,
    Objective,
    Parameters,
    Start,
)
from reseed.sae.in_blocks import InBlocksSpec
from reseed.sae.model import SAE
from reseed.sae.settings import PenalisedSpec


class JumpReLUSpec(InBlocksSpec, PenalisedSpec):
    """JumpReLU with a learnt threshold (arXiv 2407.14435; tanh penalty: Anthropic, January 2025).

    One unit of length is the root mean square distance of the first batch's rows to their mean.
    """

    architecture: Literal["jumprelu"] = "jumprelu"
    penalty: Annotated[float, Field(ge=0)] = 0.005
    """FVU that a latent must be worth to fire; where it starts if there is a `target_l0`."""
    sparsity: Literal["l0", "tanh"] = "l0"
    """What is penalised: the number of latents that fire, or tanh of their codes. With `tanh`
    decoder rows are free, and the threshold teaches the encoder too."""
    bandwidth: Annotated[float, Field(gt=0)] = 0.05
    """Width of the rectangle through which the threshold learns, in units of length. The paper's
    .001 needs its billions of tokens: in fewer, too few codes come near enough to teach it."""
    threshold: Annotated[float, Field(gt=0)] = 0.02
    """Where thresholds start, in units of length; .001 in the paper."""
    settle_rows: Annotated[int, Field(ge=0)] = 8192
    """With a `target_l0`, rows at the end of training on which all thresholds are multiplied by the
    one number with which so many latents fire there; 0 leaves them as they were learnt."""
    tanh_scale: Annotated[float, Field(gt=0)] = 4.0
    """c in tanh(c code / σ), where σ is the unit of length over the root of D."""
    pre_act: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that brings dead latents back, `tanh` only; 3e-6 in the update."""

    @model_validator(mode="after")
    def _parts_used(self) -> JumpReLUSpec:
        self.refuse_idle("target_l0", self.target_l0, "settle_rows")
        self.refuse_idle('sparsity = "tanh"', not self.unit_rows, "tanh_scale", "pre_act")
        return self

    @property
    def unit_rows(self) -> bool:
        return self.sparsity == "l0"

    @property
    def variant(self) -> dict[str, Any]:
        return {} if self.unit_rows else {"sparsity_": self.sparsity}


def initial(spec: JumpReLUSpec, start: Start) -> Parameters:
    """Parameters before training; `length` is that of the first batch."""
    return parts.autoencoder(start) | {
        "threshold": torch.full((spec.latents,), spec.threshold),
        "length": torch.tensor(start.x_length),
    }


def gates(pre: Tensor, threshold: Tensor, bandwidth: Tensor, to_input: bool) -> Tensor:
    """1[pre > threshold], `[B, F]`, with the gradient of the rectangle kernel.

    The bandwidth is a scalar in their units; `to_input` lets the gradient reach `pre` too.
    """
    gap = (pre if to_input else pre.detach()) - threshold
    near = (gap.detach().abs() < bandwidth / 2) / bandwidth
    return (gap.detach() > 0) + near * (gap - gap.detach())


def jump(pre: Tensor, gate: Tensor, threshold: Tensor) -> Tensor:
    """relu(pre) where the gate is open, with the threshold's gradient of the paper, `[B, F]`."""
    open_ = gate.detach()
    return torch.relu(pre) * open_ + threshold.detach() * (gate - open_)


def objective(p: Parameters, batch: Batch, spec: JumpReLUSpec, at: At) -> Objective:
    """Reconstruction and penalty of a batch."""
    x, length = batch.x, p["length"]
    pre = parts.pre_activations(p, x)
    threshold = length * p["threshold"].abs()
    gate = gates(pre, threshold, spec.bandwidth * length, not spec.unit_rows)
    z = jump(pre, gate, threshold)
    x_hat, _, fvu = parts.reconstructed(p, z, x)
    penalty = gate.sum() / len(x) if spec.unit_rows else _tanh(p, z, x, spec)
    loss = fvu + at.penalty * spec.penalty * penalty
    if spec.pre_act > 0 and not spec.unit_rows and bool(at.dead.any()):
        below = torch.relu(threshold - pre) * at.dead * _norms(p)
        loss = loss + spec.pre_act * below.sum() / (len(x) * length / x.shape[1] ** 0.5)
    return Objective(loss, fvu.detach(), z.detach(), {"length": length}, x_hat, loss - fvu)


def settle(p: Parameters, spec: JumpReLUSpec, batches: BatchSource) -> Parameters:
    """Thresholds that let `target_l0` latents fire in a row, on average over the last rows."""
    if spec.target_l0 is None or not spec.settle_rows:
        return {}
    threshold = (p["length"] * p["threshold"].abs()).clamp_min(torch.finfo(torch.float32).tiny)
    over = (parts.pre_activations(p, b.x) / threshold for b in batches.last(spec.settle_rows))
    most = spec.settle_rows + len(next(batches.last(1)).x)
    # a little lower, so that rounding does not decide about the code that it was found at
    factor = codes.common_threshold(over, spec.target_l0, most) * (1 - 1e-4)
    return {"threshold": p["threshold"] * factor}


def _tanh(p: Parameters, z: Tensor, x: Tensor, spec: JumpReLUSpec) -> Tensor:
    sigma = p["length"] / x.shape[1] ** 0.5
    return torch.tanh(spec.tanh_scale * z * _norms(p) / sigma).sum() / len(x)


def _norms(p: Parameters) -> Tensor:
    return torch.linalg.vector_norm(p["W_dec"], dim=1)


def freeze(p: Parameters, spec: JumpReLUSpec, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are; training and inference rule are the same."""
    threshold = (p["length"] * p["threshold"].abs()).detach()
    if spec.unit_rows:
        return parts.frozen(p, {"kind": "jumprelu"}, about, threshold)
    norms = _norms(p).detach()
    threshold = threshold * torch.where(norms > 0, norms, 1.0)
    return parts.frozen(parts.rows_to_unit(p), {"kind": "jumprelu"}, about, threshold)


def thaw(sae: SAE, spec: JumpReLUSpec, start: Start) -> Parameters:
    """To go on from one; a threshold below 0 is one of 0, since codes are positive."""
    assert sae.threshold is not None, "jumprelu has thresholds"
    length = torch.tensor(start.x_length)
    own = {"threshold": sae.threshold.clamp_min(0.0) / length, "length": length}
    return parts.thawed(sae, spec, start) | own


_BUFFERS = frozenset({"length"})
JUMPRELU = Architecture(
    JumpReLUSpec,
    initial,
    objective,
    freeze,
    buffers=_BUFFERS,
    settle=settle,
    thaw=thaw,
    thaws=frozenset({"jumprelu"}),
)
