"""Pre-activations above a bar, and the largest of a batch: no array has the size of all of them.

A rounded product is looked at for bounds, as in `encode`, and what can be above the bar of its
latent is scored in float32. Nothing above a bar is missed, so what is found depends neither on the
product, nor on its type, nor on the threads.

B rows, F latents, D dimensions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from reseed.loops import compiled as workers
from reseed.loops import encode as loops
from reseed.loops import screen as screening
from reseed.loops.encode import Integers
from reseed.loops.screen import Taken
from reseed.loops.step import ByRow
from reseed.sae import Tensor, encode, torch
from reseed.sae.codes import Codes, count_of
from reseed.sae.encode import AT_A_TIME, LATENTS, Blocks, Reader

Floats = NDArray[np.float32]

_SAMPLE = 32
"""Rows that say beforehand how much there will be."""
_LOWER = np.float32(0.9)
"""Of the smallest code that fired last: the first bar tried for the next batch."""


def above(reader: Reader, bars: Floats) -> ByRow:
    """Every pre-activation above the bar `[F]`, finite, of its latent."""
    x, W_enc, b_enc, screen, threads = reader
    left, bounds = encode.bounds_of(x, b_enc, screen)
    bounds = bounds._replace(lift=_lift(b_enc, bars))
    rooms = [_taken(8 * min(LATENTS, len(W_enc))) for _ in range(threads)]
    counts = np.zeros(len(x), np.int64)
    entries: dict[int, tuple[Integers, Floats]] = {}

    def look(first: int, stop: int, blocks: Blocks) -> None:
        taken, count = rooms.pop(), 0
        for low, block in blocks:
            at = 0
            while at >= 0:
                count, at = screening.collect(block, low, bounds, taken, count, at)
                if at >= 0:  # no room was left: go on from there in a larger one
                    taken = _larger(taken, count)
        row, latent = (a[:count] for a in taken)
        values, chosen = np.empty(count, np.float32), np.empty(count, np.int64)
        kept = loops.score(
            first, x, W_enc, b_enc, bars, row, latent, counts[first:stop], values, chosen
        )
        entries[first] = chosen[:kept].copy(), values[:kept].copy()
        rooms.append(taken)

    encode.over_rows(reader, left, look)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    pieces = [entries[first] for first in sorted(entries)]
    chosen, values = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return ByRow(starts, chosen, values)


def codes_above(x: Tensor, W_enc: Tensor, b_enc: Tensor, bars: Tensor) -> Codes:
    """Pre-activations of rows x `[N, D]` above the bars `[F]` of their latents, none negative.

    Each row has as many codes as the one with most, one at the least.
    """
    reader = encode.reader_of(x, W_enc, b_enc)
    parts = [
        above(reader._replace(x=reader.x[low : low + AT_A_TIME]), bars.numpy())
        for low in range(0, len(x), AT_A_TIME)
    ]
    most = max([1, *(int(np.diff(part.starts).max()) for part in parts)])
    values, chosen = np.zeros((len(x), most), np.float32), np.zeros((len(x), most), np.int64)
    for n, part in enumerate(parts):
        here = slice(n * AT_A_TIME, n * AT_A_TIME + len(part.starts) - 1)
        loops.side_by_side(*part, values[here], chosen[here])
    return Codes(torch.from_numpy(values), torch.from_numpy(chosen))


def _lift(b_enc: Floats, bars: Floats) -> Floats:
    """What is added to a product's bound; above 0 is above the bar."""
    b, bar = b_enc.astype(np.float64), bars.astype(np.float64)
    return (b - bar + (np.abs(b) + np.abs(bar)) * 2.0**-20).astype(np.float32)


def _taken(room: int) -> Taken:
    return Taken(*np.empty((2, room), np.int32))


def _larger(taken: Taken, count: int) -> Taken:
    new = _taken(2 * len(taken.row))
    for old, more in zip(taken, new, strict=True):
        more[:count] = old[:count]
    return new


def share_above(reader: Reader, bars: Floats) -> float:
    """Share of pre-activations above the bars `[F]` of their latents, in some of the rows."""
    x = torch.from_numpy(_some(reader.x))
    latents, (W_enc, b_enc) = len(bars), map(torch.from_numpy, (reader.W_enc, reader.b_enc))
    pieces = math.ceil(latents / LATENTS)
    counts = np.zeros(pieces, np.int64)

    def look(piece: int) -> None:
        part = slice(piece * LATENTS, (piece + 1) * LATENTS)
        pre = torch.addmm(b_enc[part], x, W_enc[part].T).numpy()
        counts[piece] = np.count_nonzero(pre > bars[part])

    workers.run(look, range(pieces), reader.threads)
    return int(counts.sum()) / (len(x) * latents)


def _some(x: Floats) -> Floats:
    return np.ascontiguousarray(x[:: math.ceil(len(x) / _SAMPLE)])


class BatchTop:
    """Finds the largest pre-activations of batches, one after the other.

    What it remembers decides the time that the next batch takes, never what is found.
    """

    def __init__(self) -> None:
        self._bar = np.float32(0.0)

    def codes(self, reader: Reader, k: float) -> ByRow:
        """The k B largest pre-activations of a batch after ReLU (BatchTopK, arXiv 2412.06410).

        Among equals the lowest rows fire, in a row the lowest latents.
        """
        latents = len(reader.W_enc)
        wanted = count_of(k, len(reader.x), len(reader.x) * latents)
        bar, share = self._bar, 2
        if bar <= 0:
            bar, share = _guess(reader, share * k), 4
        while True:
            entries = above(reader, np.full(latents, bar, np.float32))
            if len(entries.values) >= wanted or bar <= 0:
                break
            bar, share = _guess(reader, share * k), 4 * share
        kept = _largest(entries, wanted)
        least = kept.values.min(initial=np.float32(np.inf))
        self._bar = np.float32(_LOWER * least) if np.isfinite(least) else np.float32(0.0)
        return kept


def _guess(reader: Reader, k: float) -> np.float32:
    """A bar that about k pre-activations of a row are above; 0 for all that are positive."""
    latents = len(reader.W_enc)
    if k >= latents:
        return np.float32(0.0)
    x = torch.from_numpy(_some(reader.x))
    if reader.screen.halves is None:
        pre = x @ torch.from_numpy(reader.W_enc).T
    else:
        pre = (x.bfloat16() @ reader.screen.halves.T).float()
    flat = (pre + torch.from_numpy(reader.b_enc)).numpy().ravel()
    place = len(flat) - count_of(k, len(x), len(flat))
    return np.float32(max(0.0, np.partition(flat, place)[place]))


def _largest(entries: ByRow, wanted: int) -> ByRow:
    """The largest entries; among equals the first."""
    count = len(entries.values)
    if count <= wanted:
        return entries
    least = np.partition(entries.values, count - wanted)[count - wanted]
    chosen = entries.values > least
    equal = np.flatnonzero(entries.values == least)
    chosen[equal[: wanted - int(chosen.sum())]] = True
    return where(entries, chosen)


def where(entries: ByRow, chosen: NDArray[np.bool_]) -> ByRow:
    """Those of the entries of a batch that are chosen, `[E]`."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen, dtype=np.int64)])
    return ByRow(before[entries.starts], entries.latents[chosen], entries.values[chosen])
