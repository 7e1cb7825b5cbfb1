"""Compiled loops between the products of a dense step.

B rows, C latents, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled
from reseed.loops.step import Floats32, Integers, scale, squares

Doubles = NDArray[np.float64]


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
    toll: np.float32,
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
        toll: added to the gradient of what fires.
        price: of a latent that fires.
        flows: `[C]`, filled up with sums of the gradient.
        kernel: `[C]`, filled up with sums of threshold flow + price within the kernel.
        fires: `[C]`, filled up with how often each fires.
    """
    for i in range(len(pre)):
        if half > 0:
            for c in range(len(threshold)):
                gap = abs(pre[i, c] - threshold[c])
                each = threshold[c] * flow[i, c] + price
                kernel[c] += each if gap < half else np.float32(0.0)
        for c in range(len(threshold)):
            open_ = pre[i, c] > threshold[c]
            fires[c] += open_
            pre[i, c] = pre[i, c] if open_ else np.float32(0.0)
            flow[i, c] = flow[i, c] + toll if open_ else np.float32(0.0)
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
