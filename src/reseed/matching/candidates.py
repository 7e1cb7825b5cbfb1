"""Which pairs an assignment may need, found in blocks, and a proven bound on all others.

A `Pool` holds pairs with their similarity in float64. About every pair that is not in it a few
statements hold, each left behind by a pass over the blocks:

    S_ij <= row_k[i] + column_k[j]    after a pass at prices column_k
    S_ij <= top_row[i], S_ij <= top_column[j]    after the first pass

A pass at new prices multiplies only what these cannot rule out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reseed.loops import offers
from reseed.matching.entries import float64_block, score, stretches
from reseed.matching.geometry import Floats, Floats32, Geometry, Integers
from reseed.matching.sparse import Edges

if TYPE_CHECKING:
    from reseed.loops.gpu_offers import Products

ROWS, COLUMNS = 1_024, 2_048
"""Size of a block; both of its buffers stay in a third-level cache."""

PRICE_ROWS = 256
"""Rows of a block in a pass at prices: fewer are more alike, so bounds leave less of it open."""

ON_DEVICE = 65_536  # columns of a block in a pass at prices on a GPU

_SAMPLE = 64
"""Rows on which the width of a pass is chosen."""


class OutOfTime(Exception):  # noqa: N818  (an ending, not an error)
    """The deadline passed inside a pass."""


@dataclass(slots=True)
class Pool:
    """Pairs with their similarities, and what is known about all others."""

    geometry: Geometry
    keys: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    """[E] row * m + column, sorted"""
    values: Floats = field(default_factory=lambda: np.empty(0))
    """[E] similarity in float64"""
    top_row: Floats | None = None
    top_column: Floats | None = None
    bounds: list[tuple[Floats, Floats]] = field(default_factory=list[tuple[Floats, Floats]])
    """row_k [n] and column_k [m] of each pass at prices"""
    cut: bool = False
    """whether the last pass at prices left out pairs that it found as good as the best"""
    multiplied: int = 0
    """entries of blocks that were made"""
    products: Products | None = field(init=False)
    """what makes blocks on a device; None on a CPU"""

    def __post_init__(self) -> None:
        self.products = self.geometry.products()

    @property
    def edges(self) -> Edges:
        """The pairs."""
        m = self.geometry.shape[1]
        return Edges(self.keys // m, self.keys % m, self.values)

    def worth(self, v: Floats) -> Floats:
        """Best S_ij - v_j of each row over the pool, `[n]`; after the first pass each has pairs."""
        edges = self.edges
        start = np.flatnonzero(np.diff(edges.row, prepend=-1))
        assert len(start) == self.geometry.shape[0]
        return np.maximum.reduceat(edges.value - v[edges.column], start)

    def add(self, rows: Integers, columns: Integers) -> None:
        """Score pairs and take in those that are new."""
        m = self.geometry.shape[1]
        # sorting is ten times faster than np.unique here
        keys = np.sort(rows * m + columns)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        if len(self.keys):
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            keys = keys[self.keys[at] != keys]
        values = score(self.geometry, keys // m, keys % m)
        self.keys = np.concatenate([self.keys, keys])
        order = np.argsort(self.keys, kind="stable")
        self.keys = self.keys[order]
        self.values = np.concatenate([self.values, values])[order]


def first_pass(pool: Pool, room: int, deadline: float, show: Callable[[float], None]) -> None:
    """Take in the best `room` (and up to twice as many) of each row and of each column."""
    if pool.products is not None:
        from reseed.loops.gpu_offers import best_of_both

        best = best_of_both(pool.products, room, partial(_told, pool, deadline, show))
        return _first_bounds(pool, best[0][:2], best[1][:2], best[0].bar, best[1].bar)
    n, m = pool.geometry.shape
    by_row = offers.Lists.of(n, min(room, m), np.full(n, -np.inf, np.float32))
    by_column = offers.Lists.of(m, min(room, n), np.full(m, -np.inf, np.float32))

    free = np.zeros(m, np.float32)
    with ThreadPoolExecutor(1) as beside:

        def offer(block: Floats32, rows: slice, columns: slice) -> None:
            place = (rows.start, columns.start)
            other = beside.submit(offers.offer_columns, block, *place, *by_column)
            numbers = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
            offers.offer_rows(block, *numbers, free[columns], *by_row)
            other.result()

        blocks = ((r, c) for r in stretches(n, ROWS) for c in _from_diagonal(r.start, m))
        _multiply(pool, blocks, offer, deadline, show)
    return _first_bounds(pool, by_row.entries(), by_column.entries(), by_row.bar, by_column.bar)


def _first_bounds(
    pool: Pool,
    by_row: tuple[Integers, Integers],
    by_column: tuple[Integers, Integers],
    bar_row: Floats32,
    bar_column: Floats32,
) -> None:
    pool.add(*(np.concatenate(ends) for ends in zip(by_row, by_column[::-1], strict=True)))
    pool.top_row = bar_row.astype(np.float64) + pool.geometry.error
    pool.top_column = bar_column.astype(np.float64) + pool.geometry.error


def _from_diagonal(start: int, m: int) -> list[slice]:
    """Column blocks from the one on the diagonal on, round to it."""
    blocks = list(stretches(m, COLUMNS))
    turn = (start // COLUMNS) % len(blocks)
    return blocks[turn:] + blocks[:turn]


def price_pass(
    pool: Pool,
    u: Floats,
    v: Floats,
    room: int,
    deadline: float,
    show: Callable[[float], None],
) -> None:
    """Take in all pairs with S_ij > u_i + v_j - width, at most about `room` a row.

    Only what the bounds cannot rule out is multiplied. The width is chosen so that few more than
    the violated pairs come in: those are what the next solves may need, and it makes the bound
    that this pass leaves behind tighter.
    """
    geometry = pool.geometry
    # prices move most after the first pass at prices; a wide one then leaves a bound that holds on
    width = 2 * geometry.error
    if not pool.bounds:
        width = max(width, _width(pool, u, v, room))
    least = (u - width).astype(np.float32)
    price = v.astype(np.float32)
    blocks = _not_ruled_out(pool, u, v, width, ON_DEVICE if pool.products else COLUMNS)
    if pool.products is None:
        bar = _offered(pool, blocks, price, least, room, deadline, show)
    else:
        from reseed.loops.gpu_offers import above_prices

        told = partial(_told, pool, deadline, show)
        *pairs, bar = above_prices(pool.products, blocks, price, least, 2 * room, told)
        pool.add(*pairs)
    bound = bar.astype(np.float64) + geometry.error
    # where a full list was cut among entries as good as its best, float32 cannot say which is best
    close = np.flatnonzero(bound > pool.worth(v))
    if len(close):
        best, bound[close] = _best_exactly(geometry, close, v, deadline)
        pool.add(close, best)
    pool.cut = bool((bar > np.maximum(least, (u - 2 * geometry.error))).any())
    pool.bounds.append((bound, v.copy()))


def _offered(
    pool: Pool,
    blocks: Iterator[tuple[Integers, Integers]],
    price: Floats32,
    least: Floats32,
    room: int,
    deadline: float,
    show: Callable[[float], None],
) -> Floats32:
    """Take in pairs of these blocks above `least` at prices; what bounds those left out."""
    lists = offers.Lists.of(pool.geometry.shape[0], room, least.copy())

    def offer(block: Floats32, rows: Integers, columns: Integers) -> None:
        offers.offer_rows(block, rows, columns, price[columns], *lists)

    try:
        _multiply(pool, blocks, offer, deadline, show)
    finally:
        pool.add(*lists.entries())
    return lists.bar


def _best_exactly(
    geometry: Geometry, rows: Integers, v: Floats, deadline: float
) -> tuple[Integers, Floats]:
    """Column and value of max_j S_ij - v_j for chosen rows, by float64 products."""
    column, value = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf)
    for part in stretches(len(rows), ROWS):
        for across in stretches(len(v), COLUMNS):
            if time.perf_counter() > deadline:
                raise OutOfTime
            block = float64_block(geometry, rows[part], across) - v[across]
            top = block.argmax(axis=1)
            most = block[np.arange(len(block)), top]
            better = most > value[part]
            value[part] = np.where(better, most, value[part])
            column[part] = np.where(better, top + across.start, column[part])
    return column, value


def _width(pool: Pool, u: Floats, v: Floats, room: int) -> float:
    """Width at which a pass keeps about a quarter of the room, from a sample of rows."""
    n, m = pool.geometry.shape
    rows = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    price = v.astype(np.float32)
    wanted = min(max(1, room // 4) * len(rows), len(rows) * m)
    best = np.empty(0, np.float32)
    multiplier = pool.geometry.multiplier(len(rows), COLUMNS)
    for columns in stretches(m, COLUMNS):
        block = (
            multiplier.block(rows, columns) - price[columns] - u[rows].astype(np.float32)[:, None]
        )
        best = np.concatenate([best, block.ravel()])
        if len(best) > wanted:
            best = np.partition(best, len(best) - wanted)[-wanted:]
    return -float(best.min())


def _not_ruled_out(
    pool: Pool, u: Floats, v: Floats, width: float, across: int
) -> Iterator[tuple[Integers, Integers]]:
    """Blocks that may hold a pair with S_ij > u_i + v_j - width by all the bounds."""
    n, _ = pool.geometry.shape
    bounds = [] if pool.top_row is None else [(pool.top_row, np.zeros_like(v))]
    bounds += pool.bounds
    slack_rows = [row - u + width for row, _ in bounds]
    slack_columns = [v - column for _, column in bounds]
    order = _alike(u, slack_rows[-1]) if slack_rows else np.arange(n)
    for part in stretches(n, PRICE_ROWS):
        rows = order[part]
        open_ = np.ones(len(v), dtype=bool)
        for row, column in zip(slack_rows, slack_columns, strict=True):
            open_ &= column < row[rows].max()
        if pool.top_column is not None:
            open_ &= pool.top_column - v + width > u[rows].min()
        columns = np.flatnonzero(open_)
        for some in stretches(len(columns), across):
            yield np.sort(rows), columns[some]


def _alike(u: Floats, slack: Floats) -> Integers:
    """Order of the rows in which neighbours are alike in both: bounds by blocks are tight then."""
    strips = max(1, round((len(u) / PRICE_ROWS) ** 0.5))
    rank = np.empty(len(u), np.int64)
    rank[np.argsort(u)] = np.arange(len(u))
    return np.lexsort((-slack, rank * strips // len(u)))


def _multiply(
    pool: Pool,
    blocks: Iterator[tuple[Any, Any]],
    offer: Callable[[Floats32, Any, Any], None],
    deadline: float,
    show: Callable[[float], None],
) -> None:
    """Make blocks and look through them.

    Looking in a thread of its own while the next block is made was slower on two cores: the product
    waits for whichever of its threads lost its core.
    """
    multiplier = pool.geometry.multiplier(ROWS, COLUMNS)
    for rows, columns in blocks:
        if time.perf_counter() > deadline:
            raise OutOfTime
        block = multiplier.block(rows, columns)
        offer(block, rows, columns)
        pool.multiplied += block.size
        show(block.size)


def _told(pool: Pool, deadline: float, show: Callable[[float], None], entries: int) -> None:
    """Of blocks that a device is about to make."""
    if time.perf_counter() > deadline:
        raise OutOfTime
    pool.multiplied += entries
    show(entries)
