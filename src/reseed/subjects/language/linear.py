"""Linear layers on a processor: float32 by oneDNN where that is faster, and 8 bits.

In 8 bits y = x W^T + b with W [N, K] as int8 and one scale for each output, x as int8 and one scale
for each row, both symmetric (absolute maximum to 127), sums exact in int32. Scales by row, found as
the rows come, keep a row's result independent of all other rows; this is the vector-wise
quantisation of arXiv 2208.07339 without its outlier columns. torch.ao's dynamic quantisation is
deprecated and has one scale for all rows of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reseed.errors import SpecError
from reseed.sae.arithmetic import by_onednn, onednn_is_faster

_LEVELS = 127.0

_LEAST = 1e-30
"""Scale of a row of zeros."""


class OneDNNLinear(nn.Linear):
    """A linear layer by oneDNN, where no gradient is asked for."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., K]` to `[..., N]`."""
        exact = input.dtype == self.weight.dtype == torch.float32
        if torch.is_grad_enabled() or not exact or input.device.type != "cpu":
            return super().forward(input)
        return by_onednn(input, self.weight, self.bias)


def to_onednn(model: nn.Module) -> None:
    """Let linear layers make products by oneDNN where that is faster: of a model only read.

    One that is also learned through keeps its layers, or a pass with gradients would have other
    last bits than one without.
    """
    for layer in model.modules() if onednn_is_faster() else ():
        if type(layer) is nn.Linear:
            layer.__class__ = OneDNNLinear  # weights, hooks and ties stay


class Int8Linear(nn.Module):
    """A linear layer with its weights rounded to int8; runs without gradients."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        exact = layer.weight.detach().to(torch.float32)
        scale = (exact.abs().amax(dim=1) / _LEVELS).clamp_min(_LEAST)
        self.weight: Tensor
        self.register_buffer("weight", (exact / scale[:, None]).round_().to(torch.int8))
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self.bias: nn.Parameter | None = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """`[..., K]` to `[..., N]`, in the format of x; a row with NaN or infinity gives NaN."""
        rows = x.reshape(-1, self.in_features).to(torch.float32)
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(_LEAST)
        small = (rows * (_LEVELS / largest)).round_().to(torch.int8)
        # the product that torchao calls for this as well; it has no public name in torch
        out = torch.ops.aten._int_mm(small, self.weight.t()).to(torch.float32)
        out *= largest / _LEVELS
        out *= self.scale
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)


def to_int8(body: nn.Module, name: str) -> None:
    """Put an `Int8Linear` in place of every linear layer; paths of modules stay."""
    layers = [
        (part, child, layer)
        for part in body.modules()
        for child, layer in part.named_children()
        if type(layer) is nn.Linear
    ]
    if not layers:
        raise SpecError(
            f"subject.dtype = 'int8': {name} has no torch.nn.Linear whose weights could be "
            "rounded; take 'bfloat16' or 'float32'"
        )
    for part, child, layer in layers:
        setattr(part, child, Int8Linear(layer))
