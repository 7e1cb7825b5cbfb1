"""Which codes of a batch fire, and their loss: the sparse rules, one function each.

What their plain twins in `architectures` compute with dense codes.

B batch, D dimensions, F latents, E entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

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
from reseed.training.step.gates import OneGate, TanhGate, TwoGates
from reseed.training.step.sparse import (
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

Floats = NDArray[np.float32]

Find = Callable[[ReadBatch, At], CPUGradients]
"""From a batch and where in training it is."""

DENSE_FROM = 0.07
"""Share of pre-activations above their bars from which products of whole matrices are faster."""

_MINUS, _ONE = np.float32(-1.0), np.float32(1.0)


def finding(spec: ArchitectureSpec) -> Find:
    """The rule of an architecture, to be kept for a run."""
    match spec:
        case MatryoshkaSpec():
            return partial(_matryoshka, spec, BatchTop())
        case TopKSpec() | BatchSpec():
            return partial(_topk, spec, BatchTop())
        case JumpReLUSpec() if not spec.unit_rows:
            return partial(_tanh, spec)
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


def _tanh(spec: JumpReLUSpec, g: ReadBatch, at: At) -> CPUGradients:
    """What is near a threshold learns without firing: it is among the entries, at a code of 0."""
    gate = TanhGate(spec, g, at.penalty * spec.penalty)
    if share_above(g.reader(), gate.bars) > DENSE_FROM:
        return find_whole(g, gate)
    listed = above(g.reader(), gate.bars)
    starts, latents, pre = listed
    codes = ByRow(starts, latents, gate.codes(pre, latents))
    part = decoded(g, codes, g.x, _MINUS, g.step, flows=False)
    pull = pulled(g, starts, latents, part.residual)
    flow, kernel, sloped = gate.back(pre, codes.values, pull, latents)
    vectors = gate.slopes(_summed(listed, kernel, len(gate.fall)))
    down = gate.fall * _summed(listed, sloped, len(gate.fall)).astype(np.float32)
    parts = [replace(part, flow=flow)]
    return gathered(g, parts, g.fvu(part.loss), codes, vectors=vectors, pull=down)


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
