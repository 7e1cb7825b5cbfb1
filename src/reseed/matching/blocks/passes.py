"""Passes over the blocks on a CPU: every thread makes blocks and looks through its own.

Rows of a block belong to one thread. Columns are offered by all of them, in whatever order: what is
kept of a column in the end depends on none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from reseed.loops import bounds, compiled, offers
from reseed.loops.offers import Lists
from reseed.matching.blocks.multiplier import Multiplier, threads_for
from reseed.matching.entries import stretches
from reseed.matching.geometry import Floats32, Geometry, Integers

ROWS, COLUMNS = 512, 2_048
"""Size of a block; both of its buffers stay in the cache of a core, or nearly."""

Told = Callable[[int], None]
"""Takes the number of similarities that are about to be made; may raise, to stop."""

Blocks = Iterator[tuple[Integers, Integers]]
"""Rows and columns, in order, of blocks."""


class Found(NamedTuple):
    """Pairs that were kept, and what bounds those of each own end that were not."""

    own: Integers
    other: Integers
    bar: Floats32
    """[F] every pair above it was kept"""


def best_of_both(geometry: Geometry, room: int, told: Told) -> tuple[Found, Found]:
    """The best `room` (and up to twice as many) of each row, and the best `room` of each column."""
    n, m = geometry.shape
    by_row = Lists.of(n, min(room, m), np.full(n, -np.inf, np.float32))
    by_column = Lists.of(m, min(room, n) + 1, np.full(m, -np.inf, np.float32))
    locks = [threading.Lock() for _ in stretches(m, COLUMNS)]

    def work(multiplier: Multiplier, rows: slice) -> None:
        for columns in _from_diagonal(rows.start, m):
            told((rows.stop - rows.start) * (columns.stop - columns.start))
            block = multiplier.uppers(rows, columns)
            if not by_row.length[rows.start]:
                bounds.first_bars(block, by_row.room, by_row.bar[rows])
            with locks[columns.start // COLUMNS]:
                if not by_column.length[columns.start]:
                    turned = np.ascontiguousarray(block.T)
                    bounds.first_bars(turned, by_column.room, by_column.bar[columns])
                offers.offer_both(block, rows.start, columns.start, by_row, by_column)

    _on_threads(geometry, list(stretches(n, ROWS)), work)
    return Found(*by_row.entries(), by_row.bar), _settled(by_column)


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
    halves: bool | None = None,
) -> None:
    """Offer blocks, less the price of each column; no two groups have a row in common.

    `halves` as in `Multiplier`.
    """

    def work(multiplier: Multiplier, blocks: Blocks) -> None:
        for rows, columns in blocks:
            told(len(rows) * len(columns))
            block = multiplier.uppers(rows, columns)
            offers.offer_rows(block, rows, columns, price[columns], *lists)

    _on_threads(geometry, groups, work, halves)


Piece = TypeVar("Piece")


def _on_threads(
    geometry: Geometry,
    pieces: Sequence[Piece],
    work: Callable[[Multiplier, Piece], None],
    halves: bool | None = None,
) -> None:
    """Do a piece of work for each."""
    threads = min(threads_for(geometry), len(pieces))
    # as many as threads: one is always free, and stays in the cache of its core
    rooms = [Multiplier(geometry, ROWS, COLUMNS, halves=halves) for _ in range(threads)]

    def take(number: int) -> None:
        multiplier = rooms.pop()
        work(multiplier, pieces[number])
        rooms.append(multiplier)

    compiled.run(take, range(len(pieces)), threads)
