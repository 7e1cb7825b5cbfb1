"""Matching with a reject option: pairs that are too unlike are not made.

Maximises Σ (S_ij - lambda) over one-to-one pairs. A pair at or below lambda never helps, so all
pairs above it, found by one pass over the blocks, are all that is needed: the solution is exact
without pricing. Widths may differ and dictionaries may overlap in part.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reseed.errors import SpecError
from reseed.loops import offers
from reseed.loops.bids import State
from reseed.matching import edges as sparse
from reseed.matching.candidates import COLUMNS, ROWS, score
from reseed.matching.edges import Edges, Limits
from reseed.matching.exact import nothing
from reseed.matching.geometry import Geometry, stretches
from reseed.records import Certificate, Match

Integers = NDArray[np.int64]

MOST_PAIRS = 2**28
"""Pairs above lambda that are taken, at most: they take 6 GiB."""


def match_above(
    geometry: Geometry,
    least: float,
    limits: Limits,
    show: Callable[[float], None] | None = None,
) -> Match:
    """The one-to-one pairs with the largest Σ (similarity - least), all above `least`.

    Args:
        geometry: of n x m latents.
        least: lambda.
        limits: of these the tolerance and the time count; the search for pairs is not cut short.
        show: told how many similarities were computed, as they are.

    Returns:
        At most min(n, m) pairs; `primal` and `dual` are sums of similarity - least.

    Raises:
        SpecError: if too many pairs are above `least`.
    """
    started = time.perf_counter()
    edges = pairs_above(geometry, least, show)
    return match_edges(edges, geometry.shape, least, limits, started=started)


def match_edges(
    edges: Edges,
    shape: tuple[int, int],
    least: float,
    limits: Limits,
    *,
    started: float | None = None,
) -> Match:
    """The one-to-one pairs with the largest Σ (similarity - least), of given pairs.

    Args:
        edges: all pairs more similar than `least`; others may be among them and do no harm.
        shape: (n, m).
        least: lambda.
        limits: of these the tolerance and the time count.
        started: `time.perf_counter()` from which the time counts; now if left out.

    Returns:
        As `match_above`.
    """
    started = time.perf_counter() if started is None else started
    above = edges.value > least
    if not above.all():
        edges = Edges(edges.row[above], edges.column[above], edges.value[above])
    gains = Edges(edges.row, edges.column, edges.value - least)
    state = sparse.solve(gains, shape, 0.0, deadline=started + limits.seconds)
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
            solver=sparse.SOLVER,
            edges=len(edges.row),
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ended="proven" if proven else "out of time",
            reject=least,
            largest_component=largest_component(edges, shape),
        ),
    )


def pairs_above(
    geometry: Geometry, least: float, show: Callable[[float], None] | None = None
) -> Edges:
    """All pairs more similar than `least`, with their similarity in float64.

    Raises:
        SpecError: if there are more than `MOST_PAIRS`.
    """
    n, m = geometry.shape
    multiplier = geometry.multiplier(ROWS, COLUMNS)
    limit = np.float32(least - geometry.error)
    room = np.empty(4096, np.int64), np.empty(4096, np.int64)
    found: list[tuple[Integers, Integers]] = []
    total = 0
    for part in stretches(n, ROWS):
        for columns in stretches(m, COLUMNS):
            block = multiplier.block(part, columns)
            count = offers.above(block, limit, *room)
            if count > len(room[0]):
                room = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
                offers.above(block, limit, *room)
            total += count
            _check_number(total, least)
            found.append((room[0][:count] + part.start, room[1][:count] + columns.start))
            (show or nothing)(block.size)
    rows, columns_ = (np.concatenate([one[side] for one in found]) for side in (0, 1))
    values = score(geometry, rows, columns_)
    keep = values > least
    return Edges(rows[keep], columns_[keep], values[keep])


def _check_number(total: int, least: float) -> None:
    if total > MOST_PAIRS:
        raise SpecError(
            f"more than {MOST_PAIRS} pairs are more similar than {least:g}; a reject threshold "
            "this low rejects little: raise it, or match without one"
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
