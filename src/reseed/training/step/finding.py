"""Which codes of a batch fire, and their loss: the sparse rules, one function each.

What their plain twins in `architectures` compute with dense codes. A penalty makes codes sparse by
one gate, z = p where p > θ (ReLU: θ = 0; JumpReLU: a rectangle kernel around θ), or by two: the
gated SAE, z = 1[g > 0] relu(e^r h + b_mag), where open gates g reconstruct as well.

B batch, D dimensions, F latents, E entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.loops import compiled as workers
from reseed.loops import matrices as loops
from reseed.sae import encode
from reseed.sae.above import BatchTop, above, share_above, where
from reseed.sae.architecture import At
from reseed.sae.architectures.batchtopk import BatchSpec, MatryoshkaSpec
from reseed.sae.architectures.gated import GatedSpec
from reseed.sae.architectures.jumprelu import JumpReLUSpec
from reseed.sae.architectures.relu import ReLUSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.parts import running_threshold
from reseed.sae.settings import ArchitectureSpec
from reseed.training.step.dense import find as find_whole
from reseed.training.step.sparse import (
    LATENTS,
    ByRow,
    CPUGradients,
    Part,
    ReadBatch,
    auxiliary,
    by_row,
    decoded,
    gathered,
    pulled,
)

Floats, Doubles = NDArray[np.float32], NDArray[np.float64]

Find = Callable[[ReadBatch, At], CPUGradients]
"""From a batch and where in training it is."""

DENSE_FROM = 0.07
"""Share of pre-activations above their bars from which products of whole matrices are faster."""

_ZERO, _MINUS, _ONE = np.float32(0.0), np.float32(-1.0), np.float32(1.0)


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


class OneGate:
    """ReLU and JumpReLU: z = p where p > θ; see `reseed.training.step.dense.Rule`."""

    bias = "b_enc"
    reconstructions = 1

    def __init__(self, spec: ReLUSpec | JumpReLUSpec, g: ReadBatch, penalty: float) -> None:
        latents = len(g.p["W_enc"])
        self.threshold: Floats = np.zeros(latents, np.float32)
        self.half = self.price = _ZERO
        self.tolls: Floats = np.zeros(latents, np.float32)
        self.fall: Floats | None = None
        self._chain: Doubles = np.zeros(latents)
        if isinstance(spec, ReLUSpec):
            self.tolls[:] = toll(g, penalty)
            if not spec.unit_rows:
                lengths = lengths_of(g)
                self.fall = np.divide(self.tolls, lengths, where=lengths > 0, out=0 * lengths)
                self.tolls *= lengths
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
        codes = torch.empty_like(pre)
        loops.gated(pre.numpy(), self.threshold[some], codes.numpy())
        return (codes,)

    def settle(self, pre: Tensor, flows: list[Tensor], some: slice) -> None:
        loops.settle(
            pre.numpy(), flows[0].numpy(), self.threshold[some], self.half, self.tolls[some],
            self.price, self.flow[some], self._kernel[some], self.fires[some],
        )  # fmt: skip

    def vectors(self) -> Mapping[str, Floats]:
        return {"b_enc": self.flow.astype(np.float32)} | self.slopes(self._kernel)

    def slopes(self, kernel: Doubles) -> dict[str, Floats]:
        """Gradient of what thresholds are trained as; nothing for ReLU.

        `kernel` `[F]` has sums of threshold pull + price over all codes within the kernel.
        """
        return {"threshold": (kernel * self._chain).astype(np.float32)} if self.half > 0 else {}


class TwoGates:
    """The gated SAE; see `reseed.training.step.dense.Rule`."""

    bias = "b_gate"
    reconstructions = 2
    fall = None

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
        values = np.maximum(product + self.b_mag[latents], _ZERO)
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


def finding(spec: ArchitectureSpec) -> Find:
    """The rule of an architecture, to be kept for a run."""
    match spec:
        case MatryoshkaSpec():
            return partial(_matryoshka, spec, BatchTop())
        case TopKSpec() | BatchSpec():
            return partial(_topk, spec, BatchTop())
        case ReLUSpec() | JumpReLUSpec():
            return partial(_penalised, spec)
        case GatedSpec():
            return partial(_gated, spec)
        case _:
            raise TypeError(f"{spec.name} has no sparse rule; take the plain path")


def _topk(spec: TopKSpec | BatchSpec, top: BatchTop, g: ReadBatch, at: At) -> CPUGradients:
    batch = isinstance(spec, BatchSpec)
    codes = top.codes(g.reader(), spec.k) if batch else by_row(encode.codes(g.reader(), spec.k))
    part = decoded(g, codes, g.x, _MINUS, g.step)
    parts = [part, *auxiliary(g, part.residual, spec.auxk_alpha)]
    buffers = _threshold(spec, g, codes) if batch else {}
    return gathered(g, parts, g.fvu(part.loss), codes, buffers=buffers)


def _threshold(spec: BatchSpec, g: ReadBatch, codes: ByRow) -> dict[str, torch.Tensor]:
    values = torch.from_numpy(codes.values)
    return {"threshold": running_threshold(g.p["threshold"], values, spec.threshold_momentum)}


def _matryoshka(spec: MatryoshkaSpec, top: BatchTop, g: ReadBatch, at: At) -> CPUGradients:
    """Each prefix is a part: its codes learn from the errors of all prefixes that have them."""
    codes = top.codes(g.reader(), spec.k)
    nested = [_between(codes, *ends) for ends in pairwise((0, *spec.widths))]
    errors, start, before = list[Part](), g.x, _MINUS
    for some in nested:
        errors.append(decoded(g, some, start, before, _ONE, flows=False))
        start, before = errors[-1].residual, _ONE
    loss = errors[-1].loss
    total: Floats = np.zeros_like(start)
    last, parts = np.multiply(g.step, start, dtype=np.float32), list[Part]()
    for some, left in zip(nested[::-1], errors[::-1], strict=True):
        total = np.add(total, g.step * left.residual, dtype=np.float32)
        flow = pulled(g, some.starts, some.latents, total)
        parts.insert(0, Part(some, total, flow, left.loss))
    parts += auxiliary(g, last, spec.auxk_alpha)
    buffers = _threshold(spec, g, codes)
    return gathered(g, parts, g.fvu(loss), codes, buffers=buffers)


def _between(codes: ByRow, first: int, stop: int) -> ByRow:
    """Those of some latents."""
    return where(codes, (codes.latents >= first) & (codes.latents < stop))


def _penalised(spec: ReLUSpec | JumpReLUSpec, g: ReadBatch, at: At) -> CPUGradients:
    gate = OneGate(spec, g, at.penalty * spec.penalty)
    if share_above(g.reader(), gate.bars) > DENSE_FROM:
        return find_whole(g, gate)
    listed = above(g.reader(), gate.bars)
    codes = where(listed, listed.values > gate.threshold[listed.latents])
    part = decoded(g, codes, g.x, _MINUS, g.step, tolls=gate.tolls)
    vectors = {} if gate.half == 0 else slopes(g, gate, listed, part.residual)
    pull = None
    if gate.fall is not None:
        sums = _summed(codes, codes.values, len(gate.fall)).astype(np.float32)
        pull = gate.fall * sums
    return gathered(g, [part], g.fvu(part.loss), codes, vectors=vectors, pull=pull)


def slopes(g: ReadBatch, gate: OneGate, listed: ByRow, residual: Floats) -> dict[str, Floats]:
    """Gradient of the thresholds, through the kernel at all codes that are near theirs."""
    near = np.abs(listed.values - gate.threshold[listed.latents]) < gate.half
    some = where(listed, near)
    pull = pulled(g, some.starts, some.latents, residual)
    each = gate.threshold[some.latents] * pull + gate.price
    return gate.slopes(_summed(some, each, len(gate.threshold)))


def _gated(spec: GatedSpec, g: ReadBatch, at: At) -> CPUGradients:
    gates = TwoGates(spec, g, at.penalty * spec.penalty)
    if share_above(g.reader(gates.bias), gates.bars) > DENSE_FROM:
        return find_whole(g, gates)
    opened = above(g.reader(gates.bias), gates.bars)
    codes, size, product = gates.codes(opened)
    part = decoded(g, codes, g.x, _MINUS, g.step)
    tolls = np.full(len(gates.bars), gates.toll)
    by_gate = decoded(g, opened, g.x, _MINUS, g.step, tolls=tolls).flow
    sums = by_gate, part.flow, part.flow * product
    vectors = gates.named(*(_summed(codes, each, len(gates.bars)) for each in sums))
    both = Part(codes, part.residual, size * part.flow + by_gate, part.loss)
    return gathered(g, [both], g.fvu(part.loss), codes, vectors=vectors)


def _summed(codes: ByRow, each: Floats, latents: int) -> NDArray[np.float64]:
    """Sums over the batch for each latent, in order of row."""
    return np.bincount(codes.latents, each.astype(np.float64), latents).astype(np.float64)
