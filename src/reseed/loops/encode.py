"""Compiled loops of the encoder: rounding, and the k best of the candidates of `screen`.

B rows, F latents, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import arithmetic, compiled

Floats32 = NDArray[np.float32]

Doubles = NDArray[np.float64]

Halves = NDArray[np.uint16]

Short = NDArray[np.int32]

Integers = NDArray[np.int64]


@arithmetic
def dot(a: Floats32, b: Floats32) -> np.float32:
    """Product of two rows in float32."""
    total = np.float32(0.0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@arithmetic
def squared_length(row: Floats32) -> float:
    """Of a row, in float64: squares of small numbers are none in float32."""
    total = np.float64(0.0)
    for d in range(len(row)):
        total += np.float64(row[d]) * np.float64(row[d])
    return total


@compiled
def squared_lengths(rows: Floats32, out: Doubles) -> None:
    """`squared_length` of each of the rows `[N, D]`, into `[N]`."""
    for i in range(len(rows)):
        out[i] = squared_length(rows[i])


@arithmetic
def to_half(row: Floats32, out: Halves, back: Floats32) -> tuple[float, float]:
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
    lost = np.float64(0.0)
    for d in range(len(row)):
        left = np.float64(row[d]) - np.float64(back[d])
        lost += left * left
    return squared_length(row), lost


@compiled
def to_halves(rows: Floats32, out: Halves, length: Doubles, lost: Doubles) -> None:
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


@arithmetic
def _reaching(line: Floats32, least: np.float32) -> np.int32:
    count = np.int32(0)
    for c in range(len(line)):
        count += np.int32(line[c] >= least)
    return count


@compiled
def kth_largest(line: Floats32, k: int) -> np.float32:
    """The k-th largest of at least k numbers, none NaN.

    Its bits are found one by one, by counting who reaches them: counting is done to many numbers at
    once, sorting is not.
    """
    bits = np.empty(1, np.int32)
    least, found = bits.view(np.float32), np.int64(-(2**31))
    for bit in range(31, -1, -1):
        tried = found + (np.int64(1) << bit)
        # as whole numbers, bits of negative floats are in the wrong order
        bits[0] = tried if tried >= 0 else tried ^ 0x7FFFFFFF
        if _reaching(line, least[0]) >= k:
            found = tried
    bits[0] = found if found >= 0 else found ^ 0x7FFFFFFF
    return least[0]


@compiled
def _scored(
    x: Floats32, W_enc: Floats32, b_enc: Floats32, k: int, upper: Floats32, latent: Short, n: int
) -> Floats32:
    """Pre-activations of the candidates of a row; of those that cannot win, minus infinity."""
    score = np.full(n, -np.inf, np.float32)
    first = np.float32(-np.inf)
    if n > k:
        first = kth_largest(upper[:n], k)
    least, scored = np.float32(np.inf), 0
    # first the k most promising: their worst score is a bar that most of the others cannot reach
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
        least = max(least, kth_largest(score, k))
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
def side_by_side(
    starts: Integers, latents: Integers, values: Floats32, codes: Floats32, chosen: Integers
) -> None:
    """Entries of rows as rows of one length; what is left over is silent.

    Args:
        starts: `[B + 1]` where the entries of each row begin, in order of latent.
        latents: `[E]`.
        values: `[E]`.
        codes: `[B, K]`, filled; no row has more than K entries, none more than F latents.
        chosen: `[B, K]`, filled, in order.
    """
    for i in range(len(codes)):
        low, high = starts[i], starts[i + 1]
        codes[i, : high - low], chosen[i, : high - low] = values[low:high], latents[low:high]
        if high - low < codes.shape[1]:
            _fill(high - low, codes.shape[1], codes[i], chosen[i])


@compiled
def mark(latents: Integers, values: Floats32, fired: NDArray[np.bool_]) -> int:
    """How many codes are active; in `fired`, `[F]`, their latents are set."""
    active = 0
    for e in range(len(values)):
        if values[e] > 0:
            fired[latents[e]] = True
            active += 1
    return active


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
        if n >= 0:  # else its list was given up, and all latents are scored
            score = _scored(x[i], W_enc, b_enc, k, upper[i], latent[i], n)
            _take(score, latent[i], k, values[i], latents[i])
            continue
        score = np.empty(len(W_enc), np.float32)
        for j in range(len(W_enc)):
            score[j] = dot(x[i], W_enc[j]) + b_enc[j]
        _take(score, every, k, values[i], latents[i])


@compiled
def score(
    first_row: int,
    x: Floats32,
    W_enc: Floats32,
    b_enc: Floats32,
    bars: Floats32,
    row: Short,
    latent: Short,
    counts: Integers,
    values: Floats32,
    latents: Integers,
) -> int:
    """Score what `screen.collect` left, and sort by row what is above its bar.

    Args:
        first_row: that `row` counts from.
        x: `[B, D]` what the encoder reads.
        W_enc: `[F, D]`.
        b_enc: `[F]`.
        bars: `[F]`.
        row: `[N]` of the entries.
        latent: `[N]`, in order within a row.
        counts: `[R]`, filled with the entries that each row keeps.
        values: `[N]`, filled with their scores,
        latents: `[N]`: and latents.

    Returns:
        How many are kept.
    """
    # counting sort: entries come by block of latents, and are wanted by row
    fill = np.zeros(len(counts) + 1, np.int64)
    for e in range(len(row)):
        fill[row[e] + 1] += 1
    for r in range(len(counts)):
        fill[r + 1] += fill[r]
    starts, order = fill.copy(), np.empty(len(row), np.int32)
    for e in range(len(row)):
        order[fill[row[e]]] = latent[e]
        fill[row[e]] += 1
    at = 0
    for r in range(len(counts)):
        before = at
        for e in range(starts[r], starts[r + 1]):
            j = order[e]
            scored = dot(x[first_row + r], W_enc[j]) + b_enc[j]
            values[at], latents[at] = scored, j
            at += int(scored > bars[j])
        counts[r] = at - before
    return at
