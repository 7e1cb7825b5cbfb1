"""Passes over the blocks on a CPU: every thread makes blocks and looks through its own.

Rows of a block belong to one thread. Columns are offered by all of them, in whatever order: what is
kept of a column in the end depends on none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from reseed.loops import compiled, offers, products
from reseed.loops.offers import Found, Lists, Told
from reseed.matching.blocks.multiplier import Multiplier, threads_for
from reseed.matching.geometry import Floats32, Geometry, Integers, stretches

if TYPE_CHECKING:
    from reseed.sae.encode import Product

ROWS, COLUMNS = 512, 2_048
"""Size of a block; both of its buffers stay in the cache of a core, or nearly."""

_MORE, _GROUPS = 1.5, 96
"""How many times as many as are wanted a first bar lets in; groups that it is found by."""

Blocks = Iterator[tuple[Integers, Integers]]
"""Rows and columns, in order, of blocks."""


def best_of_both(geometry: Geometry, room: int, told: Told) -> tuple[Found, Found]:
    """About the best `room` (up to twice as many) of each row, and at most that of each column."""
    n, m = geometry.shape
    by_row = Lists.of(n, min(room, m), np.full(n, -np.inf, np.float32))
    by_column = Lists.of(m, min(room, n) + 1, np.full(m, -np.inf, np.float32))
    locks = [threading.Lock() for _ in stretches(m, COLUMNS)]
    # half a block of rows shows where bars of columns begin; a whole one takes more than it saves
    some = np.unique(np.linspace(0, n - 1, min(n, ROWS // 2)).astype(np.int64))

    def begin(multiplier: Multiplier, columns: slice) -> None:
        block = multiplier.uppers(some, columns)
        raise_bars(by_column.bar[columns], np.ascontiguousarray(block.T), by_column.room, n)

    def work(multiplier: Multiplier, rows: slice) -> None:
        for turn, columns in enumerate(_from_diagonal(rows.start, m)):
            told((rows.stop - rows.start) * (columns.stop - columns.start))
            block = multiplier.uppers(rows, columns)
            if turn == 0:
                raise_bars(by_row.bar[rows], block, by_row.room, m)
            with locks[columns.start // COLUMNS]:
                offers.offer_both(block, rows.start, columns.start, by_row, by_column)

    on_threads(geometry, list(stretches(m, COLUMNS)), begin)
    on_threads(geometry, list(stretches(n, ROWS)), work)
    return Found(*by_row.entries(), by_row.bar), _settled(by_column)


def raise_bars(bar: Floats32, block: Floats32, room: int, size: int) -> None:
    """Raise bars, by a block out of `size` columns, to where somewhat more than `room` are above.

    Whatever a bar is, what is above it is kept; a good one leaves little to be cut away later.
    """
    share = block.shape[1] / size
    k = min(room, int(_MORE * room * share) + 2)
    if block.shape[1] >= 4 * k:
        products.first_bars(block, min(_GROUPS, block.shape[1]), k, bar)


def _from_diagonal(start: int, m: int) -> list[slice]:
    """Column blocks from the one on the diagonal on, round to it."""
    blocks = list(stretches(m, COLUMNS))
    turn = (start // COLUMNS) % len(blocks)
    return blocks[turn:] + blocks[:turn]


def _settled(lists: Lists) -> Found:
    """What is above the `room`-th best of each: the same, whatever was offered first."""
    values = np.where(lists.kept, lists.values, -np.inf)
    at = values.shape[1] - lists.room
    bar = np.maximum(lists.bar, np.partition(values, at, axis=1)[:, at])
    above = values > bar[:, None]
    own = np.repeat(np.arange(len(bar)), above.sum(axis=1))
    return Found(own, lists.others[above].astype(np.int64), bar)


def above_prices(
    geometry: Geometry,
    groups: Sequence[Blocks],
    price: Floats32,
    lists: Lists,
    told: Told,
    *,
    product: Product | None = None,
) -> None:
    """Offer blocks, less the price of each column; no two groups have a row in common.

    `product` as in `Multiplier`.
    """

    def work(multiplier: Multiplier, blocks: Blocks) -> None:
        for rows, columns in blocks:
            told(len(rows) * len(columns))
            block = multiplier.uppers(rows, columns)
            offers.offer_rows(block, rows, columns, price[columns], *lists)

    on_threads(geometry, groups, work, product)


Piece = TypeVar("Piece")


def on_threads(
    geometry: Geometry,
    pieces: Sequence[Piece],
    work: Callable[[Multiplier, Piece], None],
    product: Product | None = None,
) -> None:
    """Do a piece of work for each; blocks have up to `ROWS` times `COLUMNS` entries."""
    threads = min(threads_for(geometry), len(pieces))
    # as many as threads: one is always free, and stays in the cache of its core
    rooms = [Multiplier(geometry, ROWS, COLUMNS, product=product) for _ in range(threads)]

    def take(number: int) -> None:
        multiplier = rooms.pop()
        work(multiplier, pieces[number])
        rooms.append(multiplier)

    compiled.run(take, range(len(pieces)), threads)
