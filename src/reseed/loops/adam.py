"""Adam row by row on gradients that are made as they are needed.

Every row of both matrices is read and written once in a step, moments too: what Adam costs at the
least. F latents, D dimensions, B rows, E entries (see `sae.step_kernels.Entries`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled
from reseed.loops.encode import dot, to_half
from reseed.loops.step import add, gradient_row, scale, squares

Floats32 = NDArray[np.float32]

Halves = NDArray[np.uint16]

Short = NDArray[np.int32]

Integers = NDArray[np.int64]


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
def update_encoder(
    first: int,
    stop: int,
    starts: Integers,
    rows: Short,
    flow: Floats32,
    x: Floats32,
    whole: Floats32,
    pace: Pace,
    W_enc: Floats32,
    m: Floats32,
    v: Floats32,
    halves: Halves,
    length: Floats32,
    lost: Floats32,
) -> None:
    """Adam on the encoder rows of a stretch of latents, and what the next screen needs of them.

    Args:
        first: latent.
        stop: one past the last.
        starts: `[F + 1]`,
        rows: `[E]`,
        flow: `[E]`: see `Entries`.
        x: `[B, D]` what the encoder reads.
        whole: `[F, D]` gradient; empty where it is made of entries.
        pace: numbers of the step.
        W_enc: `[F, D]`, updated,
        m: `[F, D]`,
        v: `[F, D]`: with its moments.
        halves: `[F, D]`, filled with the rounded rows, if there is room.
        length: `[F]`, filled; see `Screen`.
        lost: `[F]`, filled.
    """
    gradient = np.empty(x.shape[1], np.float32)
    for j in range(first, stop):
        low, high = starts[j], starts[j + 1]
        gradient[:] = 0
        if len(whole):
            scale(gradient, pace.clip, whole[j])
        elif low < high:
            gradient_row(gradient, low, high, flow, rows, x, len(x))
            scale(gradient, pace.clip, gradient)
        adam(W_enc[j], gradient, m[j], v[j], pace)
        if len(halves):
            length[j], lost[j] = to_half(W_enc[j], halves[j], gradient)
        else:
            length[j] = squares(W_enc[j])


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
        if len(whole) or low < high:
            add(gradient, -dot(gradient, row), row)
        adam(row, gradient, m[j], v[j], pace)
        scale(row, np.float32(1.0) / np.sqrt(squares(row)), row)
