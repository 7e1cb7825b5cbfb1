"""Compiled loops of the encoder: who can be among the k largest, and who is.

Each row keeps a list of candidates, `upper[i, :count[i]]` and so on, in order of latent, and a bar:
every latent whose upper bound is above the bar was kept. A full list is cut to those above the k-th
largest lower bound, which becomes the bar. A list that stays full is given up (`count` is -1), and
the row is scored whole.

B rows, F latents, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.compiled import arithmetic, compiled

Floats32 = NDArray[np.float32]
Halves = NDArray[np.uint16]
Short = NDArray[np.int32]
Integers = NDArray[np.int64]

_STRIDE, _SEGMENT = 32, 1024
_BELOW = np.float32(1 - 2**-21)
"""A bar lies this much below the bound that it is made of, so that equals stay above it."""


@arithmetic
def dot(a: Floats32, b: Floats32) -> np.float32:
    """Product of two rows in float32."""
    total = np.float32(0.0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@arithmetic
def to_half(row: Floats32, out: Halves, back: Floats32) -> tuple[np.float32, np.float32]:
    """Round a row to bfloat16, nearest and ties to even.

    Args:
        row: `[D]`.
        out: `[D]`, filled with the bits.
        back: `[D]`, filled with the same as float32.

    Returns:
        Squared lengths of the row, and of what rounding took from it.
    """
    bits, widened = row.view(np.uint32), back.view(np.uint32)
    for d in range(len(row)):
        b = np.uint32(bits[d])
        rounded = np.uint32(b + np.uint32(0x7FFF) + (np.uint32(b >> 16) & np.uint32(1)))
        widened[d] = rounded & np.uint32(0xFFFF0000)
    for d in range(len(row)):
        out[d] = np.uint16(np.uint32(widened[d]) >> 16)
    length, lost = np.float32(0.0), np.float32(0.0)
    for d in range(len(row)):
        length += row[d] * row[d]
        lost += (row[d] - back[d]) * (row[d] - back[d])
    return length, lost


@compiled
def to_halves(rows: Floats32, out: Halves, length: Floats32, lost: Floats32) -> None:
    """`to_half` of each row.

    Args:
        rows: `[N, D]`.
        out: `[N, D]`, filled.
        length: `[N]`, filled with squared lengths.
        lost: `[N]`, filled with the squared lengths of what rounding took.
    """
    back = np.empty(rows.shape[1], np.float32)
    for i in range(len(rows)):
        length[i], lost[i] = to_half(rows[i], out[i], back)


@compiled
def _cut(
    k: int,
    upper: Floats32,
    lower: Floats32,
    latent: Short,
    count: Integers,
    bar: Floats32,
    i: int,
) -> None:
    """Raise the bar of a row to its k-th largest lower bound and drop what is below."""
    n, room = count[i], upper.shape[1]
    limit = np.partition(lower[i, :n], n - k)[n - k] * _BELOW
    bar[i] = max(bar[i], limit)
    at = 0
    for c in range(n):
        if upper[i, c] > bar[i]:
            upper[i, at], lower[i, at], latent[i, at] = upper[i, c], lower[i, c], latent[i, c]
            at += 1
    count[i] = at
    if at > room - room // 8:
        count[i], bar[i] = -1, np.float32(np.inf)


@arithmetic
def _uppers(
    products: Floats32,
    out: Floats32,
    slack: np.float32,
    reach: np.float32,
    slope: Floats32,
    lift: Floats32,
) -> None:
    """The largest that each pre-activation can be."""
    for c in range(len(out)):
        out[c] = products[c] + slack * abs(products[c]) + (reach * slope[c] + lift[c])


@compiled
def _any_above(line: Floats32, bar: np.float32, low: int) -> bool:
    """Whether an entry of a stretch is above the bar (see `matching.kernels`)."""
    hits = np.int32(0)
    for c in range(_STRIDE):
        hits += np.int32(line[np.uint64(low) + np.uint64(c)] > bar)
    return bool(hits > 0)


@arithmetic
def _widen(halves: Halves, out: Floats32) -> None:
    bits = out.view(np.uint32)
    for c in range(len(out)):
        bits[c] = np.uint32(halves[c]) << np.uint32(16)


@arithmetic
def _lowers(
    products: Floats32,
    out: Floats32,
    slack: np.float32,
    reach: np.float32,
    slope: Floats32,
    drop: Floats32,
) -> None:
    """The smallest that each pre-activation can be."""
    for c in range(len(out)):
        out[c] = products[c] - slack * abs(products[c]) - (reach * slope[c] - drop[c])


@compiled
def _largest(best: Floats32, others: Floats32) -> None:
    for g in range(len(best)):
        best[g] = others[g] if others[g] > best[g] else best[g]


@compiled
def first_bars(
    halves: Halves,
    products: Floats32,
    is_half: bool,
    first_row: int,
    k: int,
    slack: np.float32,
    reach: Floats32,
    slope: Floats32,
    drop: Floats32,
    bar: Floats32,
) -> None:
    """Bars to begin with: the k-th largest of the maxima of groups, since k latents reach it.

    Arguments are those of `screen`; the block begins at latent 0.
    """
    rows, width = halves.shape if is_half else products.shape
    size = min(_STRIDE, width // (4 * k))
    if size < 2:
        return
    groups = width // size
    low, wide = np.empty(groups, np.float32), np.empty(groups, np.float32)
    best = np.empty(groups, np.float32)
    for r in range(rows):
        i = first_row + r
        best[:] = 0
        for left in range(0, size * groups, groups):
            part = slice(left, left + groups)
            if is_half:
                _widen(halves[r, part], wide)
            else:
                wide[:] = products[r, part]
            _lowers(wide, low, slack, reach[i], slope[part], drop[part])
            _largest(best, low)
        bar[i] = np.partition(best, groups - k)[groups - k] * _BELOW


@compiled
def screen(
    halves: Halves,
    products: Floats32,
    is_half: bool,
    first_row: int,
    first_latent: int,
    k: int,
    slack: np.float32,
    reach: Floats32,
    slope: Floats32,
    lift: Floats32,
    drop: Floats32,
    upper: Floats32,
    lower: Floats32,
    latent: Short,
    count: Integers,
    bar: Floats32,
) -> None:
    """Offer a block of rounded products to the lists of its rows.

    Args:
        halves: `[R, C]` products as bits of bfloat16, if `is_half`.
        products: `[R, C]` as float32, if not.
        is_half: which of the two holds them.
        first_row: which row the first is.
        first_latent: which latent the first column is; blocks come in this order.
        k: how many are wanted.
        slack: error of a product, in parts of it.
        reach: `[B]` and
        slope: `[F]`: error of a product, besides.
        lift: `[F]` largest bias, rounding counted.
        drop: `[F]` smallest bias.
        upper: `[B, room]` lists,
        lower: `[B, room]`,
        latent: `[B, room]`,
        count: `[B]`.
        bar: `[B]`.
    """
    rows, width = halves.shape if is_half else products.shape
    room, places = upper.shape[1], np.empty(_STRIDE + 1, np.int64)
    segment = min(width, _SEGMENT)
    lines, wides = np.empty(segment, np.float32), np.empty(segment, np.float32)
    for left in range(0, width, segment):
        right = min(width, left + segment)
        line, wide = lines[: right - left], wides[: right - left]
        low_bias = lift[first_latent + left : first_latent + right]
        low_slope = slope[first_latent + left : first_latent + right]
        for r in range(rows):
            i = first_row + r
            if is_half:
                _widen(halves[r, left:right], wide)
            else:
                wide[:] = products[r, left:right]
            _uppers(wide, line, slack, reach[i], low_slope, low_bias)
            for low in range(0, right - left, _STRIDE):
                high = min(right - left, low + _STRIDE)
                if high == low + _STRIDE and not _any_above(line, bar[i], low):
                    continue
                found = 0
                for c in range(low, high):  # without a branch that cannot be foreseen
                    places[found] = c
                    found += line[c] > bar[i]
                for e in range(found):
                    c, at = places[e], count[i]
                    if at < 0:
                        break
                    j = first_latent + left + c
                    error = slack * abs(wide[c]) + reach[i] * slope[j]
                    upper[i, at], lower[i, at] = line[c], wide[c] - error + drop[j]
                    latent[i, at] = j
                    count[i] = at + 1
                    if count[i] == room:
                        _cut(k, upper, lower, latent, count, bar, i)


@compiled
def _scored(
    x: Floats32, W_enc: Floats32, b_enc: Floats32, k: int, upper: Floats32, latent: Short, n: int
) -> Floats32:
    """Pre-activations of the candidates of a row; of those that cannot win, minus infinity."""
    score = np.full(n, -np.inf, np.float32)
    first = np.float32(-np.inf)
    if n > k:
        first = np.partition(upper[:n], n - k)[n - k]
    least, scored = np.float32(np.inf), 0
    for c in range(n):
        if upper[c] >= first and (scored < k or n <= k):
            score[c] = dot(x, W_enc[latent[c]]) + b_enc[latent[c]]
            least = min(least, score[c])
            scored += 1
    if n <= k:
        return score
    for c in range(n):
        if score[c] == -np.inf and upper[c] >= least:
            score[c] = dot(x, W_enc[latent[c]]) + b_enc[latent[c]]
    return score


@compiled
def _take(score: Floats32, latent: Short, k: int, values: Floats32, latents: Integers) -> None:
    """The k largest positive scores, in order of latent; among equals the first latents."""
    n, least, above = len(score), np.float32(0.0), 0
    if n > k:
        least = max(least, np.partition(score, n - k)[n - k])
    for c in range(n):
        above += score[c] > least
    equal = k - above if least > 0 else 0
    at = 0
    for c in range(n):
        x = score[c]
        if x > least or (x == least and equal > 0):
            equal -= x == least
            values[at], latents[at] = x, latent[c]
            at += 1
    if at < k:
        _fill(at, k, values, latents)


@compiled
def _fill(found: int, k: int, values: Floats32, latents: Integers) -> None:
    """Fill a row up with the first latents that are not in it, silent."""
    chosen, codes = latents[:found].copy(), values[:found].copy()
    missing, at, c, j = k - found, 0, 0, 0
    while at < k:
        if c < found and (chosen[c] == j or missing == 0):
            values[at], latents[at], j = codes[c], chosen[c], chosen[c] + 1
            c += 1
        else:
            values[at], latents[at], j = np.float32(0.0), j, j + 1
            missing -= 1
        at += 1


@compiled
def settle(
    first_row: int,
    stop_row: int,
    x: Floats32,
    W_enc: Floats32,
    b_enc: Floats32,
    upper: Floats32,
    latent: Short,
    count: Integers,
    values: Floats32,
    latents: Integers,
) -> None:
    """Score the candidates of rows in float32 and keep the k best.

    Args:
        first_row: of these rows.
        stop_row: one past the last.
        x: `[B, D]` what the encoder reads.
        W_enc: `[F, D]`.
        b_enc: `[F]`.
        upper: `[B, room]` lists of `screen`.
        latent: `[B, room]`.
        count: `[B]`.
        values: `[B, k]`, filled with codes; 0 where fewer than k are positive.
        latents: `[B, k]`, filled, in order.
    """
    k = values.shape[1]
    every = np.arange(len(W_enc)).astype(np.int32)
    for i in range(first_row, stop_row):
        n = count[i]
        if n >= 0:
            score = _scored(x[i], W_enc, b_enc, k, upper[i], latent[i], n)
            _take(score, latent[i], k, values[i], latents[i])
            continue
        score = np.empty(len(W_enc), np.float32)
        for j in range(len(W_enc)):
            score[j] = dot(x[i], W_enc[j]) + b_enc[j]
        _take(score, every, k, values[i], latents[i])
