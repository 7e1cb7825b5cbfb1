"""An SAE as a `torch.nn.Module`: for optimisers, hooks, `state_dict`, and code that expects one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from reseed.sae.model import SAE

_PARAMETERS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip")


class SAEModule(nn.Module):
    """An SAE whose matrices and vectors are parameters, copied from it.

    F latents, D input and E output dimensions; leading dimensions of any number are kept. The
    numbers are those of the SAE: `sae` is it, made of the parameters as they are now.

    Args:
        sae: what it is a copy of.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor

    def __init__(self, sae: SAE) -> None:
        super().__init__()
        self._template = sae
        for name in _PARAMETERS:
            value = getattr(sae, name)
            copy = None if value is None else nn.Parameter(value.detach().clone())
            self.register_parameter(name, copy)

    @property
    def sae(self) -> SAE:
        """The SAE of the parameters as they are; it takes gradients where they do."""
        parameters = {name: getattr(self, name) for name in _PARAMETERS}
        if not torch.is_grad_enabled():  # kernels without gradients apply
            parameters = {n: p if p is None else p.detach() for n, p in parameters.items()}
        return replace(self._template, **parameters)

    def encode(self, x: Tensor) -> Tensor:
        """Codes `[..., F]` of rows `[..., D]`."""
        return self.sae.encode(x)

    def decode(self, codes: Tensor) -> Tensor:
        """Rows `[..., E]` of codes `[..., F]`; see `SAE.decode`."""
        return self.sae.decode(codes)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions `[..., E]` of rows `[..., D]` in raw activation units."""
        return self.sae.reconstruct(x)

    def extra_repr(self) -> str:
        """One line of the SAE."""
        return repr(self._template)
