"""When an exact assignment stops."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.loops import bids, offers, paths
from reseed.loops.bids import Graph, State
from reseed.loops.paths import centre


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop."""

    tolerance: float = 1e-9
    """largest gap to be called optimal, relative to the objective (at least to 1)"""
    rounds: int = 50
    """solves of the sparse problem"""
    seconds: float = float("inf")
    """wall time"""


Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

SOLVER = "auction and shortest paths (numba)"

STEPS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Epsilons of the auction from scratch; measured best of a few schedules at 16,384."""

WARM_STEPS = (1e-3, 1e-4)

_PASSES = 3

_BIDS = 50
"""Bids for each row in one step after which shortest paths take over."""

_AT_ONCE = 4_096
"""Rows brought in between looks at the clock."""

_SLACK = 1e-13


class Edges(NamedTuple):
    """A sparse set of pairs with their similarity, each pair once."""

    row: Integers
    column: Integers
    value: Floats


def solve(
    edges: Edges,
    shape: tuple[int, int],
    outside: float,
    *,
    before: State | None = None,
    deadline: float = np.inf,
) -> State:
    """Maximise the value of the pairs, plus `outside` for each row without one.

    Args:
        edges: that may be used.
        shape: (n, m).
        outside: worth of a row without a column; a column without a row is worth 0.
        before: where an earlier solve on fewer edges ended; changed in place.
        deadline: `time.perf_counter()` at which to stop, with whatever pairs there are by then.

    Returns:
        Unless stopped the best on these edges: u_i + v_j >= S_ij on every edge, equal on pairs;
        v_j = 0 on free columns, u_i = outside on rows without a column.
    """
    n, m = shape
    graph = Graph(*offers.grouped(n, *edges))
    state = before or State(
        np.zeros(n), np.zeros(m), np.full(n, -1, np.int64), np.full(m, -1, np.int64)
    )
    free = bids.settle(graph, state, outside, _SLACK)
    # with columns to spare high prices of earlier steps would only have to be taken back
    steps = STEPS if n == m else STEPS[2:]
    if before is not None:
        steps = WARM_STEPS if free > n // 50 else ()
    for step in steps:
        if time.perf_counter() < deadline:
            bids.bid(graph, state, outside, step, _BIDS * n)
    if steps:
        bids.settle(graph, state, outside, 0.0)
    bids.reduce_rows(graph, state, outside, _PASSES)
    bids.settle(graph, state, outside, _SLACK)
    by_column = Graph(*offers.grouped(m, edges.column, edges.row, edges.value))
    if _finish(graph, by_column, state, outside, deadline):
        centre(graph, by_column, state, outside)
    return state


def _finish(graph: Graph, by_column: Graph, state: State, outside: float, deadline: float) -> bool:
    """Make an assignment best by shortest paths; returns whether there was time to."""
    search = paths.room(len(state.v))
    for some in _parts(np.flatnonzero((state.mate < 0) & (state.u > outside))):
        if time.perf_counter() > deadline:
            return False
        paths.augment(graph, state, search, outside, some)
    for some in _parts(np.flatnonzero((state.owner < 0) & (state.v > 0))):
        if time.perf_counter() > deadline:
            return False
        paths.release(by_column, state, search, some)
    return True


def _parts(which: Integers) -> list[Integers]:
    return [which[low : low + _AT_ONCE] for low in range(0, len(which), _AT_ONCE)]
