"""Compiled loops of a training step behind the encoder: decode, sort by latent, gradient norm.

Gradient rows are never stored. They are made once for the norm that clipping needs, and again in
the pass that updates the weights (`matrices`), while the row is in the cache. All
loops work on a stretch of rows or latents that is theirs alone, and sums over stretches are added
in order, so that results do not depend on the number of threads.

B rows, F latents, D dimensions, E entries (active codes).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled
from reseed.loops.encode import dot

Floats32 = NDArray[np.float32]
Short = NDArray[np.int32]
Integers = NDArray[np.int64]


@arithmetic
def add(out: Floats32, x: np.float32, row: Floats32) -> None:
    """`out += x row`."""
    for d in range(len(out)):
        out[d] += x * row[d]


@arithmetic
def add_two(out: Floats32, x: np.float32, row: Floats32, y: np.float32, other: Floats32) -> None:
    """`out += x row + y other`."""
    for d in range(len(out)):
        out[d] += x * row[d] + y * other[d]


@arithmetic
def scale(out: Floats32, x: np.float32, row: Floats32) -> None:
    """`out = x row`."""
    for d in range(len(out)):
        out[d] = x * row[d]


@arithmetic
def squares(row: Floats32) -> np.float32:
    """Squared length of a row."""
    total = np.float32(0.0)
    for d in range(len(row)):
        total += row[d] * row[d]
    return total


class ByRow(NamedTuple):
    """Codes of a batch, row by row; within one in order of latent."""

    starts: Integers
    """[B + 1] where those of each row begin"""
    latents: Integers
    """[E]"""
    values: Floats32
    """[E] codes; 0 where silent"""


@compiled
def decode(
    first_row: int,
    stop_row: int,
    starts: Integers,
    latents: Integers,
    values: Floats32,
    W_dec: Floats32,
    start: Floats32,
    before: np.float32,
    after: np.float32,
    tolls: Floats32,
    residual: Floats32,
    flow: Floats32,
    loss: NDArray[np.float64],
) -> None:
    """What the codes of rows leave, and what that says to the codes.

    residual = after (before start + codes W_dec); flow = residual W_decᵀ + tolls at active latents.

    Args:
        first_row: of these rows.
        stop_row: one past the last.
        starts: `[B + 1]`,
        latents: `[E]`,
        values: `[E]`: see `ByRow`.
        W_dec: `[F, D]`.
        start: `[B, D]`.
        before: factor of start.
        after: factor of the sum.
        tolls: `[F]` what the loss has for each active code besides; empty for nothing.
        residual: `[B, D]`, filled.
        flow: `[E]`, filled, 0 where silent; empty if it is not asked for.
        loss: `[B]`, filled with squared lengths of the sum.
    """
    for i in range(first_row, stop_row):
        out, low, high = residual[i], starts[i], starts[i + 1]
        scale(out, before, start[i])
        held = -1  # two decoder rows are added at a time: `out` is read and written half as often
        for e in range(low, high):
            if values[e] <= 0:
                continue
            if held < 0:
                held = e
                continue
            row, other = W_dec[latents[held]], W_dec[latents[e]]
            add_two(out, values[held], row, values[e], other)
            held = -1
        if held >= 0:
            add(out, values[held], W_dec[latents[held]])
        loss[i] = squares(out)
        scale(out, after, out)
        if len(flow):
            for e in range(low, high):
                pulled = dot(out, W_dec[latents[e]])
                pulled += tolls[latents[e]] if len(tolls) else np.float32(0.0)
                flow[e] = pulled if values[e] > 0 else np.float32(0.0)


@compiled
def pulls(
    first_row: int,
    stop_row: int,
    starts: Integers,
    latents: Integers,
    W_dec: Floats32,
    residual: Floats32,
    flow: Floats32,
) -> None:
    """What is left of rows, on the decoder rows of some latents: flow = residual W_decᵀ.

    Args:
        first_row: of these rows.
        stop_row: one past the last.
        starts: `[B + 1]`,
        latents: `[E]`: see `ByRow`.
        W_dec: `[F, D]`.
        residual: `[B, D]`.
        flow: `[E]`, filled.
    """
    for i in range(first_row, stop_row):
        for e in range(starts[i], starts[i + 1]):
            flow[e] = dot(residual[i], W_dec[latents[e]])


@compiled
def centre(x: Floats32, b_dec: Floats32, mean: Floats32, out: Floats32) -> float:
    """Rows as the encoder reads them.

    Args:
        x: `[B, D]`.
        b_dec: `[D]`.
        mean: `[D]` of the rows.
        out: `[B, D]`, filled with x - b_dec.

    Returns:
        Squared distance of all rows from their mean.
    """
    total = np.float64(0.0)
    for i in range(len(x)):
        total += _centred(x[i], b_dec, mean, out[i])
    return float(total)


@arithmetic
def _centred(x: Floats32, b_dec: Floats32, mean: Floats32, out: Floats32) -> np.float32:
    total = np.float32(0.0)
    for d in range(len(x)):
        total += (x[d] - mean[d]) * (x[d] - mean[d])
    for d in range(len(x)):
        out[d] = x[d] - b_dec[d]
    return total


class Entries(NamedTuple):
    """The active codes of a batch, sorted by latent; within one by row."""

    starts: Integers
    """[F + 1] where those of each latent begin"""
    rows: Short
    """[E] batch row"""
    values: Floats32
    """[E] code"""
    flow: Floats32
    """[E] gradient of the code"""


@compiled
def count_entries(latents: Integers, values: Floats32, flow: Floats32, starts: Integers) -> None:
    """Add to `starts[j + 1]` how often latent j is active, or learns without being so."""
    for e in range(len(values)):
        starts[latents[e] + 1] += values[e] > 0 or flow[e] != 0


@compiled
def place_entries(
    row_starts: Integers,
    latents: Integers,
    values: Floats32,
    flow: Floats32,
    first: int,
    fill: Integers,
    rows: Short,
    sorted_values: Floats32,
    sorted_flow: Floats32,
) -> None:
    """Put what `count_entries` counts where latents begin; `fill` moves on; row i is first + i."""
    for i in range(len(row_starts) - 1):
        for e in range(row_starts[i], row_starts[i + 1]):
            if values[e] > 0 or flow[e] != 0:
                at = fill[latents[e]]
                fill[latents[e]] = at + 1
                rows[at] = first + i
                sorted_values[at], sorted_flow[at] = values[e], flow[e]


@compiled
def gradient_row(
    out: Floats32,
    start: int,
    stop: int,
    weights: Floats32,
    rows: Short,
    source: Floats32,
    modulo: int,
) -> None:
    """Sum of the source rows of a latent's entries; at least one."""
    scale(out, weights[start], source[rows[start] % modulo])
    e = start + 1
    while e + 1 < stop:  # by twos, as in `decode`
        row, other = source[rows[e] % modulo], source[rows[e + 1] % modulo]
        add_two(out, weights[e], row, weights[e + 1], other)
        e += 2
    if e < stop:
        add(out, weights[e], source[rows[e] % modulo])


@compiled
def norms(
    first: int,
    stop: int,
    starts: Integers,
    rows: Short,
    values: Floats32,
    flow: Floats32,
    x: Floats32,
    residual: Floats32,
    W_enc: Floats32,
    W_dec: Floats32,
    pull: Floats32,
    encoder: bool,
    decoder: bool,
    bias: Floats32,
    through: Floats32,
) -> float:
    """Squared norm of the gradient of both matrices in a stretch of latents.

    Args:
        first: latent.
        stop: one past the last.
        starts: `[F + 1]`,
        rows: `[E]`,
        values: `[E]`,
        flow: `[E]`: see `Entries`.
        x: `[B, D]` what the encoder reads.
        residual: `[B or more, D]`.
        W_enc: `[F, D]`,
        W_dec: `[F, D]`: weights.
        pull: `[F]` times W_dec, added to the gradient of its rows; empty for nothing.
        encoder: whether encoder rows count.
        decoder: whether decoder rows count.
        bias: `[F]`, filled with sums of the flow.
        through: `[D]`, filled with bias W_enc over this stretch.
    """
    total = np.float64(0.0)
    gradient = np.empty(x.shape[1], np.float32)
    through[:] = 0
    for j in range(first, stop):
        low, high = starts[j], starts[j + 1]
        bias[j] = 0
        if low == high:  # its gradient is zero: most latents of a batch
            continue
        for e in range(low, high):
            bias[j] += flow[e]
        add(through, bias[j], W_enc[j])
        if encoder:
            gradient_row(gradient, low, high, flow, rows, x, len(x))
            total += squares(gradient)
        if decoder:
            gradient_row(gradient, low, high, values, rows, residual, len(residual))
            if len(pull):
                add(gradient, pull[j], W_dec[j])
            total += squares(gradient)
    return float(total)
