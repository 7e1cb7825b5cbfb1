"""Prices in the middle of those that prove an assignment, compiled by numba.

Many prices prove the same assignment. Those that auctions and paths end with lie at the edge of
what is possible: whole groups of rows are indifferent, and a pair that was not among the candidates
violates them easily. The middle between the highest and the lowest prices is as good a proof, is
violated by far fewer of the other pairs, and moves less from round to round.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reseed.compiled import compiled
from reseed.matching.auction import Graph, State
from reseed.matching.paths import Search, nearer, nearest, room

Floats = NDArray[np.float64]


@compiled
def _rise(by_column: Graph, state: State, search: Search, outside: float) -> None:
    """How far each price can rise with all others rising along: `search.distance`."""
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


@compiled
def _fall(graph: Graph, state: State, search: Search) -> None:
    """How far each price can fall with all others falling along: `search.distance`."""
    u, v, mate, owner = state
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


@compiled
def centre(graph: Graph, by_column: Graph, state: State, outside: float) -> None:
    """Move the prices of an optimal assignment to the middle of what is possible.

    Args:
        graph: the edges by rows.
        by_column: the same by columns.
        state: optimal on these edges; u and v are changed, and stay a proof.
        outside: worth of a row without a column.
    """
    search = room(len(state.v))
    _rise(by_column, state, search, outside)
    rise = search.distance.copy()
    search.distance[:], search.place[:], search.size[:] = np.inf, -1, 0
    _fall(graph, state, search)
    for j in range(len(state.v)):
        move = (rise[j] - search.distance[j]) / 2
        state.v[j] = max(0.0, state.v[j] + move)
        if state.owner[j] >= 0:
            state.u[state.owner[j]] -= move
