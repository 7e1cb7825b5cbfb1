"""What penalised architectures let fire, and how its gradients flow back: one class each.

ReLU and JumpReLU have one gate, z = p where p > θ (ReLU: θ = 0; JumpReLU: a rectangle kernel around
θ); the gated SAE has two, z = 1[g > 0] relu(e^r h + b_mag), where open gates g reconstruct as well.
Each is a `reseed.training.step.dense.Rule`, and has what the sparse rules in `finding` need.

B batch, D dimensions, F latents, C latents of a piece, E entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.loops import compiled as workers
from reseed.loops import matrices as loops
from reseed.sae.architectures.gated import GatedSpec
from reseed.sae.architectures.jumprelu import JumpReLUSpec
from reseed.sae.architectures.relu import ReLUSpec
from reseed.training.step.sparse import LATENTS, ByRow, ReadBatch

Floats, Doubles = NDArray[np.float32], NDArray[np.float64]

ZERO = np.float32(0.0)


def toll(g: ReadBatch, penalty: float) -> np.float32:
    """Gradient of penalty Σ z / (B ℓ) by a code."""
    return np.float32(penalty / math.sqrt(g.scale * len(g.x)) if g.scale > 0 else math.nan)


def lengths_of(g: ReadBatch) -> Floats:
    """`[F]` lengths of decoder rows."""
    W_dec = g.p["W_dec"].numpy()
    squares = np.empty(len(W_dec), np.float32)

    def work(first: int, stop: int) -> None:
        part = W_dec[first:stop]
        np.einsum("fd,fd->f", part, part, out=squares[first:stop])

    workers.stretches(work, len(W_dec), LATENTS, g.threads)
    return np.sqrt(squares)


def kernels(spec: JumpReLUSpec, g: ReadBatch) -> tuple[Floats, np.float32, Doubles]:
    """Thresholds `[F]`, half the width of their kernel, and what they are trained as by them."""
    length, trained = np.float32(g.p["length"].item()), g.p["threshold"].numpy()
    wide = np.float32(spec.bandwidth) * length
    chain = -np.sign(trained).astype(np.float64) * length / wide
    return length * np.abs(trained), wide / np.float32(2.0), chain


def bars(threshold: Floats, half: np.float32) -> Floats:
    """`[F]`; at or below them nothing fires and nothing is within half a kernel's width."""
    return threshold - half - (np.float32(2.0**-20) * (threshold + half) if half else ZERO)


class OneGate:
    """ReLU and JumpReLU: z = p where p > θ; see `reseed.training.step.dense.Rule`."""

    bias = "b_enc"
    reconstructions = 1

    def __init__(self, spec: ReLUSpec | JumpReLUSpec, g: ReadBatch, penalty: float) -> None:
        latents = len(g.p["W_enc"])
        self.threshold: Floats = np.zeros(latents, np.float32)
        self.half = self.price = ZERO
        self.tolls: Floats = np.zeros(latents, np.float32)
        self.fall = self.pull = None
        self._chain: Doubles = np.zeros(latents)
        if isinstance(spec, ReLUSpec):
            self.tolls[:] = toll(g, penalty)
            if not spec.unit_rows:
                lengths = lengths_of(g)
                self.fall = np.divide(self.tolls, lengths, where=lengths > 0, out=0 * lengths)
                self.pull = np.zeros_like(self.fall)
                self.tolls *= lengths
        else:
            self.threshold, self.half, self._chain = kernels(spec, g)
            self.price = np.float32(penalty / len(g.x))
        self.fires = np.zeros(latents, np.int64)
        self.flow, self._kernel = np.zeros((2, latents))

    @property
    def bars(self) -> Floats:
        """`[F]`; at or below them nothing fires and nothing is near a threshold."""
        return bars(self.threshold, self.half)

    def fire(self, pre: Tensor, some: slice) -> tuple[Tensor, ...]:
        codes = torch.empty_like(pre)
        loops.gated(pre.numpy(), self.threshold[some], codes.numpy())
        return (codes,)

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        loops.settle(
            pre.numpy(), flows[0].numpy(), self.threshold[some], self.half, self.tolls[some],
            self.price, self.flow[some], self._kernel[some], self.fires[some],
        )  # fmt: skip
        if self.fall is not None and self.pull is not None:
            self.pull[some] = self.fall[some] * pre.numpy().sum(0)

    def vectors(self) -> Mapping[str, Floats]:
        return {"b_enc": self.flow.astype(np.float32)} | self.slopes(self._kernel)

    def slopes(self, kernel: Doubles) -> dict[str, Floats]:
        """Gradient of what thresholds are trained as; nothing for ReLU.

        `kernel` `[F]` has sums of threshold pull + price over all codes within the kernel.
        """
        return {"threshold": (kernel * self._chain).astype(np.float32)} if self.half > 0 else {}


class TanhGate:
    """JumpReLU with `sparsity = "tanh"`: free decoder rows, and kernels that teach the encoder too.

    With c = tanh_scale |W_dec| / σ the loss has λ Σ tanh(c z) / B, and
    d z / d p = 1[p > θ] + (θ / ε) K((p - θ) / ε).
    """

    bias = "b_enc"
    reconstructions = 1

    def __init__(self, spec: JumpReLUSpec, g: ReadBatch, penalty: float) -> None:
        self.threshold, self.half, self._chain = kernels(spec, g)
        lengths = lengths_of(g)
        sigma = np.float32(g.p["length"].item() / math.sqrt(g.x.shape[1]))
        self._scale: Floats = np.float32(spec.tanh_scale) / sigma * lengths
        self._tolls: Floats = np.multiply(penalty / len(g.x), self._scale, dtype=np.float32)
        squares = np.square(lengths)
        self.fall: Floats = np.divide(self._tolls, squares, where=squares > 0, out=0 * squares)
        self.pull: Floats = np.zeros_like(self.fall)
        self.fires = np.zeros(len(lengths), np.int64)
        self.flow, self._kernel = np.zeros((2, len(lengths)))

    @property
    def bars(self) -> Floats:
        """As those of `OneGate`."""
        return bars(self.threshold, self.half)

    def fire(self, pre: Tensor, some: slice) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self.codes(pre.numpy(), some)),)

    def codes(self, pre: Floats, latents: NDArray[np.int64] | slice) -> Floats:
        """Pre-activations above their threshold, 0 elsewhere; `[E]`, or `[B, C]` of a slice."""
        return np.where(pre > self.threshold[latents], pre, ZERO)

    def back(
        self, pre: Floats, codes: Floats, pulled: Floats, latents: NDArray[np.int64] | slice
    ) -> tuple[Floats, Floats, Floats]:
        """Gradients of pre-activations, and what `slopes` and `fall` are to be summed over.

        All are shaped as in `codes`; `pulled` is the residual times decoder rows.
        """
        threshold: Floats = self.threshold[latents]
        height: Floats = np.tanh(self._scale[latents] * codes)
        slope: Floats = np.subtract(np.float32(1.0), height * height, dtype=np.float32)
        by_code: Floats = np.add(pulled, self._tolls[latents] * slope, dtype=np.float32)
        near: Floats = np.where(np.abs(pre - threshold) < self.half, threshold, ZERO)
        opened: Floats = (codes > 0).astype(np.float32)
        flow: Floats = by_code * (opened + np.divide(near, 2 * self.half, dtype=np.float32))
        return flow, near * by_code, slope * codes

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        left, codes = flows[0].numpy(), self.codes(pre.numpy(), some)
        flow, kernel, sloped = self.back(pre.numpy(), codes, left, some)
        pre.numpy()[:], left[:] = codes, flow
        self.flow[some] = flow.sum(0, np.float64)
        self._kernel[some] = kernel.sum(0, np.float64)
        self.pull[some] = self.fall[some] * sloped.sum(0)
        self.fires[some] = np.count_nonzero(codes, 0)

    def vectors(self) -> Mapping[str, Floats]:
        return {"b_enc": self.flow.astype(np.float32)} | self.slopes(self._kernel)

    def slopes(self, kernel: Doubles) -> dict[str, Floats]:
        """As those of `OneGate`."""
        return {"threshold": (kernel * self._chain).astype(np.float32)}


class TwoGates:
    """The gated SAE; see `reseed.training.step.dense.Rule`."""

    bias = "b_gate"
    reconstructions = 2
    pull = None

    def __init__(self, spec: GatedSpec, g: ReadBatch, penalty: float) -> None:
        self.b_gate, self.b_mag = g.p["b_gate"].numpy(), g.p["b_mag"].numpy()
        self.size: Floats = np.exp(g.p["r_mag"].numpy())
        self.toll = toll(g, penalty)
        self.bars: Floats = np.zeros(len(self.size), np.float32)
        self.fires = np.zeros(len(self.size), np.int64)
        self._sums = np.zeros((4, len(self.size)))

    @property
    def flow(self) -> Doubles:
        return self._sums[0]

    def codes(self, opened: ByRow) -> tuple[ByRow, Floats, Floats]:
        """Codes of open gates, with e^r and e^r h of each, `[E]`."""
        size, latents = self.size[opened.latents], opened.latents
        product = size * (opened.values - self.b_gate[latents])
        values = np.maximum(product + self.b_mag[latents], ZERO)
        return ByRow(opened.starts, latents, values), size, product

    def fire(self, pre: Tensor, some: slice) -> tuple[Tensor, ...]:
        codes, opened = torch.empty_like(pre), torch.empty_like(pre)
        settings = self.b_gate[some], self.size[some], self.b_mag[some]
        loops.both_gated(pre.numpy(), *settings, codes.numpy(), opened.numpy())
        return codes, opened

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        flow, by_gate = flows
        settings = self.b_gate[some], self.size[some], self.b_mag[some], self.toll
        sums = self._sums[:, some], self.fires[some]
        loops.both_settled(pre.numpy(), flow.numpy(), by_gate.numpy(), *settings, *sums)

    def vectors(self) -> Mapping[str, Floats]:
        return self.named(*self._sums[1:])

    def named(self, b_gate: Doubles, b_mag: Doubles, r_mag: Doubles) -> dict[str, Floats]:
        """Gradients by the names of parameters."""
        sums = {"b_gate": b_gate, "b_mag": b_mag, "r_mag": r_mag}
        return {name: value.astype(np.float32) for name, value in sums.items()}
