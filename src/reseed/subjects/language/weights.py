"""Linear layers with weights and inputs in 8 bits, for a subject on a processor.

y = x W^T + b with W [N, K] as int8 and one scale for each output, x as int8 and one scale for each
row, both symmetric (absolute maximum to 127), sums exact in int32. Scales by row, found as the rows
come, keep a row's result independent of all other rows; this is the vector-wise
quantisation of arXiv 2208.07339 without its outlier columns.

torch.ao's dynamic quantisation is deprecated and has one scale for all rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from reseed.errors import SpecError
from reseed.seeds import generator

_LEVELS = 127.0

_LEAST = 1e-30
"""Scale of a row of zeros."""


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


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device] = ()) -> Generator[None, None, None]:
    """Torch (and these cards) draws from this seed inside the block, and then as before."""
    number = int(generator("random-weights", seed).integers(2**62))
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


def randomise(module: nn.Module, seed: int) -> None:
    """Give every weight of a module a new random value, in place.

    Each submodule is reset by its `reset_parameters` (some of torch's own call it
    `_reset_parameters`), children before their parents, which so have the last word.
    """
    for path, part in module.named_modules():
        own = [name for name, _ in part.named_parameters(recurse=False)]
        if own and _reset(part) is None:
            where = f"{path or 'the module itself'} ({type(part).__name__})"
            raise SpecError(
                f"random weights: {where} has the weights {', '.join(own)} and no method "
                "reset_parameters(), so it is not known how they start. Give its class one, or do "
                "without random weights."
            )
    cards = {p.device for p in module.parameters() if p.device.type == "cuda"}
    with seeded(seed, sorted(cards, key=str)), torch.no_grad():
        for part in reversed(list(module.modules())):
            reset = _reset(part)
            if reset is not None:
                reset()


def _reset(part: nn.Module) -> Callable[[], None] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        method: Any = getattr(part, name, None)
        if callable(method):
            return cast(Callable[[], None], method)
    return None
