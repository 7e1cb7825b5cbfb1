"""Which pairs an assignment may need, found in blocks, and a proven bound on all others.

A `Pool` holds pairs with their similarity in float64. About every pair that is not in it a few
statements hold, each left behind by a pass over the blocks:

    S_ij <= row_k[i] + column_k[j]    after a pass at prices column_k
    S_ij <= top_row[i], S_ij <= top_column[j]    after the first pass

A pass at new prices multiplies only what these cannot rule out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from reseed.loops import offers
from reseed.matching.blocks import passes
from reseed.matching.blocks.multiplier import Multiplier
from reseed.matching.blocks.passes import Blocks
from reseed.matching.entries import float64_block, score
from reseed.matching.geometry import Floats, Floats32, Geometry, Integers, stretches
from reseed.matching.sparse import Edges

if TYPE_CHECKING:
    from reseed.loops.gpu_offers import Products
    from reseed.sae.encode import Product

PRICE_ROWS = 256
"""Rows of a block in a pass at prices: fewer are more alike, so bounds leave less of it open."""

ON_DEVICE = 65_536  # columns of a block in a pass at prices on a GPU

_SAMPLE = 64
"""Rows on which the width of a pass is chosen."""


_telling = Lock()


class OutOfTime(Exception):  # noqa: N818  (an ending, not an error)
    """The deadline passed inside a pass."""


@dataclass(slots=True)
class Pool:
    """Pairs with their similarities, and what is known about all others."""

    geometry: Geometry
    keys: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    """[E] row * m + column, sorted"""
    edges: Edges = field(init=False)
    """the pairs with their similarity in float64"""
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

    _start: Integers = field(init=False)
    """[n] where the pairs of each row begin"""

    def __post_init__(self) -> None:
        self.products = self.geometry.products()
        self.edges = Edges(self.keys, self.keys, np.empty(0))
        self._start = self.keys

    def worth(self, v: Floats) -> Floats:
        """Best S_ij - v_j of each row over the pool, `[n]`; after the first pass each has pairs."""
        edges = self.edges
        assert len(self._start) == self.geometry.shape[0]
        return np.maximum.reduceat(edges.value - v[edges.column], self._start)

    def add(self, rows: Integers, columns: Integers) -> None:
        """Score pairs and take in those that are new."""
        m = self.geometry.shape[1]
        # sorting is ten times faster than np.unique here
        keys = np.sort(rows * m + columns)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        if len(self.keys):
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            keys = keys[self.keys[at] != keys]
        row, column = np.divmod(keys, m)
        value = score(self.geometry, row, column)
        both, old = np.concatenate([self.keys, keys]), self.edges
        order = np.argsort(both, kind="stable")
        self.keys = both[order]
        self.edges = Edges(
            np.concatenate([old.row, row])[order],
            np.concatenate([old.column, column])[order],
            np.concatenate([old.value, value])[order],
        )
        self._start = np.flatnonzero(np.diff(self.edges.row, prepend=-1))


def first_pass(pool: Pool, room: int, deadline: float, show: Callable[[float], None]) -> None:
    """Take in the best `room` (and up to twice as many) of each row and of each column."""
    told = partial(_told, pool, deadline, show)
    if pool.products is None:
        by_row, by_column = passes.best_of_both(pool.geometry, room, told)
    else:
        from reseed.loops.gpu_offers import best_of_both

        by_row, by_column = best_of_both(pool.products, room, told)
    pool.add(
        np.concatenate([by_row.own, by_column.other]), np.concatenate([by_row.other, by_column.own])
    )
    pool.top_row = by_row.bar.astype(np.float64) + pool.geometry.error
    pool.top_column = by_column.bar.astype(np.float64) + pool.geometry.error


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
    told = partial(_told, pool, deadline, show)
    groups = _not_ruled_out(pool, u, v, width, ON_DEVICE if pool.products else passes.COLUMNS)
    if pool.products is None:
        bar = _offered(pool, groups, price, least, room, told)
        close = np.flatnonzero(bar + geometry.error > pool.worth(v))
        if len(close):  # more are as good as the best than were kept: look again, in float32
            finer = _rows_whole(close, len(v))
            again = _offered(pool, finer, price, least, room, told, product="float32")
            bar[close] = again[close]
    else:
        from reseed.loops.gpu_offers import above_prices

        blocks = chain.from_iterable(groups)
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
    groups: Sequence[Blocks],
    price: Floats32,
    least: Floats32,
    room: int,
    told: offers.Told,
    *,
    product: Product | None = None,
) -> Floats32:
    """Take in pairs of these blocks above `least` at prices; what bounds those left out."""
    lists = offers.Lists.of(pool.geometry.shape[0], room, least.copy())
    try:
        passes.above_prices(pool.geometry, groups, price, lists, told, product=product)
    finally:
        pool.add(*lists.entries())
    return lists.bar


def _rows_whole(rows: Integers, m: int) -> list[Blocks]:
    """All blocks of chosen rows, in groups."""

    def blocks(some: Integers) -> Blocks:
        return ((some, np.arange(c.start, c.stop)) for c in stretches(m, passes.COLUMNS))

    return [blocks(rows[part]) for part in stretches(len(rows), PRICE_ROWS)]


def _best_exactly(
    geometry: Geometry, rows: Integers, v: Floats, deadline: float
) -> tuple[Integers, Floats]:
    """Column and value of max_j S_ij - v_j for chosen rows, by float64 products."""
    column, value = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf)
    for part in stretches(len(rows), passes.ROWS):
        for across in stretches(len(v), passes.COLUMNS):
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
    multiplier = Multiplier(pool.geometry, len(rows), passes.COLUMNS)
    for columns in stretches(m, passes.COLUMNS):
        block = (
            multiplier.uppers(rows, columns) - price[columns] - u[rows].astype(np.float32)[:, None]
        )
        best = np.concatenate([best, block.ravel()])
        if len(best) > wanted:
            best = np.partition(best, len(best) - wanted)[-wanted:]
    return -float(best.min())


def _not_ruled_out(pool: Pool, u: Floats, v: Floats, width: float, across: int) -> list[Blocks]:
    """Blocks that may hold a pair with S_ij > u_i + v_j - width by all the bounds, by rows."""
    n, _ = pool.geometry.shape
    bounds = [] if pool.top_row is None else [(pool.top_row, np.zeros_like(v))]
    bounds += pool.bounds
    slack_rows = [row - u + width for row, _ in bounds]
    slack_columns = [v - column for _, column in bounds]
    order = _alike(u, slack_rows[-1]) if slack_rows else np.arange(n)

    def blocks(rows: Integers) -> Blocks:
        open_ = np.ones(len(v), dtype=bool)
        for row, column in zip(slack_rows, slack_columns, strict=True):
            open_ &= column < row[rows].max()
        if pool.top_column is not None:
            open_ &= pool.top_column - v + width > u[rows].min()
        columns = np.flatnonzero(open_)
        for some in stretches(len(columns), across):
            yield np.sort(rows), columns[some]

    return [blocks(order[part]) for part in stretches(n, PRICE_ROWS)]


def _alike(u: Floats, slack: Floats) -> Integers:
    """Order of the rows in which neighbours are alike in both: bounds by blocks are tight then."""
    strips = max(1, round((len(u) / PRICE_ROWS) ** 0.5))
    rank = np.empty(len(u), np.int64)
    rank[np.argsort(u)] = np.arange(len(u))
    return np.lexsort((-slack, rank * strips // len(u)))


def _told(pool: Pool, deadline: float, show: Callable[[float], None], entries: int) -> None:
    """Of similarities that are about to be made, on whatever thread."""
    if time.perf_counter() > deadline:
        raise OutOfTime
    with _telling:
        pool.multiplied += entries
        show(entries)
