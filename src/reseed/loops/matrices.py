"""Compiled loops over whole matrices: between the products of a dense step, and Adam row by row.

Adam's gradients are made as they are needed, and every row is read and written once in a step.
B rows, C latents of a piece, F latents, D dimensions, E entries (see `reseed.loops.step.Entries`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reseed.loops.compiled import arithmetic, compiled
from reseed.loops.encode import Doubles, Halves, dot, squared_length, to_half
from reseed.loops.products import Whole, to_whole
from reseed.loops.step import Floats32, Integers, Short, add, gradient_row, scale, squares


@arithmetic
def gated(pre: Floats32, threshold: Floats32, codes: Floats32) -> None:
    """What fires.

    Args:
        pre: `[B, C]` pre-activations.
        threshold: `[C]`.
        codes: `[B, C]`, filled.
    """
    for i in range(len(pre)):
        for c in range(len(threshold)):
            codes[i, c] = pre[i, c] if pre[i, c] > threshold[c] else np.float32(0.0)


@arithmetic
def settle(
    pre: Floats32,
    flow: Floats32,
    threshold: Floats32,
    half: np.float32,
    tolls: Floats32,
    price: np.float32,
    flows: Doubles,
    kernel: Doubles,
    fires: Integers,
) -> None:
    """From what is left of rows on decoder rows to gradients, in place.

    Args:
        pre: `[B, C]` pre-activations, become codes.
        flow: `[B, C]` residual W_decᵀ, becomes the gradient of the pre-activations.
        threshold: `[C]`.
        half: half the width of the kernel; 0 without.
        tolls: `[C]` added to the gradient of what fires.
        price: of a latent that fires.
        flows: `[C]`, filled up with sums of the gradient.
        kernel: `[C]`, filled up with sums of threshold flow + price within the kernel.
        fires: `[C]`, filled up with how often each fires.
    """
    for i in range(len(pre)):
        if half > 0:  # in a loop of its own, before `pre` is overwritten by codes
            for c in range(len(threshold)):
                gap = abs(pre[i, c] - threshold[c])
                each = threshold[c] * flow[i, c] + price
                kernel[c] += each if gap < half else np.float32(0.0)
        for c in range(len(threshold)):
            open_ = pre[i, c] > threshold[c]
            fires[c] += open_
            pre[i, c] = pre[i, c] if open_ else np.float32(0.0)
            flow[i, c] = flow[i, c] + tolls[c] if open_ else np.float32(0.0)
            flows[c] += flow[i, c]


@arithmetic
def both_gated(
    pre: Floats32,
    b_gate: Floats32,
    size: Floats32,
    b_mag: Floats32,
    codes: Floats32,
    opened: Floats32,
) -> None:
    """What fires in a gated SAE, and how far its gate is open.

    Args:
        pre: `[B, C]` of the gate, bias added.
        b_gate: `[C]`.
        size: `[C]` from the gate's product to that of the codes.
        b_mag: `[C]`.
        codes: `[B, C]`, filled.
        opened: `[B, C]`, filled.
    """
    zero = np.float32(0.0)
    for i in range(len(pre)):
        for c in range(len(size)):
            strength = size[c] * (pre[i, c] - b_gate[c]) + b_mag[c]
            opened[i, c] = pre[i, c] if pre[i, c] > zero else zero
            codes[i, c] = strength if strength > zero and pre[i, c] > zero else zero


@arithmetic
def both_settled(
    pre: Floats32,
    flow: Floats32,
    by_gate: Floats32,
    b_gate: Floats32,
    size: Floats32,
    b_mag: Floats32,
    toll: np.float32,
    sums: Doubles,
    fires: Integers,
) -> None:
    """As `settle`, of a gated SAE.

    Args:
        pre: `[B, C]` of the gate, become codes.
        flow: `[B, C]` what the codes leave times W_decᵀ, becomes the gradient of the product.
        by_gate: `[B, C]` what the open gates leave times W_decᵀ.
        b_gate: `[C]`.
        size: `[C]` from the gate's product to that of the codes.
        b_mag: `[C]`.
        toll: added to the gradient of an open gate.
        sums: `[4, C]`, filled up with gradients of product, b_gate, b_mag and log size.
        fires: `[C]`, filled up with how often each fires.
    """
    zero = np.float32(0.0)
    for i in range(len(pre)):
        for c in range(len(size)):
            product = pre[i, c] - b_gate[c]
            strength = size[c] * product + b_mag[c]
            gate = by_gate[i, c] + toll if pre[i, c] > zero else zero
            on = strength > zero and pre[i, c] > zero
            code = flow[i, c] if on else zero
            pre[i, c] = strength if on else zero
            flow[i, c] = size[c] * code + gate
            fires[c] += on
            sums[0, c] += flow[i, c]
            sums[1, c] += gate
            sums[2, c] += code
            sums[3, c] += code * size[c] * product


@compiled
def finish(residual: Floats32, after: np.float32, loss: Doubles) -> None:
    """Squared lengths of errors `[B, D]` into `loss`; then they are multiplied by `after`."""
    for i in range(len(residual)):
        loss[i] = squares(residual[i])
        scale(residual[i], after, residual[i])


@compiled
def total(rows: Floats32) -> float:
    """Sum of all squares."""
    out = np.float64(0.0)
    for i in range(len(rows)):
        out += squares(rows[i])
    return float(out)


class Pace(NamedTuple):
    """Numbers of an Adam step (arXiv 1412.6980), the same for all parameters."""

    clip: np.float32
    """factor of the gradient"""
    first: np.float32
    """decay of the first moment"""
    second: np.float32
    """of the second"""
    fresh_first: np.float32
    """1 - first"""
    fresh_second: np.float32
    """1 - second"""
    rate: np.float32
    """learning rate over the first bias correction"""
    root: np.float32
    """one over the square root of the second bias correction"""
    epsilon: np.float32


@arithmetic
def adam(p: Floats32, g: Floats32, m: Floats32, v: Floats32, pace: Pace) -> None:
    """An Adam step of one row, in place, as `torch.optim.Adam` has it.

    Args:
        p: `[D]` parameters.
        g: `[D]` gradient, clipped.
        m: `[D]` first moment.
        v: `[D]` second moment.
        pace: numbers.
    """
    for d in range(len(p)):
        m[d] = pace.first * m[d] + pace.fresh_first * g[d]
    for d in range(len(p)):
        v[d] = pace.second * v[d] + pace.fresh_second * g[d] * g[d]
    for d in range(len(p)):
        p[d] -= pace.rate * m[d] / (np.sqrt(v[d]) * pace.root + pace.epsilon)


@compiled
def update_free(
    first: int,
    stop: int,
    starts: Integers,
    rows: Short,
    weights: Floats32,
    x: Floats32,
    whole: Floats32,
    pull: Floats32,
    pace: Pace,
    W: Floats32,
    m: Floats32,
    v: Floats32,
    halves: Halves,
    short: Whole,
    length: Doubles,
    lost: Doubles,
) -> None:
    """Adam on rows of any length of a stretch of latents, and what the next screen needs of them.

    Args:
        first: latent.
        stop: one past the last.
        starts: `[F + 1]`,
        rows: `[E]`,
        weights: `[E]`: see `Entries`; its flow for the encoder, its values for the decoder.
        x: `[B, D]` what the encoder reads, or what codes leave.
        whole: `[F, D]` gradient; empty where it is made of entries.
        pull: `[F]` times W, added to the gradient of entries; empty for nothing.
        pace: numbers of the step.
        W: `[F, D]`, updated,
        m: `[F, D]`,
        v: `[F, D]`: with its moments.
        halves: `[F, D]`, filled with the rounded rows, if there is room; see `Screen`.
        short: the same as whole numbers.
        length: `[F]`, filled,
        lost: `[F]`, filled.
    """
    gradient, (numbers, scales) = np.empty(x.shape[1], np.float32), short
    for j in range(first, stop):
        low, high = starts[j], starts[j + 1]
        gradient[:] = 0  # also without one: Adam's moments go on falling, and still move the row
        if len(whole):
            scale(gradient, pace.clip, whole[j])
        elif low < high:
            gradient_row(gradient, low, high, weights, rows, x, len(x))
            if len(pull):
                add(gradient, pull[j], W[j])
            scale(gradient, pace.clip, gradient)
        adam(W[j], gradient, m[j], v[j], pace)
        if len(halves):
            length[j], lost[j] = to_half(W[j], halves[j], gradient)
        elif len(scales):
            scales[j], length[j], lost[j] = to_whole(W[j], numbers[j])
        else:
            length[j] = squared_length(W[j])


@compiled
def update_decoder(
    first: int,
    stop: int,
    starts: Integers,
    rows: Short,
    values: Floats32,
    residual: Floats32,
    whole: Floats32,
    pace: Pace,
    W_dec: Floats32,
    m: Floats32,
    v: Floats32,
) -> None:
    """Adam on the decoder rows of a stretch of latents, which keep length 1.

    What would only change the length is taken out of the gradient first.

    Args:
        first: latent.
        stop: one past the last.
        starts: `[F + 1]`,
        rows: `[E]`,
        values: `[E]`: see `Entries`.
        residual: `[B or more, D]`.
        whole: `[F, D]` gradient; empty where it is made of entries.
        pace: numbers of the step.
        W_dec: `[F, D]`, updated,
        m: `[F, D]`,
        v: `[F, D]`: with its moments.
    """
    gradient = np.empty(W_dec.shape[1], np.float32)
    for j in range(first, stop):
        low, high = starts[j], starts[j + 1]
        row = W_dec[j]
        gradient[:] = 0
        if len(whole):
            scale(gradient, pace.clip, whole[j])
        elif low < high:
            gradient_row(gradient, low, high, values, rows, residual, len(residual))
            scale(gradient, pace.clip, gradient)
        if len(whole) or low < high:  # what only changes the length is undone below anyway
            add(gradient, -dot(gradient, row), row)
        adam(row, gradient, m[j], v[j], pace)
        scale(row, np.float32(1.0) / np.sqrt(squares(row)), row)
