"""TopK codes of rows on a CPU: a rounded product shows who can win, float32 decides.

The product of rows x and encoder rows w is made in bfloat16 where that is fast, else in float32,
and only looked at for bounds. With x~, w~ the rounded rows, dx = x - x~, dw = w - w~:

    |x w - x~ w~| <= |x| |dw| + |dx| |w~|                  (Cauchy-Schwarz, exact lengths)
    |sum as computed - x~ w~| <= g |x~| |w~|,  g = (D + 8) 2^-23   (float32 sums in any order)
    |product as stored - sum| <= 2^-7 |product|            (bfloat16, any rounding)
    |score as computed - (x w + b)| <= g |x| |w| + 2^-22 (|x w| + |b|)

The sum of these is a bound e on how far the stored product plus b is from the score in float32
that decides. There are k latents whose score is at least the k-th largest lower bound
(product + b - e). A latent whose upper bound (product + b + e) is below that has k others above it
and is no member. So every member is among the latents that are kept and scored: none is missed,
and the codes do not depend on the product, its type or the threads that made it. Among equal scores
the lowest latent wins. Scores at or below 0 are silent.

B rows, F latents, D dimensions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops import compiled as workers
from reseed.loops import encode as loops
from reseed.loops import screen as screening
from reseed.loops.screen import Block, Bounds, Candidates
from reseed.sae import Tensor, torch
from reseed.sae.codes import Codes

Floats = NDArray[np.float32]

ROWS, LATENTS = 256, 4096
"""Largest block of a product: what a thread keeps in its cache."""
AT_A_TIME = 4096
"""Rows of which candidates are kept at a time."""
_PIECE = 1024
"""Encoder rows that are rounded at a time."""
_ROUNDED = 2.0**-7 + 2.0**-20
_PRODUCT = 2.0**-20
_OVER = 1 + 2.0**-10
"""Bounds are this much larger than computed lengths, since these are rounded as well."""
_DENORMAL = 1e-24
"""Stands for numbers that the processor takes for 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """Encoder rows rounded to bfloat16, with the lengths that bound what that changes."""

    halves: Tensor | None
    """[F, D] bfloat16; None if products are made in float32"""
    length: Floats
    """[F] squared lengths of encoder rows"""
    lost: Floats
    """[F] squared lengths of what rounding took from them"""

    @property
    def finite(self) -> bool:
        """Whether all encoder rows are."""
        return bool(np.isfinite(self.length).all())

    def bits(self) -> NDArray[np.uint16]:
        """The rounded rows as bits, `[F, D]`, to be written to; empty without them."""
        if self.halves is None:
            return np.empty((0, 0), np.uint16)
        return bits_of(self.halves)

    def of(self, rows: Tensor) -> Screen:
        """That of some encoder rows, `[R]` int64."""
        halves = None if self.halves is None else self.halves[rows]
        return Screen(halves, self.length[rows.numpy()], self.lost[rows.numpy()])


class Reader(NamedTuple):
    """Rows and the encoder that reads them."""

    x: Floats
    """[B, D] float32, what the encoder reads"""
    W_enc: Floats
    """[F, D]"""
    b_enc: Floats
    """[F]"""
    screen: Screen
    """of W_enc as it is now"""
    threads: int


def reader_of(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Reader:
    """Encoder rows that are looked at for this call, all as tensors on the CPU."""
    threads, rows = torch.get_num_threads(), W_enc.contiguous()
    screen = new_screen(rows, threads)
    read = x.contiguous().numpy(), rows.numpy(), b_enc.contiguous().numpy()
    return Reader(*read, screen, threads)


def new_screen(W_enc: Tensor, threads: int, *, halves: bool | None = None) -> Screen:
    """Look at encoder rows `[F, D]` float32.

    `halves` says whether products are made in bfloat16; left out, whether that is fast here.
    """
    latents, dimensions = W_enc.shape
    use = halves_are_fast() if halves is None else halves
    room = torch.empty(latents if use else 0, dimensions, dtype=torch.bfloat16)
    screen = Screen(room if use else None, *np.zeros((2, latents), np.float32))
    rows, bits = W_enc.detach().numpy(), screen.bits()

    def look(piece: int) -> None:
        part = slice(piece * _PIECE, (piece + 1) * _PIECE)
        if use:
            loops.to_halves(rows[part], bits[part], screen.length[part], screen.lost[part])
        else:
            np.einsum("fd,fd->f", rows[part], rows[part], out=screen.length[part])

    workers.run(look, range(math.ceil(latents / _PIECE)), threads)
    return screen


@lru_cache(maxsize=1)
def halves_are_fast() -> bool:
    """Whether a product in bfloat16 is clearly faster here than one in float32; measured once.

    What is chosen decides the time that codes take, never the codes.
    """
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    threads = torch.get_num_threads()
    # one thread: several wait for each other, and on a busy machine that is all that is measured
    torch.set_num_threads(1)
    for _ in range(8):  # in turn, since other work disturbs; the first calls also load things
        for dtype, spent in times.items():
            a, b = torch.ones(128, 512, dtype=dtype), torch.ones(1024, 512, dtype=dtype)
            out = torch.empty(128, 1024, dtype=dtype)
            started = time.thread_time_ns()
            torch.mm(a, b.T, out=out)
            spent.append(time.thread_time_ns() - started)
    torch.set_num_threads(threads)
    return min(times[torch.bfloat16]) < 0.75 * min(times[torch.float32])


def bounds_of(x: Floats, b_enc: Floats, screen: Screen) -> tuple[Tensor, Bounds]:
    """Rows `[B, D]` float32 as they enter the product, and how far it can be from the score."""
    rows, dimensions = x.shape
    length, lost = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    left, share = torch.from_numpy(x), 0.0
    if screen.halves is None:
        np.einsum("bd,bd->b", x, x, out=length)
    else:
        left = torch.empty(x.shape, dtype=torch.bfloat16)
        loops.to_halves(x, bits_of(left), length, lost)
        some = (length > 0) & np.isfinite(length)
        share = float(np.sqrt(lost[some] / length[some]).max(initial=0.0))
    sums = (dimensions + 8) * 2.0**-23
    w, dw = np.sqrt(screen.length), np.sqrt(screen.lost)
    slope = dw + share * (w + dw) + sums * ((1 + share) * (w + dw) + w)
    bias = np.abs(b_enc) * 2.0**-20
    bounds = Bounds(
        slack=np.float32(_PRODUCT if screen.halves is None else _ROUNDED),
        reach=np.where(length > 0, np.sqrt(length) + _DENORMAL, 0).astype(np.float32),
        slope=(slope * _OVER + (w > 0) * _DENORMAL).astype(np.float32),
        lift=(b_enc + bias).astype(np.float32),
        drop=(b_enc - bias).astype(np.float32),
    )
    return left, bounds


def bits_of(halves: Tensor) -> NDArray[np.uint16]:
    """The bits of bfloat16 numbers, in the same memory."""
    return halves.view(torch.int16).numpy().view(np.uint16)


def _no_candidates(rows: int, latents: int, k: int) -> Candidates:
    room = min(latents + 1, max(4 * k, k + 64))
    return Candidates(
        upper=np.empty((rows, room), np.float32),
        lower=np.empty((rows, room), np.float32),
        latent=np.empty((rows, room), np.int32),
        length=np.zeros(rows, np.int64),
        bar=np.zeros(rows, np.float32),
    )


Blocks = Iterator[tuple[int, Block]]
"""Products of some rows with all latents: the first latent of each block, and the block."""


def over_rows(reader: Reader, left: Tensor, look: Callable[[int, int, Blocks], None]) -> None:
    """Make the rounded product of `left`, see `bounds_of`, piece by piece, and look at it.

    `look` is called, on several threads at once, for each piece of rows with the first of them,
    one past the last, and its blocks in order of latent.
    """
    rows, latents, halves = len(reader.x), len(reader.W_enc), reader.screen.halves
    right = torch.from_numpy(reader.W_enc) if halves is None else halves
    high, wide = piece_of(rows, reader.threads), min(LATENTS, latents)
    rooms = [torch.empty(high * wide, dtype=right.dtype) for _ in range(reader.threads)]
    no_bits, no_products = np.empty((0, 0), np.uint16), np.empty((0, 0), np.float32)

    def blocks(first: int, stop: int, room: Tensor) -> Blocks:
        for low in range(0, latents, wide):
            width = min(wide, latents - low)
            out = room[: (stop - first) * width].view(stop - first, width)
            torch.mm(left[first:stop], right[low : low + width].T, out=out)
            half = halves is not None
            both = (bits_of(out), no_products) if half else (no_bits, out.numpy())
            yield low, Block(*both, half, first)

    def work(piece: int) -> None:
        # as many rooms as threads: one is always free, and stays in the cache of its core
        first, stop, room = piece * high, min(rows, (piece + 1) * high), rooms.pop()
        look(first, stop, blocks(first, stop, room))
        rooms.append(room)

    workers.run(work, range(math.ceil(rows / high)), reader.threads)


def piece_of(rows: int, threads: int) -> int:
    """Rows of a piece of work."""
    return max(1, min(ROWS, math.ceil(rows / threads)))


def codes(reader: Reader, k: int) -> Codes:
    """The k largest pre-activations of rows, after ReLU; k is at most F."""
    x, W_enc, b_enc, screen, _ = reader
    left, bounds = bounds_of(x, b_enc, screen)
    kept = _no_candidates(len(x), len(W_enc), k)
    values, chosen = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)

    def look(first: int, stop: int, blocks: Blocks) -> None:
        for low, block in blocks:
            if low == 0:
                screening.first_bars(block, k, bounds, kept.bar)
            screening.screen(block, low, k, bounds, kept)
        given = kept.upper, kept.latent, kept.length
        loops.settle(first, stop, x, W_enc, b_enc, *given, values, chosen)

    over_rows(reader, left, look)
    return Codes(torch.from_numpy(values), torch.from_numpy(chosen))


def top_codes(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> Codes:
    """`codes` of any number of rows x `[N, D]`, with W_enc `[F, D]` looked at for this call."""
    reader = reader_of(x, W_enc, b_enc)
    parts = [
        codes(reader._replace(x=reader.x[low : low + AT_A_TIME]), k)
        for low in range(0, max(1, len(x)), AT_A_TIME)
    ]
    return Codes(torch.cat([p.values for p in parts]), torch.cat([p.latents for p in parts]))
