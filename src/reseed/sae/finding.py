"""Which codes of a batch fire, and their loss: the sparse rules, one function each.

What their plain twins in `architectures` compute with dense codes. `finding` says which rule there
is for an architecture; `ArchitectureSpec.loops` says whether there is one.

B batch, D dimensions, F latents, E entries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from reseed.sae import dense_step, encode, sparse_step
from reseed.sae.above import BatchTop, above, share_above, where
from reseed.sae.architecture import At
from reseed.sae.gates import OneGate, TwoGates
from reseed.sae.parts import running_threshold
from reseed.sae.sparse_step import ByRow, Found, Given, Part
from reseed.sae.specs.batchtopk import BatchSpec
from reseed.sae.specs.common import ArchitectureSpec
from reseed.sae.specs.gated import GatedSpec
from reseed.sae.specs.jumprelu import JumpReLUSpec
from reseed.sae.specs.matryoshka import MatryoshkaSpec
from reseed.sae.specs.relu import ReLUSpec
from reseed.sae.specs.topk import TopKSpec

Floats = NDArray[np.float32]

Find = Callable[[Given, At], Found]
"""From a batch and where in training it is."""

DENSE_FROM = 0.07
"""Share of pre-activations above their bars from which products of whole matrices are faster."""

_MINUS, _ONE = np.float32(-1.0), np.float32(1.0)


def finding(spec: ArchitectureSpec) -> Find:
    """The rule of an architecture, to be kept for a run.

    Raises:
        TypeError: if it has none.
    """
    match spec:
        case TopKSpec():
            return partial(_topk, spec)
        case MatryoshkaSpec():
            return partial(_matryoshka, spec, BatchTop())
        case BatchSpec():
            return partial(_batchtopk, spec, BatchTop())
        case ReLUSpec() | JumpReLUSpec():
            return partial(_penalised, spec)
        case GatedSpec():
            return partial(_gated, spec)
        case _:
            raise TypeError(f"{spec.name} has no sparse rule; take the plain way")


def _topk(spec: TopKSpec, g: Given, at: At) -> Found:
    x, W_enc, b_enc, screen, threads = g.reader()
    codes = sparse_step.by_row(encode.codes(x, W_enc, b_enc, screen, spec.k, threads))
    part = sparse_step.decoded(g, codes, x, _MINUS, g.step)
    parts = [part, *sparse_step.auxiliary(g, part.residual, spec.auxk_alpha)]
    return sparse_step.gathered(g, parts, g.fvu(part.loss), codes)


def _batchtopk(spec: BatchSpec, top: BatchTop, g: Given, at: At) -> Found:
    codes = top.codes(g.reader(), spec.k)
    part = sparse_step.decoded(g, codes, g.x, _MINUS, g.step)
    parts = [part, *sparse_step.auxiliary(g, part.residual, spec.auxk_alpha)]
    return sparse_step.gathered(
        g, parts, g.fvu(part.loss), codes, buffers=_threshold(spec, g, codes)
    )


def _threshold(spec: BatchSpec, g: Given, codes: ByRow) -> dict[str, torch.Tensor]:
    values = torch.from_numpy(codes.values)
    return {"threshold": running_threshold(g.p["threshold"], values, spec.threshold_momentum)}


def _matryoshka(spec: MatryoshkaSpec, top: BatchTop, g: Given, at: At) -> Found:
    """Each prefix is a part: its codes learn from the errors of all prefixes that have them."""
    codes = top.codes(g.reader(), spec.k)
    nested = [_between(codes, *ends) for ends in pairwise((0, *spec.widths))]
    errors, start, before = list[Part](), g.x, _MINUS
    for some in nested:
        errors.append(sparse_step.decoded(g, some, start, before, _ONE, flows=False))
        start, before = errors[-1].residual, _ONE
    loss = errors[-1].loss
    total: Floats = np.zeros_like(start)
    last, parts = np.multiply(g.step, start, dtype=np.float32), list[Part]()
    for some, left in zip(nested[::-1], errors[::-1], strict=True):
        total = np.add(total, g.step * left.residual, dtype=np.float32)
        flow = sparse_step.pulled(g, some.starts, some.latents, total)
        parts.insert(0, Part(some, total, flow, left.loss))
    parts += sparse_step.auxiliary(g, last, spec.auxk_alpha)
    buffers = _threshold(spec, g, codes)
    return sparse_step.gathered(g, parts, g.fvu(loss), codes, buffers=buffers)


def _between(codes: ByRow, first: int, stop: int) -> ByRow:
    """Those of some latents."""
    return where(codes, (codes.latents >= first) & (codes.latents < stop))


def _penalised(spec: ReLUSpec | JumpReLUSpec, g: Given, at: At) -> Found:
    gate = OneGate(spec, g, at.penalty * spec.penalty)
    if share_above(g.reader(), gate.bars) > DENSE_FROM:
        return dense_step.find(g, gate)
    listed = above(g.reader(), gate.bars)
    codes = where(listed, listed.values > gate.threshold[listed.latents])
    part = sparse_step.decoded(g, codes, g.x, _MINUS, g.step, toll=gate.toll)
    vectors = {} if gate.half == 0 else _slopes(g, gate, listed, part)
    return sparse_step.gathered(g, [part], g.fvu(part.loss), codes, vectors=vectors)


def _slopes(g: Given, gate: OneGate, listed: ByRow, part: Part) -> dict[str, Floats]:
    """Gradient of the thresholds, through the kernel at all codes that are near theirs."""
    near = np.abs(listed.values - gate.threshold[listed.latents]) < gate.half
    some = where(listed, near)
    pull = sparse_step.pulled(g, some.starts, some.latents, part.residual)
    each = gate.threshold[some.latents] * pull + gate.price
    return gate.slopes(_summed(some, each, len(gate.threshold)))


def _gated(spec: GatedSpec, g: Given, at: At) -> Found:
    gates = TwoGates(spec, g, at.penalty * spec.penalty)
    if share_above(g.reader(gates.bias), gates.bars) > DENSE_FROM:
        return dense_step.find(g, gates)
    opened = above(g.reader(gates.bias), gates.bars)
    codes, size, product = gates.codes(opened)
    part = sparse_step.decoded(g, codes, g.x, _MINUS, g.step)
    by_gate = sparse_step.decoded(g, opened, g.x, _MINUS, g.step, toll=gates.toll).flow
    sums = by_gate, part.flow, part.flow * product
    vectors = gates.named(*(_summed(codes, each, len(gates.bars)) for each in sums))
    whole = Part(codes, part.residual, size * part.flow + by_gate, part.loss)
    return sparse_step.gathered(g, [whole], g.fvu(part.loss), codes, vectors=vectors)


def _summed(codes: ByRow, each: Floats, latents: int) -> NDArray[np.float64]:
    """Sums over the batch for each latent, in order of row."""
    return np.bincount(codes.latents, each.astype(np.float64), latents).astype(np.float64)
