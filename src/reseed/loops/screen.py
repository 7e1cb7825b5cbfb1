"""Compiled loops that look through a rounded product for those who can be among the k largest.

Each row keeps a list of candidates in order of latent, and a bar: every latent whose upper bound is
above the bar was kept. A full list is cut to those above the k-th largest lower bound, which
becomes the bar. A list that stays full is given up, and the row is scored whole. `collect` keeps
all that can be above a given bar.

B rows, F latents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reseed.loops.compiled import arithmetic, compiled
from reseed.loops.encode import Floats32, Halves, Integers, Short, kth_largest

_STRIDE, _SEGMENT = 32, 1024
"""Entries that are tested together before any is looked at alone; entries of a row at a time."""

_INFINITE = np.int32(0x7F800000)
"""The bits of infinity."""

_BELOW = np.float32(1 - 2**-21)
"""A bar lies this much below the bound that it is made of, so that equals stay above it."""


class Block(NamedTuple):
    """Products of some rows with some latents, in one of two types; the other is empty."""

    halves: Halves
    """[R, C] as bits of bfloat16"""
    products: Floats32
    """[R, C] as float32"""
    is_half: bool
    first: int
    """which row the first is"""


class Bounds(NamedTuple):
    """How far a product plus bias can be from the score: slack |product| + reach slope."""

    slack: np.float32
    reach: Floats32
    """[B]"""
    slope: Floats32
    """[F]"""
    lift: Floats32
    """[F] largest bias, rounding counted"""
    drop: Floats32
    """[F] smallest bias"""


class Candidates(NamedTuple):
    """What rows keep of the latents offered to them: `upper[i, :length[i]]` and so on."""

    upper: Floats32
    """[B, room] the largest that their score can be"""
    lower: Floats32
    """[B, room] the smallest"""
    latent: Short
    """[B, room]"""
    length: Integers
    """[B]; -1 where the list was given up"""
    bar: Floats32
    """[B]"""


@compiled
def _cut(
    k: int, upper: Floats32, lower: Floats32, latent: Short, count: Integers, bar: Floats32, i: int
) -> None:
    """Raise the bar of a row to its k-th largest lower bound and drop what is below."""
    n, room = count[i], upper.shape[1]
    # k latents reach their lower bounds, so whoever cannot reach the k-th of them is out
    limit = kth_largest(lower[i, :n], k) * _BELOW
    bar[i] = max(bar[i], limit)
    at = 0
    for c in range(n):
        if upper[i, c] > bar[i]:
            upper[i, at], lower[i, at], latent[i, at] = upper[i, c], lower[i, c], latent[i, c]
            at += 1
    count[i] = at
    if at > room - room // 8:  # cutting again and again would cost more than scoring the row
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
    """The largest that each score can be."""
    for c in range(len(out)):
        out[c] = products[c] + slack * abs(products[c]) + (reach * slope[c] + lift[c])


@arithmetic
def _lowers(
    products: Floats32,
    out: Floats32,
    slack: np.float32,
    reach: np.float32,
    slope: Floats32,
    drop: Floats32,
) -> None:
    """The smallest that each score can be."""
    for c in range(len(out)):
        out[c] = products[c] - slack * abs(products[c]) - (reach * slope[c] - drop[c])


@compiled
def _any_above(line: Floats32, bar: np.float32, low: int) -> bool:
    """Whether an entry of a stretch is above the bar (see `offers`)."""
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
def _copy(row: Floats32, out: Floats32) -> None:
    for c in range(len(out)):
        out[c] = row[c]


@arithmetic
def _largest(low: Floats32, best: Floats32) -> None:
    """The largest of each group of bounds and 0; the members of group g are g, g + G, g + 2 G.

    Compared as integers, which order positive floats as they are and put negative ones below 0:
    comparing floats is not made several at a time.
    """
    most, bits, groups = best.view(np.int32), low.view(np.int32), len(best)
    most[:] = 0  # scores at or below 0 are silent, so no bar needs to be lower
    for left in range(0, len(bits), groups):
        _take_larger(most, bits[left : left + groups])


@arithmetic
def _take_larger(most: Short, others: Short) -> None:
    for g in range(len(most)):
        other = others[g] if others[g] < _INFINITE else np.int32(0)
        most[g] = max(most[g], other)


@compiled
def first_bars(block: Block, k: int, bounds: Bounds, bar: Floats32) -> None:
    """Bars to begin with: the k-th largest of the maxima of groups, since k latents reach it.

    Args:
        block: begins at latent 0.
        k: how many are wanted.
        bounds: of its entries.
        bar: `[B]`, filled for its rows.
    """
    rows, width = block.halves.shape if block.is_half else block.products.shape
    size = min(_STRIDE, width // (4 * k))
    if size < 2:
        return
    groups = width // size
    used = size * groups
    low, wide = np.empty(used, np.float32), np.empty(used, np.float32)
    slope, drop, best = bounds.slope[:used], bounds.drop[:used], np.empty(groups, np.float32)
    for r in range(rows):
        i = block.first + r
        if block.is_half:
            _widen(block.halves[r, :used], wide)
        else:
            _copy(block.products[r, :used], wide)
        _lowers(wide, low, bounds.slack, bounds.reach[i], slope, drop)
        _largest(low, best)
        bar[i] = kth_largest(best, k) * _BELOW


@compiled
def screen(block: Block, first_latent: int, k: int, bounds: Bounds, kept: Candidates) -> None:
    """Offer a block to the lists of its rows.

    Args:
        block: products; blocks of the same rows come in order of latent.
        first_latent: which latent the first column is.
        k: how many are wanted.
        bounds: of the entries.
        kept: of all rows.
    """
    halves, products, is_half, first_row = block
    slack, reach, slope, lift, drop = bounds
    upper, lower, latent, count, bar = kept  # tuples are dear inside loops
    rows, width = halves.shape if is_half else products.shape
    segment = min(width, _SEGMENT)
    lines, wides = np.empty(segment, np.float32), np.empty(segment, np.float32)
    places = np.empty(_STRIDE + 1, np.int64)
    for left in range(0, width, segment):
        right = min(width, left + segment)
        line, wide = lines[: right - left], wides[: right - left]
        here = slice(first_latent + left, first_latent + right)
        slope_here, lift_here = slope[here], lift[here]
        for r in range(rows):
            i = first_row + r
            if is_half:
                _widen(halves[r, left:right], wide)
            else:
                _copy(products[r, left:right], wide)
            _uppers(wide, line, slack, reach[i], slope_here, lift_here)
            for low in range(0, right - left, _STRIDE):
                high = min(right - left, low + _STRIDE)
                # once the bar is up, nearly every stretch ends here
                if high == low + _STRIDE and not _any_above(line, bar[i], low):
                    continue
                found = 0
                for c in range(low, high):  # without a branch that cannot be predicted
                    places[found] = c
                    found += line[c] > bar[i]
                for e in range(found):
                    c, at = places[e], count[i]
                    if at < 0:
                        break
                    j = first_latent + left + c
                    error = slack * abs(wide[c]) + reach[i] * slope[j]
                    upper[i, at], lower[i, at] = line[c], wide[c] - error + drop[j]
                    latent[i, at], count[i] = j, at + 1
                    if at + 1 == upper.shape[1]:
                        _cut(k, upper, lower, latent, count, bar, i)


class Taken(NamedTuple):
    """What blocks of the same rows left: entries in order of latent within a row."""

    row: Short
    """[room]"""
    latent: Short
    """[room]"""


@compiled
def collect(
    block: Block, first_latent: int, bounds: Bounds, taken: Taken, count: int, begin: int
) -> tuple[int, int]:
    """Keep all of a block whose upper bound is above 0.

    Args:
        block: products; blocks of the same rows come in order of latent.
        first_latent: which latent the first column is.
        bounds: of the entries, a bar taken off `lift`.
        taken: filled on.
        count: entries that are there.
        begin: where an earlier call ran out of room; 0 for a new block.

    Returns:
        Entries that are there now, and where there was no room to go on; -1 if all was seen.
    """
    halves, products, is_half, first_row = block
    slack, reach, slope, lift, _ = bounds
    row, latent = taken
    rows, width = halves.shape if is_half else products.shape
    segment = min(width, _SEGMENT)
    lines, wides = np.empty(segment, np.float32), np.empty(segment, np.float32)
    bar = np.float32(0.0)
    for at in range(begin, rows * -(-width // segment)):
        left, r = at // rows * segment, at % rows  # rows within a segment: slopes stay cached
        i = int(first_row + r)
        right = min(width, left + segment)
        if count + right - left > len(row):
            return count, at
        line, wide = lines[: right - left], wides[: right - left]
        here = slice(first_latent + left, first_latent + right)
        if is_half:
            _widen(halves[r, left:right], wide)
        else:
            _copy(products[r, left:right], wide)
        _uppers(wide, line, slack, reach[i], slope[here], lift[here])
        for low in range(0, right - left, _STRIDE):
            high = min(right - left, low + _STRIDE)
            if high == low + _STRIDE and not _any_above(line, bar, low):
                continue
            for c in range(low, high):  # without a branch that cannot be predicted
                row[count], latent[count] = r, first_latent + left + c
                count += line[c] > bar
    return count, -1
