"""What fires where a penalty makes codes sparse, and what it costs.

One gate: z = p where p > θ (ReLU: θ = 0; JumpReLU: a rectangle kernel around θ). Two gates: the
gated SAE, z = 1[g > 0] relu(e^r h + b_mag), where open gates g reconstruct as well.

B batch, F latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.sae import dense_kernels as loops
from reseed.sae.sparse_step import ByRow, Floats, Given
from reseed.sae.specs.gated import GatedSpec
from reseed.sae.specs.jumprelu import JumpReLUSpec
from reseed.sae.specs.relu import ReLUSpec

_ZERO = np.float32(0.0)
Doubles = NDArray[np.float64]


def toll(g: Given, penalty: float) -> np.float32:
    """Gradient of penalty Σ z / (B ℓ) by a code."""
    return np.float32(penalty / math.sqrt(g.scale * len(g.x)) if g.scale > 0 else math.nan)


class OneGate:
    """ReLU and JumpReLU; see `dense_step.Rule`.

    Args:
        spec: the architecture.
        g: the batch.
        penalty: its weight now.
    """

    bias = "b_enc"
    reconstructions = 1

    def __init__(self, spec: ReLUSpec | JumpReLUSpec, g: Given, penalty: float) -> None:
        latents = len(g.p["W_enc"])
        self.threshold: Floats = np.zeros(latents, np.float32)
        self.half = self.toll = self.price = _ZERO
        self._chain: Doubles = np.zeros(latents)
        if isinstance(spec, ReLUSpec):
            self.toll = toll(g, penalty)
        else:
            length, trained = np.float32(g.p["length"].item()), g.p["threshold"].numpy()
            wide = np.float32(spec.bandwidth) * length
            self.threshold, self.half = length * np.abs(trained), wide / np.float32(2.0)
            self.price = np.float32(penalty / len(g.x))
            self._chain = -np.sign(trained).astype(np.float64) * length / wide
        self.fires = np.zeros(latents, np.int64)
        self.flow, self._kernel = np.zeros((2, latents))

    @property
    def bars(self) -> Floats:
        """`[F]`; at or below them nothing fires and nothing is near a threshold."""
        reach = self.threshold + self.half
        return self.threshold - self.half - (np.float32(2.0**-20) * reach if self.half else _ZERO)

    def fire(self, pre: Tensor, some: slice) -> tuple[Tensor, ...]:
        """See `Rule`."""
        codes = torch.empty_like(pre)
        loops.gated(pre.numpy(), self.threshold[some], codes.numpy())
        return (codes,)

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        """See `Rule`."""
        loops.settle(
            pre.numpy(), flows[0].numpy(), self.threshold[some], self.half, self.toll, self.price,
            self.flow[some], self._kernel[some], self.fires[some],
        )  # fmt: skip

    def vectors(self) -> Mapping[str, Floats]:
        """See `Rule`."""
        return {"b_enc": self.flow.astype(np.float32)} | self.slopes(self._kernel)

    def slopes(self, kernel: Doubles) -> dict[str, Floats]:
        """Gradient of what thresholds are trained as; nothing for ReLU.

        Args:
            kernel: `[F]` sums of threshold pull + price over all codes within the kernel.
        """
        return {"threshold": (kernel * self._chain).astype(np.float32)} if self.half > 0 else {}


class TwoGates:
    """The gated SAE; see `dense_step.Rule`.

    Args:
        spec: the architecture.
        g: the batch.
        penalty: its weight now.
    """

    bias = "b_gate"
    reconstructions = 2

    def __init__(self, spec: GatedSpec, g: Given, penalty: float) -> None:
        self.b_gate, self.b_mag = g.p["b_gate"].numpy(), g.p["b_mag"].numpy()
        self.size: Floats = np.exp(g.p["r_mag"].numpy())
        self.toll = toll(g, penalty)
        self.bars: Floats = np.zeros(len(self.size), np.float32)
        self.fires = np.zeros(len(self.size), np.int64)
        self._sums = np.zeros((4, len(self.size)))

    @property
    def flow(self) -> Doubles:
        """See `Rule`."""
        return self._sums[0]

    def codes(self, opened: ByRow) -> tuple[ByRow, Floats, Floats]:
        """Codes of open gates, with e^r and e^r h of each, `[E]`."""
        size, latents = self.size[opened.latents], opened.latents
        product = size * (opened.values - self.b_gate[latents])
        values = np.maximum(product + self.b_mag[latents], _ZERO)
        return ByRow(opened.starts, latents, values), size, product

    def fire(self, pre: Tensor, some: slice) -> tuple[Tensor, ...]:
        """See `Rule`."""
        codes, opened = torch.empty_like(pre), torch.empty_like(pre)
        given = self.b_gate[some], self.size[some], self.b_mag[some]
        loops.both_gated(pre.numpy(), *given, codes.numpy(), opened.numpy())
        return codes, opened

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        """See `Rule`."""
        flow, by_gate = flows
        given = self.b_gate[some], self.size[some], self.b_mag[some], self.toll
        sums = self._sums[:, some], self.fires[some]
        loops.both_settled(pre.numpy(), flow.numpy(), by_gate.numpy(), *given, *sums)

    def vectors(self) -> Mapping[str, Floats]:
        """See `Rule`."""
        return self.named(*self._sums[1:])

    def named(self, b_gate: Doubles, b_mag: Doubles, r_mag: Doubles) -> dict[str, Floats]:
        """Gradients by the names of parameters."""
        sums = {"b_gate": b_gate, "b_mag": b_mag, "r_mag": r_mag}
        return {name: value.astype(np.float32) for name, value in sums.items()}
