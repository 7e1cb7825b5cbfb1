"""Triton kernels for Adam row by row, on gradients that are made as they are needed.

See `adam_kernels`, the same for a CPU. Plain twin: `steps.PlainStep.apply`. One program a latent.

B rows, F latents, D dimensions, E entries (see `sae.triton_sparse_step.Entries`).
"""

# pyright: reportMissingParameterType=false
# Triton finds the types of arguments when a kernel is called.

from __future__ import annotations

import triton
import triton.language as tl

from reseed.sae.triton_step_kernels import gradient_row


@triton.jit
def _adam(p, g, m, v, at, inside, rate, root, FIRST: tl.constexpr, SECOND: tl.constexpr,
          EPSILON: tl.constexpr):  # fmt: skip
    """An Adam step of a row as `torch.optim.Adam` has it; moments are updated where they lie."""
    first = FIRST * tl.load(m + at, mask=inside, other=0.0) + (1 - FIRST) * g
    second = SECOND * tl.load(v + at, mask=inside, other=0.0) + (1 - SECOND) * g * g
    tl.store(m + at, first, mask=inside)
    tl.store(v + at, second, mask=inside)
    return p - rate * first / (tl.sqrt_rn(second) * root + EPSILON)


@triton.jit
def update_encoder(
    starts, rows, flow, x, W_enc, m, v, halves, length, lost, clip, rate, root, x_rows, D,
    HALVES: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, EPSILON: tl.constexpr,
    WIDTH: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Adam on an encoder row, and what the next screen needs of it.

    Args:
        starts: `[F + 1]`,
        rows: `[E]`,
        flow: `[E]`: see `Entries`.
        x: `[B, D]` what the encoder reads.
        W_enc: `[F, D]`, updated,
        m: `[F, D]`,
        v: `[F, D]`: with its moments.
        halves: `[F, D]` bfloat16, filled with the rounded row if HALVES.
        length: `[F]`, filled; see `triton_bounds.Screen`.
        lost: `[F]`, filled.
        clip: factor of the gradient.
        rate: learning rate over the first bias correction.
        root: one over the square root of the second.
        x_rows: B.
        D: dimensions, at most WIDTH.
    """
    latent = tl.program_id(0)
    d = tl.arange(0, WIDTH)
    at = latent.to(tl.int64) * D + d
    low, high = tl.load(starts + latent), tl.load(starts + latent + 1)
    g = clip * gradient_row(flow, rows, x, low, high, x_rows, D, WIDTH, ENTRIES)
    p = tl.load(W_enc + at, mask=d < D, other=0.0)
    p = _adam(p, g, m, v, at, d < D, rate, root, FIRST, SECOND, EPSILON)
    tl.store(W_enc + at, p, mask=d < D)
    tl.store(length + latent, tl.sum(tl.where(d < D, p * p, 0.0)))
    if HALVES:
        half = p.to(tl.bfloat16)
        left = p - half.to(tl.float32)
        tl.store(halves + at, half, mask=d < D)
        tl.store(lost + latent, tl.sum(tl.where(d < D, left * left, 0.0)))


@triton.jit
def update_decoder(
    starts, rows, values, residual, W_dec, m, v, clip, rate, root, residual_rows, D,
    FIRST: tl.constexpr, SECOND: tl.constexpr, EPSILON: tl.constexpr,
    WIDTH: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Adam on a decoder row, which keeps length 1.

    What would only change the length is taken out of the gradient first.

    Args:
        starts: `[F + 1]`,
        rows: `[E]`,
        values: `[E]`: see `Entries`.
        residual: `[B or 2 B, D]`.
        W_dec: `[F, D]`, updated,
        m: `[F, D]`,
        v: `[F, D]`: with its moments.
        clip: factor of the gradient.
        rate: learning rate over the first bias correction.
        root: one over the square root of the second.
        residual_rows: B or 2 B.
        D: dimensions, at most WIDTH.
    """
    latent = tl.program_id(0)
    d = tl.arange(0, WIDTH)
    at = latent.to(tl.int64) * D + d
    low, high = tl.load(starts + latent), tl.load(starts + latent + 1)
    g = clip * gradient_row(values, rows, residual, low, high, residual_rows, D, WIDTH, ENTRIES)
    p = tl.load(W_dec + at, mask=d < D, other=0.0)
    g = g - tl.sum(g * p) * p
    p = _adam(p, g, m, v, at, d < D, rate, root, FIRST, SECOND, EPSILON)
    p = tl.where(d < D, p, 0.0)
    tl.store(W_dec + at, p / tl.sqrt_rn(tl.sum(p * p)), mask=d < D)
