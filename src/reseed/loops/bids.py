"""Bids that bring the prices of a sparse assignment near the best ones, compiled by numba.

Bertsekas' forward auction with epsilon scaling (Ann. Oper. Res. 14, 1988); `paths` does the rest.
Rows hold their edges from the best down and prices are never negative, so a look at a row ends
early.

Every row may also stay outside, which is worth `outside` to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops.compiled import compiled

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

Short = NDArray[np.int32]


class Graph(NamedTuple):
    """Edges of a sparse assignment by rows; bids and paths want them as `best_first` puts them."""

    start: Integers
    """[n + 1] where the edges of each row begin"""
    column: Short
    """[E]"""
    value: Floats
    """[E]"""


class State(NamedTuple):
    """An assignment under way: prices and who has whom, changed in place."""

    u: Floats
    """[n] what each row gets"""
    v: Floats
    """[m] price of each column, >= 0"""
    mate: Integers
    """[n] column of each row, -1 outside or not yet"""
    owner: Integers
    """[m] row of each column, or -1"""


_SHORT = 256
"""Edges of a group up to which counting those before each is faster than sorting."""


@compiled
def gathered(
    groups: int, keys: Integers, others: Integers, values: Floats
) -> tuple[Integers, Short, Floats]:
    """Edges gathered by one end, in each group as they come.

    Args:
        groups: how many there are.
        keys: `[E]` group of each edge.
        others: `[E]` its other end.
        values: `[E]`.

    Returns:
        `[groups + 1]` where each group begins, `[E]` other ends, `[E]` values.
    """
    start = np.zeros(groups + 1, np.int64)
    for key in keys:
        start[key + 1] += 1
    start = np.cumsum(start)
    fill = start[:-1].copy()
    other, value = np.empty(len(keys), np.int32), np.empty(len(keys))
    for e in range(len(keys)):
        at = fill[keys[e]]
        other[at], value[at] = others[e], values[e]
        fill[keys[e]] += 1
    return start, other, value


@compiled
def best_first(graph: Graph, low: int, high: int) -> None:
    """Put the edges of some rows in order, from the largest value down; equals as they come.

    Args:
        graph: changed in place.
        low: first of the rows.
        high: one past the last.
    """
    for i in range(low, high):
        first, last = graph.start[i], graph.start[i + 1]
        column, value = graph.column[first:last], graph.value[first:last]
        old, old_value = column.copy(), value.copy()
        if last - first > _SHORT:
            order = np.argsort(-old_value, kind="mergesort")
            column[:], value[:] = old[order], old_value[order]
            continue
        for e in range(last - first):
            x, place = old_value[e], 0
            for other_value in old_value:
                place += other_value > x
            for k in range(e):
                place += old_value[k] == x
            column[place], value[place] = old[e], x


@compiled
def best_two(
    graph: Graph, v: Floats, floor: float, outside: float, i: int
) -> tuple[int, float, float]:
    """The best column of a row at these prices, and what the two best give it.

    Args:
        graph: the edges.
        v: prices.
        floor: no price is below it.
        outside: worth of having no column.
        i: the row.

    Returns:
        Best column or -1 for outside, its worth, that of the second.
    """
    first, most, next_ = -1, outside, outside
    for e in range(graph.start[i], graph.start[i + 1]):
        if first >= 0 and graph.value[e] - floor <= next_:
            break
        j = graph.column[e]
        worth = graph.value[e] - v[j]
        if worth > most:
            first, most, next_ = j, worth, most
        elif worth > next_:
            next_ = worth
    return first, most, next_


@compiled
def settle(graph: Graph, state: State, outside: float, slack: float) -> int:
    """Set u to the best worth of each row, and free rows that have less than that.

    Args:
        graph: the edges.
        state: changed in place.
        outside: worth of having no column.
        slack: how much less a row may have and keep its column.

    Returns:
        How many rows are free and want a column.
    """
    u, v, mate, owner = state
    free = 0
    for i in range(len(mate)):
        most, own = outside, -np.inf
        for e in range(graph.start[i], graph.start[i + 1]):
            j = graph.column[e]
            worth = graph.value[e] - v[j]
            if worth > most:
                most = worth
            if j == mate[i]:
                own = worth
        u[i] = most
        if mate[i] >= 0 and own < most - slack:
            owner[mate[i]] = -1
            mate[i] = -1
        free += mate[i] < 0 and most > outside
    return free


@compiled
def bid(graph: Graph, state: State, outside: float, step: float, most_bids: int) -> int:
    """Let free rows bid, each raise by `step` more than needed, until none wants a column.

    Args:
        graph: the edges.
        state: changed in place.
        outside: worth of having no column.
        step: epsilon; afterwards every row is within it of its best.
        most_bids: where to stop; the state is then still sound, with rows left free.

    Returns:
        How many bids there were.
    """
    v, mate, owner = state.v, state.mate, state.owner
    settle(graph, state, outside, step)
    waiting = np.flatnonzero(mate < 0)[::-1].copy()
    top, bids, floor = len(waiting), 0, v.min()
    while top > 0 and bids < most_bids:
        top -= 1
        i = waiting[top]
        bids += 1
        j, most, next_ = best_two(graph, v, floor, outside, i)
        if j < 0:
            continue
        v[j] += most - next_ + step
        loser = owner[j]
        owner[j], mate[i] = i, j
        if loser >= 0:
            mate[loser] = -1
            waiting[top] = loser
            top += 1
    return bids
