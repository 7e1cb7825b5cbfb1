"""The nearest other rows of each row of one dictionary, proven, by half of the products.

A similarity stands in two rows, so only blocks on and above the diagonal are made, rounded. What is
kept of a row is scored in float64; whatever was not kept is at most the bar that it left behind.
Where the wanted ones are not all above that bar the row is scored whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from reseed.loops.compiled import compiled
from reseed.loops.offers import Lists, dot, offer_both
from reseed.matching.blocks.multiplier import Multiplier
from reseed.matching.blocks.passes import ROWS, on_threads, raise_bars
from reseed.matching.geometry import Floats, Floats32, Geometry, Integers, Rows, stretches

_BLOCK = 1_024

_ROOM = 12
"""Kept of each row at the least: with so many more than are wanted few rows are scored whole."""

_QUERIES = 1_024
"""Queries that are held against candidates at a time."""

_WHOLE = 64
"""Rows that are scored whole at a time."""


def nearest_others(rows: Rows, count: int) -> tuple[Integers, Floats]:
    """The `count` most similar other rows of each, most similar first, equal ones by number.

    Args:
        rows: F of them.
        count: at most F - 1.

    Returns:
        `[F, count]` which, and how similar in float64; 0 for rows of zeros.
    """
    size = len(rows.scale)
    geometry = Geometry(views=((rows, rows),), device="cpu")
    bar = np.full(size, -np.inf, np.float32)
    lists = Lists.of(size, min(size, max(_ROOM, 4 * count)), bar)
    _fill(geometry, lists)
    which, similarity = np.zeros((size, count), np.int64), np.zeros((size, count))
    there = np.flatnonzero(rows.scale > 0)
    choose(rows, *lists.entries(), lists.values[lists.kept], which, similarity)
    open_ = there[~(similarity[there].min(axis=1, initial=np.inf) > lists.bar[there])]
    error = np.float32(2 * geometry.error)
    finer = Multiplier(geometry, _WHOLE, size, product="float32")
    for part in stretches(len(open_), _WHOLE):
        own = open_[part]
        block = finer.block(own, slice(None))
        block[np.arange(len(own)), own] = -np.inf
        least = np.partition(block, size - count, axis=1)[:, size - count, None]
        at, other = np.nonzero(block >= least - error)
        choose(rows, own[at], other, block[at, other] + error, which, similarity)
    return which, similarity


def _fill(geometry: Geometry, lists: Lists) -> None:
    """Offer every pair to the lists of both of its rows, once."""
    size, lock = geometry.shape[0], Lock()
    some = np.unique(np.linspace(0, size - 1, min(size, ROWS)).astype(np.int64))

    def begin(multiplier: Multiplier, part: slice) -> None:
        block = np.ascontiguousarray(multiplier.uppers(some, part).T)
        raise_bars(lists.bar[part], block, 4 * lists.room, size)

    def work(multiplier: Multiplier, part: slice) -> None:
        for across in stretches(size, _BLOCK):
            if across.start < part.start:
                continue
            block = multiplier.uppers(part, across)
            if across == part:
                for row in range(len(block)):
                    block[row, : row + 1] = -np.inf
            with lock:  # what is kept in the end depends on no order: it is proven
                offer_both(block, part.start, across.start, lists, lists)

    for each in begin, work:
        on_threads(geometry, list(stretches(size, _BLOCK)), each)


def choose(
    rows: Rows, own: Integers, other: Integers, upper: Floats32, which: Integers, similarity: Floats
) -> None:
    """Score pairs in float64 and fill in the best of each own end that has any.

    Args:
        rows: the dictionary.
        own: `[E]`, ascending.
        other: `[E]`, no pair twice.
        upper: `[E]` at least the similarity of each.
        which: `[F, count]`, filled with other ends, most similar first, equal ones by number,
        similarity: `[F, count]`: and with their cosines.
    """
    starts = np.searchsorted(own, np.arange(len(which) + 1))
    _choose(rows.exact, rows.scale, starts, other, upper, which, similarity)


@compiled
def _choose(
    exact: Any,
    scale: Floats,
    starts: Integers,
    other: Integers,
    upper: Floats32,
    which: Integers,
    similarity: Floats,
) -> None:
    count = which.shape[1]
    for i in range(len(which)):
        found = 0
        for e in range(starts[i], starts[i + 1]):
            if found == count and upper[e] < similarity[i, count - 1]:
                continue
            j = other[e]
            value = dot(exact[i], exact[j]) * scale[i] * scale[j]
            to = found
            while to > 0 and (
                value > similarity[i, to - 1]
                or (value == similarity[i, to - 1] and j < which[i, to - 1])
            ):
                to -= 1
            if to == count:
                continue
            found = min(count, found + 1)
            for c in range(found - 1, to, -1):
                which[i, c], similarity[i, c] = which[i, c - 1], similarity[i, c - 1]
            which[i, to], similarity[i, to] = j, value


def raise_best(
    both: Floats32,
    each: Floats32,
    queries: Sequence[Floats32],
    candidates: Sequence[Floats32],
    owner: Integers,
) -> None:
    """Raise what queries reach at best by more candidates, in float32.

    Args:
        both: `[N]` the largest of the lesser cosine by any kind of row, raised.
        each: `[kinds, N]` the largest cosine by each kind, raised.
        queries: `[N, D]` unit rows, by kind.
        candidates: `[C, D]` of each kind.
        owner: `[C]` the query that may not take a candidate, or -1.
    """
    for some in stretches(len(both), _QUERIES):
        least: Floats32 | None = None
        same = np.flatnonzero((owner >= some.start) & (owner < some.stop))
        for view, (x, y) in enumerate(zip(queries, candidates, strict=True)):
            block = x[some] @ y.T
            block[owner[same] - some.start, same] = -1.0
            np.maximum(each[view, some], block.max(axis=1), out=each[view, some])
            least = block if least is None else np.minimum(least, block, out=least)
        assert least is not None, "there is a kind of row"
        np.maximum(both[some], least.max(axis=1), out=both[some])
