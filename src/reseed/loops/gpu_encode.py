"""Triton kernels of the encoder on a GPU: a product that is looked at for bounds, then scores.

`sae.gpu` calls them and says why no member of the top k is missed. Sizes in capitals are
powers of two that Triton compiles in.

B rows, F latents, D dimensions, G groups of neighbouring latents, R room for candidates of a row.
"""

# pyright: reportMissingParameterType=false, reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(
    x, W, row, latent, rows, latents, D,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`[ROWS, LATENTS]` of x Wᵀ with float32 sums; 0 beyond the last row or latent.

    WIDE turns bfloat16 into float32, which holds it exactly, before the product: Triton's
    interpreter cannot multiply bfloat16.
    """
    out = tl.zeros((ROWS, LATENTS), tl.float32)
    left, right = x + row.to(tl.int64)[:, None] * D, W + latent.to(tl.int64)[None, :] * D
    for first in range(0, D, DEPTH):
        d = first + tl.arange(0, DEPTH)
        a = tl.load(left + d[None, :], mask=(row < rows)[:, None] & (d < D)[None, :], other=0.0)
        b = tl.load(
            right + d[:, None], mask=(latent < latents)[None, :] & (d < D)[:, None], other=0.0
        )
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        out = tl.dot(a, b, out, input_precision="ieee")
    return out


@triton.jit
def all_scores(
    x, W_enc, b_enc, out, rows, latents, D,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Scores of all latents: `out [B, F] = x W_encᵀ + b_enc`. Plain twin: `torch.addmm`.

    Args:
        x: `[B, D]` float32.
        W_enc: `[F, D]` float32.
        b_enc: `[F]`.
        out: `[B, F]`, filled.
        rows: B.
        latents: F.
        D: dimensions.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latent = tl.program_id(1) * LATENTS + tl.arange(0, LATENTS)
    inside = (row < rows)[:, None] & (latent < latents)[None, :]
    sums = _tile(x, W_enc, row, latent, rows, latents, D, ROWS, LATENTS, DEPTH, False)
    sums += tl.load(b_enc + latent, mask=latent < latents, other=0.0)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * latents + latent[None, :], sums, mask=inside)


@triton.jit
def screen(
    x, W, reach, slope, lift, drop, product, upper, lower, slack, rows, latents, D, groups,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """The product that bounds scores, and the largest bounds of each group of latents.

    With p the product as stored, the score is at least `p - slack |p| - reach slope + drop` and at
    most `p + slack |p| + reach slope + lift`. Plain twin: `sae.gpu.plain_bounds`.

    Args:
        x: `[B, D]` float32 or bfloat16.
        W: `[F, D]` of the same type.
        reach: `[B]`,
        slope: `[F]`,
        lift: `[F]`,
        drop: `[F]`: see above.
        product: `[B, F]` bfloat16, filled.
        upper: `[B, G]`, filled with the largest upper bound of each group,
        lower: `[B, G]`, with the largest lower bound.
        slack: see above.
        rows: B.
        latents: F.
        D: dimensions.
        groups: G, of GROUP latents each.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    latent = tl.program_id(1) * LATENTS + tl.arange(0, LATENTS)
    there, known = row < rows, latent < latents
    sums = _tile(x, W, row, latent, rows, latents, D, ROWS, LATENTS, DEPTH, WIDE)
    sums = sums.to(tl.bfloat16)
    at = row.to(tl.int64)[:, None] * latents + latent[None, :]
    tl.store(product + at, sums, mask=there[:, None] & known[None, :])
    p = sums.to(tl.float32)
    far = tl.load(reach + row, mask=there, other=0.0)
    far = far[:, None] * tl.load(slope + latent, mask=known, other=0.0)[None, :]
    error = slack * tl.abs(p) + far
    high = p + error + tl.load(lift + latent, mask=known, other=0.0)[None, :]
    low = p - error + tl.load(drop + latent, mask=known, other=0.0)[None, :]
    high = tl.where(known[None, :], high, float("-inf"))
    low = tl.where(known[None, :], low, float("-inf"))
    group = tl.program_id(1) * (LATENTS // GROUP) + tl.arange(0, LATENTS // GROUP)
    at = row.to(tl.int64)[:, None] * groups + group[None, :]
    inside = there[:, None] & (group < groups)[None, :]
    high = tl.max(tl.reshape(high, (ROWS, LATENTS // GROUP, GROUP)), axis=2)
    low = tl.max(tl.reshape(low, (ROWS, LATENTS // GROUP, GROUP)), axis=2)
    tl.store(upper + at, high, mask=inside)
    tl.store(lower + at, low, mask=inside)


@triton.jit
def candidates(
    product, upper, bar, reach, slope, lift, chosen, count, slack, latents, groups, room,
    GROUP: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """The latents of a row whose upper bound is at least its bar, and above 0; ascending.

    One program a row. Plain twin: the same condition on `sae.gpu.plain_bounds`.

    Args:
        product: `[B, F]`,
        upper: `[B, G]`: as `screen` filled them.
        bar: `[B]`.
        reach: `[B]`,
        slope: `[F]`,
        lift: `[F]`,
        slack: as in `screen`.
        chosen: `[B, R]` int32, filled with as many as there is room for.
        count: `[B]` int32, filled with how many there are.
        latents: F.
        groups: G, of GROUP latents; GROUPS are looked at at a time.
        room: R.
    """
    row = tl.program_id(0).to(tl.int64)
    least, far = tl.load(bar + row), tl.load(reach + row)
    found = tl.zeros((), tl.int32)
    for first in range(0, groups, GROUPS):
        group = first + tl.arange(0, GROUPS)
        most = tl.load(upper + row * groups + group, mask=group < groups, other=float("-inf"))
        hit = (most >= least) & (most > 0)
        if tl.sum(hit.to(tl.int32)) > 0:
            latent = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
            look = tl.reshape(hit[:, None] & (latent < latents), (GROUPS * GROUP,))
            latent = tl.reshape(latent, (GROUPS * GROUP,))
            p = tl.load(product + row * latents + latent, mask=look, other=0.0).to(tl.float32)
            error = slack * tl.abs(p) + far * tl.load(slope + latent, mask=look, other=0.0)
            high = p + error + tl.load(lift + latent, mask=look, other=0.0)
            keep = look & (high >= least) & (high > 0)
            place = found + tl.cumsum(keep.to(tl.int32), 0) - 1
            tl.store(chosen + row * room + place, latent, mask=keep & (place < room))
            found += tl.sum(keep.to(tl.int32))
    tl.store(count + row, found)


@triton.jit
def score(
    x, W_enc, b_enc, chosen, count, out, room, D,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Scores in float32 of the candidates of a row. Plain twin: `all_scores`, gathered.

    One program for BLOCK of them; each score is summed in the same order wherever it stands.

    Args:
        x: `[B, D]` float32.
        W_enc: `[F, D]` float32.
        b_enc: `[F]`.
        chosen: `[B, R]`,
        count: `[B]`: as `candidates` filled them.
        out: `[B, R]`, filled; -inf behind the last candidate.
        room: R.
        D: dimensions.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = tl.load(count + row)
    inside = (place < there) & (place < room)
    latent = tl.load(chosen + row * room + place, mask=inside, other=0)
    total = tl.zeros((BLOCK, DEPTH), tl.float32)
    if tl.program_id(1) * BLOCK < there:
        for first in range(0, D, DEPTH):
            d = first + tl.arange(0, DEPTH)
            a = tl.load(x + row * D + d, mask=d < D, other=0.0)
            b = tl.load(
                W_enc + latent.to(tl.int64)[:, None] * D + d[None, :],
                mask=inside[:, None] & (d < D)[None, :],
                other=0.0,
            )
            total += a[None, :] * b
    sums = tl.sum(total, axis=1) + tl.load(b_enc + latent, mask=inside, other=0.0)
    tl.store(out + row * room + place, tl.where(inside, sums, float("-inf")), mask=place < room)
