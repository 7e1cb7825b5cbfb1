"""The fast way to make a step on a GPU: Triton kernels around one product (docs/speed.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reseed.loops import gpu_step as loops
from reseed.sae.architecture import At, Batch, Parameters
from reseed.sae.architectures.batchtopk import BatchTopKSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.gpu import new_screen
from reseed.training.step.fast import Moments
from reseed.training.step.gpu_sparse import Found, find, sizes
from reseed.training.step.plain import BETAS, EPSILON, Look


class TritonStep:
    """By Triton kernels, on a GPU: float32 weights, the product in bfloat16; see docs/speed.md.

    Args:
        parameters: of the run, float32, contiguous, updated in place.
        trained: names of those that are trained.
        spec: the architecture.
        clip: largest norm of the gradient.
        halves: whether the product that is looked at for candidates is made in bfloat16; decides
            the time that codes take, never the codes.
    """

    def __init__(
        self,
        parameters: Parameters,
        trained: frozenset[str],
        spec: TopKSpec | BatchTopKSpec,
        clip: float,
        *,
        halves: bool = True,
    ) -> None:
        self._all, self._trained, self._spec, self._clip = parameters, trained, spec, clip
        self._moments = Moments(parameters, trained)
        self._found: Found | None = None
        self._halves = halves
        self._screen = new_screen(parameters["W_enc"], halves=halves)

    @torch.no_grad()
    def look(self, batch: Batch, at: At, pull: Tensor | None = None) -> Look:
        """See `Step`."""
        if pull is not None:
            raise RuntimeError("this way has no gradients to add to; take the plain one")
        self._found = None
        given = self._all, batch.x, self._spec, at.dead, self._screen
        with torch.cuda.device_of(batch.x):  # where Triton launches
            found = find(*given, trained=self._trained)
        self._found = found
        return Look(found.fvu, found.l0, found.fired, found.norm)

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        """See `Step`."""
        found, self._found = self._found, None
        if found is None:
            raise RuntimeError("apply needs a look before")
        self._moments.made += 1
        with torch.cuda.device_of(found.x):
            self._update(found, rate)

    def _update(self, found: Found, rate: float) -> None:
        clip = min(1.0, self._clip / (found.norm + 1e-6))
        pace = (
            clip,
            rate / (1 - BETAS[0] ** self._moments.made),
            1 / math.sqrt(1 - BETAS[1] ** self._moments.made),
        )
        given: dict[str, Any] = {
            "FIRST": BETAS[0],
            "SECOND": BETAS[1],
            "EPSILON": EPSILON,
            **sizes(found.x.shape[1]),
        }
        starts, rows, values, flow = found.entries
        latents, dimensions = self._all["W_enc"].shape
        if "W_enc" in self._moments:
            screen = self._screen
            kept: dict[str, Any] = {**given, "HALVES": self._halves}
            loops.update_encoder[(latents,)](
                starts, rows, flow, found.x, *self._with_moments("W_enc"),
                screen.rows, screen.length, screen.lost, *pace, len(found.x), dimensions,
                **kept,
            )  # fmt: skip
        if "W_dec" in self._moments:
            loops.update_decoder[(latents,)](
                starts, rows, values, found.residual, *self._with_moments("W_dec"),
                *pace, len(found.residual), dimensions, **given,
            )  # fmt: skip
        if found.threshold is not None:
            self._all["threshold"].copy_(found.threshold)
        for name, gradient in (("b_enc", found.b_enc), ("b_dec", found.b_dec)):
            if name in self._moments:
                _adam(*self._with_moments(name), gradient, *pace)

    def state(self) -> dict[str, Tensor]:
        """See `Step`."""
        return self._moments.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Step`."""
        self._moments.restore(state)
        self._screen = new_screen(self._all["W_enc"], halves=self._halves)

    def _with_moments(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self._all[name], *self._moments[name]


def _adam(
    p: Tensor, m: Tensor, v: Tensor, gradient: Tensor, clip: float, rate: float, root: float
) -> None:
    """Adam on a bias, as the kernels have it for rows."""
    g = gradient * clip
    m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
    v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
    p.addcdiv_(m, v.sqrt().mul_(root).add_(EPSILON), value=-rate)
