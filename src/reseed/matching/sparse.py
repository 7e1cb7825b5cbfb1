"""The best one-to-one assignment on a sparse set of pairs: an auction, then shortest paths."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reseed.loops import bids, paths
from reseed.loops.bids import Graph, State
from reseed.matching.geometry import Floats, Integers, Limits, in_parts
from reseed.records import Certificate, Match

SOLVER = "auction and shortest paths (numba)"

STEPS = (1e-2, 1e-3, 1e-4)
"""Epsilons of the auction from scratch; measured best of a few schedules at 4,096 and 16,384. Row
reduction after it (Jonker and Volgenant) took longer than the paths that it saved."""

WARM_STEPS = (1e-3, 1e-4)

_BIDS = 50
"""Bids for each row in one step after which shortest paths take over."""

_AT_ONCE = 1_024
"""Rows put in order by one thread, or brought in between looks at the clock."""

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
    graph = Graph(*bids.gathered(n, *edges))
    in_parts(n, lambda some: bids.best_first(graph, some.start, some.stop), _AT_ONCE)
    state = before or State(
        np.zeros(n), np.zeros(m), np.full(n, -1, np.int64), np.full(m, -1, np.int64)
    )
    free = bids.settle(graph, state, outside, _SLACK)
    # with columns to spare high prices of earlier steps would only have to be taken back
    steps = STEPS if n == m else STEPS[1:]
    if before is not None:
        steps = WARM_STEPS if free > n // 50 else ()
    for step in steps:
        if time.perf_counter() < deadline:
            bids.bid(graph, state, outside, step, _BIDS * n)
    if steps:
        bids.settle(graph, state, outside, _SLACK)
    by_column = Graph(*bids.gathered(m, edges.column, edges.row, edges.value))
    if _finish(graph, by_column, state, outside, deadline):
        _centre(graph, by_column, state, outside)
    return state


def _centre(graph: Graph, by_column: Graph, state: State, outside: float) -> None:
    """Move the prices of an optimal assignment to the middle of what is possible.

    Prices at the edge are a proof as well, but a pair that was no candidate violates them easily.
    """
    if len(state.v) <= _AT_ONCE:  # starting a thread takes longer
        rise, fall = paths.rise(by_column, state, outside), paths.fall(graph, state)
    else:
        with ThreadPoolExecutor(1) as other:
            rising = other.submit(paths.rise, by_column, state, outside)
            fall = paths.fall(graph, state)
            rise = rising.result()
    move = (rise - fall) / 2
    state.v[:] = np.maximum(0.0, state.v + move)
    owned = state.owner >= 0
    state.u[state.owner[owned]] -= move[owned]


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


def match_edges(
    edges: Edges,
    shape: tuple[int, int],
    least: float,
    limits: Limits,
    *,
    started: float | None = None,
) -> Match:
    """The one-to-one pairs with the largest Σ (similarity - least), of given pairs.

    `edges` are all pairs more similar than `least`; others may be among them and do no harm. Of
    the limits the tolerance and the time count, from `started` on.
    """
    started = time.perf_counter() if started is None else started
    above = edges.value > least
    if not above.all():
        edges = Edges(edges.row[above], edges.column[above], edges.value[above])
    gains = Edges(edges.row, edges.column, edges.value - least)
    state = solve(gains, shape, 0.0, deadline=started + limits.seconds)
    return _record(edges, shape, least, limits.tolerance, state, started)


def _record(
    edges: Edges,
    shape: tuple[int, int],
    least: float,
    relative: float,
    state: State,
    started: float,
) -> Match:
    made = np.flatnonzero(state.mate[edges.row] == edges.column)
    made = made[np.argsort(edges.row[made])]
    pairs = np.stack([edges.row[made], edges.column[made]], axis=1)
    similarity = edges.value[made]
    primal = float((similarity - least).sum())
    v = np.maximum(state.v, 0.0)
    worth = np.zeros(shape[0])
    np.maximum.at(worth, edges.row, edges.value - least - v[edges.column])
    dual = float(worth.sum() + v.sum())
    tolerance = relative * max(1.0, abs(primal))
    proven = dual - primal <= tolerance
    return Match(
        pairs=pairs,
        similarity=similarity,
        primal=primal,
        dual=dual,
        gap=dual - primal,
        tolerance=tolerance,
        optimal=proven,
        seconds=time.perf_counter() - started,
        certificate=Certificate(
            solver=SOLVER,
            edges=len(edges.row),
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ended="proven" if proven else "out of time",
            reject=least,
            largest_component=largest_component(edges, shape),
        ),
    )


def largest_component(edges: Edges, shape: tuple[int, int]) -> int:
    """Latents of the largest group that is connected by these pairs."""
    n, m = shape
    if not len(edges.row):
        return 0
    graph = csr_array(
        (np.ones(len(edges.row), np.int8), (edges.row, edges.column + n)), shape=(n + m, n + m)
    )
    return int(np.bincount(connected_components(graph, directed=False)[1]).max())
