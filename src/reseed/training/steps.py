"""How a step is made: what both ways have, and the plain one by torch.

The other is `fast_step`. Both give the same to float rounding, and keep the same state under the
same names, so that a run that was begun one way could go on the other. Within one way results are
bit-identical.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reseed.sae import topk
from reseed.sae.spec import TopKSpec

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam; torch's defaults."""


class Seen(NamedTuple):
    """What a batch says before anything is updated."""

    fvu: float
    l0: float
    fired: Tensor
    """[F] bool"""
    norm: float
    """of the gradient, before clipping"""


class Step(Protocol):
    """Gradients and Adam of one run."""

    def look(self, x: Tensor, dead: Tensor) -> Seen:
        """Find loss and gradients of a batch; nothing is updated.

        Args:
            x: float32 `[B, D]`.
            dead: `[F]` bool.
        """
        ...

    def apply(self, rate: float) -> None:
        """Update the parameters by what `look` found.

        Args:
            rate: learning rate.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state as named tensors."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave, and from the parameters as they are now.

        Raises:
            KeyError: if it is the state of another run.
        """
        ...


class PlainStep:
    """By torch's sparse products and its Adam, on any device.

    Args:
        parameters: of the run, updated in place.
        trained: names of those that are trained.
        spec: the architecture.
        clip: largest norm of the gradient.
    """

    def __init__(
        self, parameters: topk.Parameters, trained: frozenset[str], spec: TopKSpec, clip: float
    ) -> None:
        self._all, self._spec, self._clip = parameters, spec, clip
        self._trained = {n: torch.nn.Parameter(p) for n, p in parameters.items() if n in trained}
        self._optimizer = torch.optim.Adam(
            self._trained.values(), betas=BETAS, eps=EPSILON, fused=True
        )
        self._decoder = torch.empty(0)

    def look(self, x: Tensor, dead: Tensor) -> Seen:
        """See `Step`."""
        out = topk.step(self._all, x, self._spec, dead)
        for name, parameter in self._trained.items():
            parameter.grad = out.gradients[name]
        self._decoder = out.gradients["W_dec"]
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._clip)
        return Seen(out.fvu, out.l0, out.fired, float(norm))

    def apply(self, rate: float) -> None:
        """See `Step`."""
        rows = self._all["W_dec"]
        # what would only change a row's length
        self._decoder.sub_((self._decoder * rows).sum(1, keepdim=True) * rows)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        if "W_dec" in self._trained:
            rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))

    def state(self) -> dict[str, Tensor]:
        """See `Step`."""
        return {
            f"adam.{name}.{key}": value
            for name, parameter in self._trained.items()
            for key, value in self._optimizer.state[parameter].items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Step`."""
        for name, parameter in self._trained.items():
            prefix = f"adam.{name}."
            self._optimizer.state[parameter] = {
                key.removeprefix(prefix): value.clone()
                for key, value in state.items()
                if key.startswith(prefix)
            }
