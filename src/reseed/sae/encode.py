"""TopK codes of rows on a CPU: a rounded product shows who can win, float32 decides.

The product of rows x and encoder rows w is made in bfloat16 or int16 where that is faster than in
float32, and only looked at for bounds. With x~, w~ the rounded rows, dx = x - x~, dw = w - w~:

    |x w - x~ w~| <= |x| |dw| + |dx| |w~|                  (Cauchy-Schwarz)
    |sum as computed - x~ w~| <= g |x~| |w~|,  g = (D + 8) 2^-23   (float32 sums in any order)
    |product as stored - sum| <= 2^-7 |product|            (bfloat16, any rounding; else 2^-22)
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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops import compiled as workers
from reseed.loops import encode as loops
from reseed.loops import products
from reseed.loops import screen as screening
from reseed.loops.products import Whole
from reseed.loops.screen import Block, Bounds, Candidates
from reseed.sae import Tensor, torch
from reseed.sae.codes import Codes

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

Product = Literal["bfloat16", "int16", "float32"]
"""What is multiplied."""

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
    """Encoder rows as products have them, with the lengths that bound what rounding changes."""

    halves: Tensor | None
    """[F, D] bfloat16, for products in that"""
    whole: Whole | None
    """for products in int16; without either they are made in float32"""
    length: Doubles
    """[F] squared lengths of encoder rows"""
    lost: Doubles
    """[F] squared lengths of what rounding took from them"""

    @property
    def finite(self) -> bool:
        """Whether all encoder rows are."""
        return bool(np.isfinite(self.length).all())

    def rooms(self) -> tuple[NDArray[np.uint16], Whole]:
        """Where encoder rows are written to, as bits of bfloat16 or whole; what is not is empty."""
        bits = np.empty((0, 0), np.uint16) if self.halves is None else bits_of(self.halves)
        return bits, Whole.room(0, 0) if self.whole is None else self.whole

    def of(self, rows: Tensor) -> Screen:
        """That of some encoder rows, `[R]` int64."""
        which = rows.numpy()
        return Screen(
            None if self.halves is None else self.halves[rows],
            None if self.whole is None else self.whole.of(which),
            self.length[which],
            self.lost[which],
        )


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


def new_screen(W_enc: Tensor, threads: int, *, product: Product | None = None) -> Screen:
    """Look at encoder rows `[F, D]` float32.

    `product` says what is multiplied; left out, what is fast here.
    """
    latents, dimensions = W_enc.shape
    product, halves, numbers = product or fastest_product(), None, None
    if product == "bfloat16":
        halves = torch.empty(latents, dimensions, dtype=torch.bfloat16)
    elif product == "int16":
        numbers = Whole.room(latents, dimensions)
    screen = Screen(halves, numbers, *np.zeros((2, latents)))
    rows, (bits, whole) = W_enc.detach().numpy(), screen.rooms()

    def look(first: int, stop: int) -> None:
        part = slice(first, stop)
        if len(bits):
            loops.to_halves(rows[part], bits[part], screen.length[part], screen.lost[part])
        elif len(whole.scale):
            products.to_wholes(rows[part], *whole.of(part), screen.length[part], screen.lost[part])
        else:
            loops.squared_lengths(rows[part], screen.length[part])

    workers.stretches(look, latents, _PIECE, threads)
    return screen


@lru_cache(maxsize=1)
def fastest_product() -> Product:
    """What is multiplied clearly faster here than float32, if anything; measured once.

    What is chosen decides the time that codes take, never the codes.
    """
    # rows whose lengths are no power of two, which processors keep in few places of their caches
    threads, ones = torch.get_num_threads(), torch.ones(1000, 576)
    halves, whole, out = ones.bfloat16(), Whole.room(*ones.shape), torch.empty(256, 1000)
    short, few = out.bfloat16(), whole.of(slice(256))
    ways: dict[Product, Callable[[], object]] = {
        "float32": lambda: torch.mm(ones[:256], ones.T, out=out),
        "bfloat16": lambda: torch.mm(halves[:256], halves.T, out=short),
        "int16": lambda: products.multiply(*few, *whole, out.numpy()),
    }
    times: dict[Product, list[float]] = {way: [] for way in ways}
    # one thread: several wait for each other, and on a busy machine that is all that is measured
    torch.set_num_threads(1)
    for _ in range(8):  # in turn, since other work disturbs; the first calls also load things
        for way, make in ways.items():
            started = time.thread_time_ns()
            make()
            times[way].append(time.thread_time_ns() - started)
    torch.set_num_threads(threads)
    least: dict[Product, float] = {way: min(spent) for way, spent in times.items()}
    best = min(least, key=lambda way: least[way])
    return best if least[best] < 0.85 * least["float32"] else "float32"


def bounds_of(x: Floats, b_enc: Floats, screen: Screen) -> tuple[Tensor | Whole, Bounds]:
    """Rows `[B, D]` float32 as they enter the product, and how far it can be from the score."""
    rows, dimensions = x.shape
    length, lost = np.zeros((2, rows))
    if screen.halves is not None:
        left = torch.empty(x.shape, dtype=torch.bfloat16)
        loops.to_halves(x, bits_of(left), length, lost)
    elif screen.whole is not None:
        left = Whole.room(rows, dimensions)
        products.to_wholes(x, *left, length, lost)
    else:
        left = torch.from_numpy(x)
        loops.squared_lengths(x, length)
    some = (length > 0) & np.isfinite(length)
    share = float(np.sqrt(lost[some] / length[some]).max(initial=0.0))
    sums = (dimensions + 8) * 2.0**-23
    w, dw = np.sqrt(screen.length), np.sqrt(screen.lost)
    slope = dw + share * (w + dw) + sums * ((1 + share) * (w + dw) + w)
    bias = np.abs(b_enc) * 2.0**-20
    with np.errstate(over="ignore"):  # lengths beyond float32 are infinite there: all is scored
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


def over_rows(
    reader: Reader, left: Tensor | Whole, look: Callable[[int, int, Blocks], None]
) -> None:
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
            if isinstance(left, Whole):
                assert reader.screen.whole is not None, "rows are rounded as the screen is"
                columns = reader.screen.whole.of(slice(low, low + width))
                products.multiply(*left.of(slice(first, stop)), *columns, out.numpy())
            else:
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
