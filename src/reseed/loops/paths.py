"""Shortest augmenting paths on a sparse assignment with exact prices, compiled by numba.

Dijkstra on reduced costs u_i + v_j - S_ij >= 0, as in Jonker & Volgenant (Computing 38, 1987), with
two ends that a path may have besides a free column: a row may go outside (worth `outside`), and a
free column that still has a price may lose it. With them one solver does square, rectangular and
partial assignments, and can be started from any prices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reseed.loops.bids import Floats, Graph, Integers, State
from reseed.loops.compiled import compiled


class Search(NamedTuple):
    """Room for one search over the columns, used again and again."""

    distance: Floats
    """[m] infinity where not reached"""
    before: Integers
    """[m] row (from rows) or column (from columns) from which it was reached"""
    place: Integers
    """[m] in the heap; -1 not reached, -2 done"""
    heap: Integers
    """[m] columns, nearest first"""
    reached: Integers
    """[m] columns in the order in which they were reached"""
    size: Integers
    """[2] of the heap, of `reached`"""


@compiled
def room(m: int) -> Search:
    """Room for searches over m columns."""
    return Search(
        np.full(m, np.inf),
        np.empty(m, np.int64),
        np.full(m, -1, np.int64),
        np.empty(m, np.int64),
        np.empty(m, np.int64),
        np.zeros(2, np.int64),
    )


@compiled
def nearer(search: Search, j: Any, distance: Any, before: int) -> None:
    """Note a shorter way to a column and move it up in the heap."""
    place, heap, size = search.place, search.heap, search.size
    search.distance[j], search.before[j] = distance, before
    if place[j] == -1:
        search.reached[size[1]] = j
        size[1] += 1
        place[j] = size[0]
        size[0] += 1
    k = place[j]
    while k > 0:
        parent = (k - 1) >> 1
        if search.distance[heap[parent]] <= distance:
            break
        heap[k] = heap[parent]
        place[heap[k]] = k
        k = parent
    heap[k] = j
    place[j] = k


@compiled
def nearest(search: Search) -> int:
    """Take the nearest column out of the heap."""
    place, heap, size, distance = search.place, search.heap, search.size, search.distance
    first = heap[0]
    place[first] = -2
    size[0] -= 1
    if size[0] == 0:
        return first
    last, k = heap[size[0]], 0
    while True:
        child = 2 * k + 1
        if child >= size[0]:
            break
        if child + 1 < size[0] and distance[heap[child + 1]] < distance[heap[child]]:
            child += 1
        if distance[heap[child]] >= distance[last]:
            break
        heap[k] = heap[child]
        place[heap[k]] = k
        k = child
    heap[k] = last
    place[last] = k
    return first


@compiled
def _clear(search: Search) -> None:
    for k in range(search.size[1]):
        j = search.reached[k]
        search.distance[j] = np.inf
        search.place[j] = -1
    search.size[:] = 0


@compiled
def _look_along_row(
    graph: Graph, state: State, search: Search, i: int, distance: float, best: float
) -> tuple[float, int]:
    """Reach the columns of a row; returns the shortest way to a free one, if below `best`."""
    base, end = distance + state.u[i], -1
    for e in range(graph.start[i], graph.start[i + 1]):
        if base - graph.value[e] >= best:
            break
        j = graph.column[e]
        if search.place[j] == -2:
            continue
        there = max(distance, base + state.v[j] - graph.value[e])
        if there >= best:
            continue
        if state.owner[j] < 0:
            best, end = there, j
        elif there < search.distance[j]:
            nearer(search, j, there, i)
    return best, end


@compiled
def _augment(graph: Graph, state: State, search: Search, outside: float, first: int) -> None:
    """Bring one free row in by the shortest path, and move the prices that it needs."""
    u, v, mate, owner = state
    best, last, end = u[first] - outside, first, -1  # at worst `first` stays outside
    i, distance = first, 0.0
    while True:
        shorter, column = _look_along_row(graph, state, search, i, distance, best)
        if column >= 0:
            best, last, end = shorter, i, column
        if search.size[0] == 0 or search.distance[search.heap[0]] >= best:
            break
        j = nearest(search)
        distance, i = search.distance[j], owner[j]
        if distance + u[i] - outside < best:
            best, last, end = distance + u[i] - outside, i, -1
    u[first] -= best
    for k in range(search.size[1]):
        j = search.reached[k]
        if search.place[j] == -2 and search.distance[j] < best:
            v[j] += best - search.distance[j]
            u[owner[j]] -= best - search.distance[j]
    while True:  # back along the path: each row takes the column that led to the next
        left = mate[last]
        mate[last] = end
        if end >= 0:
            owner[end] = last
        if last == first:
            break
        end, last = left, search.before[left]


@compiled
def augment(graph: Graph, state: State, search: Search, outside: float, rows: Integers) -> None:
    """Bring in those of the rows that are free and want a column; room is clear before and after.

    `outside` is the worth of a row without a column; u is at least the best worth of each row, and
    assigned rows are exactly at it.
    """
    for i in rows:
        if state.mate[i] < 0 and state.u[i] > outside:
            _augment(graph, state, search, outside, i)
            _clear(search)


@compiled
def _look_along_column(
    by_column: Graph, state: State, search: Search, j: int, distance: float, best: float
) -> tuple[float, int]:
    """Reach the columns whose rows would rather have j; returns the nearest row that is outside."""
    base, row = distance + state.v[j], -1
    for e in range(by_column.start[j], by_column.start[j + 1]):
        i = by_column.column[e]
        there = max(distance, base + state.u[i] - by_column.value[e])
        if there >= best:
            continue
        k = state.mate[i]
        if k < 0:
            best, row = there, i
        elif search.place[k] != -2 and there < search.distance[k]:
            nearer(search, k, there, j)
    return best, row


@compiled
def _release(by_column: Graph, state: State, search: Search, first: int) -> None:
    """Take the price from one free column, by the shortest path to who can do without one."""
    u, v, mate, owner = state
    best, last, taker = v[first], first, -1  # at worst a column falls to price 0
    nearer(search, first, 0.0, -1)
    while search.size[0] > 0 and search.distance[search.heap[0]] < best:
        j = nearest(search)
        distance = search.distance[j]
        if distance + v[j] < best:
            best, last, taker = distance + v[j], j, -1
        shorter, row = _look_along_column(by_column, state, search, j, distance, best)
        if row >= 0:
            best, last, taker = shorter, j, row
    for k in range(search.size[1]):
        j = search.reached[k]
        if search.place[j] == -2 and search.distance[j] < best:
            v[j] = max(0.0, v[j] - (best - search.distance[j]))
            if owner[j] >= 0:
                u[owner[j]] += best - search.distance[j]
    while True:
        left = owner[last]
        owner[last] = taker
        if taker >= 0:
            mate[taker] = last
        if last == first:
            break
        taker, last = left, search.before[last]


@compiled
def release(by_column: Graph, state: State, search: Search, columns: Integers) -> None:
    """Take the price from those of the columns that are free and have one.

    `by_column` is the graph by columns, its `column` are rows; no row is free and wants a column.
    """
    for j in columns:
        if state.owner[j] < 0 and state.v[j] > 0.0:
            _release(by_column, state, search, j)
            _clear(search)


@compiled
def rise(by_column: Graph, state: State, outside: float) -> Floats:
    """`[m]` how far each price of an optimal assignment can rise, with all others rising along.

    Args:
        by_column: the edges by columns, its `column` are rows.
        state: optimal on them.
        outside: worth of a row without a column.
    """
    search = room(len(state.v))
    for j in range(len(state.v)):
        i = state.owner[j]
        nearer(search, j, state.u[i] - outside if i >= 0 else 0.0, -1)
    while search.size[0] > 0:
        j = nearest(search)
        base = search.distance[j] + state.v[j]
        for e in range(by_column.start[j], by_column.start[j + 1]):
            i = by_column.column[e]
            k = state.mate[i]
            if k < 0 or search.place[k] == -2:
                continue
            there = max(search.distance[j], base + state.u[i] - by_column.value[e])
            if there < search.distance[k]:
                nearer(search, k, there, -1)
    return search.distance


@compiled
def fall(graph: Graph, state: State) -> Floats:
    """`[m]` how far each price of an optimal assignment can fall, with all others falling along.

    Args:
        graph: the edges by rows.
        state: optimal on them.
    """
    u, v, mate, owner = state
    search = room(len(v))
    for j in range(len(v)):
        nearer(search, j, v[j], -1)
    for i in range(len(mate)):
        if mate[i] >= 0:
            continue
        for e in range(graph.start[i], graph.start[i + 1]):
            j = graph.column[e]
            there = max(0.0, u[i] + v[j] - graph.value[e])
            if there < search.distance[j]:
                nearer(search, j, there, -1)
    while search.size[0] > 0:
        k = nearest(search)
        i = owner[k]
        if i < 0:
            continue
        base = search.distance[k] + u[i]
        for e in range(graph.start[i], graph.start[i + 1]):
            j = graph.column[e]
            if search.place[j] == -2:
                continue
            there = max(search.distance[k], base + v[j] - graph.value[e])
            if there < search.distance[j]:
                nearer(search, j, there, -1)
    return search.distance
