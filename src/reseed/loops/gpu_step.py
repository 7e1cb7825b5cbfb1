"""Triton kernels of a training step behind the encoder: decode, gradients by latent, Adam.

As in `step`, gradient rows are never stored: they are made once for the norm that clipping needs,
and again in the pass that updates the weights, Adam row by row as in `matrices`. Each program owns
a row or a latent and adds in a fixed order, so no atomics are needed and the same batch gives the
same bits. Sizes in capitals are powers of two that Triton compiles in.

B rows, F latents, D dimensions, K codes of a row, E entries (active codes sorted by latent).
Plain twin of the updates: `training.step.plain.PlainStep.apply`.
"""

# pyright: reportMissingParameterType=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def decode(
    values, latents, W_dec, start, factors, residual, flow, loss, K, F, D, WIDTH: tl.constexpr
):  # fmt: skip
    """What the codes of a row leave, and what that says to the codes.

    residual = after (before start + codes W_dec); flow = residual W_decᵀ at the active latents. One
    program a row. Plain twins: `sae.codes.decode` and `code_gradients`.

    Args:
        values: `[B, K]` codes.
        latents: `[B, K]` int64; F where silent.
        W_dec: `[F, D]`.
        start: `[B, D]`.
        factors: `[2]` before and after.
        residual: `[B, D]`, filled.
        flow: `[B, K]`, filled; 0 where silent.
        loss: `[B]`, filled with squared lengths of the sum.
        K: codes of a row.
        F: latents.
        D: dimensions, at most WIDTH.
    """
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    out = tl.load(factors) * tl.load(start + row * D + d, mask=d < D, other=0.0)
    for e in range(K):
        j = tl.load(latents + row * K + e)
        w = tl.load(W_dec + j * D + d, mask=d < tl.where(j < F, D, 0), other=0.0)
        out += tl.load(values + row * K + e) * w
    tl.store(loss + row, tl.sum(out * out))
    out = out * tl.load(factors + 1)
    tl.store(residual + row * D + d, out, mask=d < D)
    for e in range(K):
        j = tl.load(latents + row * K + e)
        w = tl.load(W_dec + j * D + d, mask=d < tl.where(j < F, D, 0), other=0.0)
        tl.store(flow + row * K + e, tl.sum(out * w))


@triton.jit
def gradient_row(
    weights, rows, source, low, high, modulo, D, WIDTH: tl.constexpr, ENTRIES: tl.constexpr
):  # fmt: skip
    """Sum of the source rows of a latent's entries, `[WIDTH]`; those of row r are r % modulo.

    Plain twin of all of them: `sae.codes.transposed_product`.
    """
    d = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    for first in range(low, high, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        row = (tl.load(rows + entry, mask=entry < high, other=0) % modulo).to(tl.int64)
        part = tl.load(
            source + row[:, None] * D + d[None, :],
            mask=(entry < high)[:, None] & (d < D)[None, :],
            other=0.0,
        )
        weight = tl.load(weights + entry, mask=entry < high, other=0.0)
        total += tl.sum(weight[:, None] * part, axis=0)
    return total


@triton.jit
def norms(
    starts, rows, values, flow, x, residual, bias, squares, x_rows, residual_rows, D,
    ENCODER: tl.constexpr, DECODER: tl.constexpr, WIDTH: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Gradient of an encoder bias, and the squared norm of a latent's part of the gradient.

    One program a latent.

    Args:
        starts: `[F + 1]`,
        rows: `[E]`,
        values: `[E]`,
        flow: `[E]`: see `training.step.gpu.Entries`.
        x: `[B, D]` what the encoder reads.
        residual: `[B or 2 B, D]`.
        bias: `[F]`, filled with the gradient of b_enc.
        squares: `[F]`, filled.
        x_rows: B.
        residual_rows: B or 2 B.
        D: dimensions, at most WIDTH.
        ENCODER: whether encoder rows count.
        DECODER: whether decoder rows count.
    """
    latent = tl.program_id(0)
    low, high = tl.load(starts + latent), tl.load(starts + latent + 1)
    part = tl.zeros((ENTRIES,), tl.float32)
    for first in range(low, high, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        part += tl.load(flow + entry, mask=entry < high, other=0.0)
    b = tl.sum(part)
    total = b * b
    if ENCODER:
        g = gradient_row(flow, rows, x, low, high, x_rows, D, WIDTH, ENTRIES)
        total += tl.sum(g * g)
    if DECODER:
        g = gradient_row(values, rows, residual, low, high, residual_rows, D, WIDTH, ENTRIES)
        total += tl.sum(g * g)
    tl.store(bias + latent, b)
    tl.store(squares + latent, total)


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
        length: `[F]`, filled; see `sae.gpu.Screen`.
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
