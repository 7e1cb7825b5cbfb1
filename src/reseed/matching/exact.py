"""The best one-to-one assignment of dictionaries of any size, with a proof, without the matrix.

The prices of the best assignment on a few candidates bound what any assignment reaches (see
`assignment`), once every other pair is known not to beat them:

1. one pass over the blocks takes in the best pairs of every row and column;
2. the sparse problem is solved exactly and gives prices;
3. a pass at these prices, over the blocks that the bounds of earlier passes leave open, takes in
   the pairs that violate them and those that nearly do;
4. unless nothing was violated, go to 2. The solver goes on from where it was.

A row that its candidates leave without a column stays outside, which is worse than any pair, and
then every free column violates its price: a graph without a perfect matching mends itself.

Matching with a reject option: pairs that are too unlike are not made.

Maximises Σ (S_ij - lambda) over one-to-one pairs. A pair at or below lambda never helps, so all
pairs above it, found by one pass over the blocks, are all that is needed: the solution is exact
without pricing. Widths may differ and dictionaries may overlap in part.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reseed.errors import SpecError
from reseed.loops import offers
from reseed.loops.bids import State
from reseed.matching import candidates, sparse
from reseed.matching.blocks.multiplier import Multiplier
from reseed.matching.blocks.passes import COLUMNS, ROWS
from reseed.matching.candidates import OutOfTime, Pool
from reseed.matching.entries import BothNearest, from_pairs, score
from reseed.matching.geometry import Geometry, Integers, Limits, stretches
from reseed.matching.sparse import Edges, match_edges
from reseed.records import Certificate, Match

OUTSIDE = -1.001
"""Worth of a row without a column: below every similarity, so that none stays outside for good."""

ROOM = 24
"""Pairs that the first pass takes in for each row and each column, at least."""


def nothing(_: float) -> None:
    """Progress that nobody sees."""


def exact(
    geometry: Geometry,
    limits: Limits,
    show: Callable[[float], None] | None = None,
) -> Match:
    """The assignment with the largest summed similarity, and its certificate.

    Out of rounds or time the best found is returned, not as optimal. `show` is told how many
    entries were multiplied, as they are.
    """
    return _record(_solved(geometry, limits, show))


def exact_and_nearest(
    geometry: Geometry, show: Callable[[float], None] | None = None
) -> tuple[Match, BothNearest]:
    """The best assignment and, from the same pass over the blocks, the nearest neighbours."""
    solve = _solved(geometry, Limits(), show)
    row, column, value = solve.pool.edges
    nearest = from_pairs(row, column, value, solve.pool.geometry.shape)
    return _record(solve), BothNearest(nearest.columns, nearest.rows) if solve.flip else nearest


def _solved(geometry: Geometry, limits: Limits, show: Callable[[float], None] | None) -> _Solve:
    solve = _Solve(geometry, limits, show or nothing)
    solve.run()
    return solve


def _record(solve: _Solve) -> Match:
    mate, similarity = solve.best_mate, solve.best_values
    pairs = np.stack([np.arange(len(mate)), mate], axis=1)
    if solve.flip:
        order = np.argsort(mate)
        pairs, similarity = np.ascontiguousarray(pairs[order][:, ::-1]), similarity[order]
    tolerance = solve.tolerance
    gap = solve.dual - solve.primal
    n, m = solve.pool.geometry.shape
    return Match(
        pairs=pairs,
        similarity=similarity,
        primal=solve.primal,
        dual=solve.dual,
        gap=gap,
        tolerance=tolerance,
        optimal=gap <= tolerance,
        certificate=Certificate(
            solver=sparse.SOLVER,
            rounds=solve.rounds,
            edges=len(solve.pool.keys),
            ties=solve.ties(),
            products=solve.pool.multiplied / (n * m),
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            ended=solve.ended,
        ),
        seconds=time.perf_counter() - solve.started,
    )


class _Solve:
    """One assignment under way; n <= m."""

    def __init__(self, geometry: Geometry, limits: Limits, show: Callable[[float], None]) -> None:
        self.started = time.perf_counter()
        self.flip = geometry.shape[0] > geometry.shape[1]
        geometry = geometry.swapped() if self.flip else geometry
        n, _ = geometry.shape
        self.pool, self.limits, self.show = Pool(geometry), limits, show
        self.deadline = self.started + limits.seconds
        self.rounds, self.ended = 0, "proven"
        self.state: State | None = None
        # until anything is known: cosines are at most 1, and any assignment is one
        self.dual = float(n)
        self.best_mate = np.arange(n)
        self.best_values = score(geometry, self.best_mate, self.best_mate)
        self.primal = float(self.best_values.sum())

    def run(self) -> None:
        try:
            candidates.first_pass(self.pool, ROOM, self.deadline, self.show)
            while not self._round():
                if self.rounds >= self.limits.rounds:
                    self.ended = "out of rounds"
                    return
        except OutOfTime:
            self.ended = "out of time"

    def _round(self) -> bool:
        """Solve on the candidates, price all others; returns whether the gap is small enough."""
        geometry = self.pool.geometry
        self.state = sparse.solve(
            self.pool.edges, geometry.shape, OUTSIDE, before=self.state, deadline=self.deadline
        )
        self.rounds += 1
        self._complete(self.state.mate)
        if time.perf_counter() > self.deadline:
            raise OutOfTime
        v = np.maximum(self.state.v, 0.0)
        u = self.pool.worth(v)
        candidates.price_pass(self.pool, u, v, ROOM, self.deadline, self.show)
        self.dual = min(self.dual, float(self.pool.worth(v).sum() + v.sum()))
        return self.dual - self.primal <= self.tolerance

    @property
    def tolerance(self) -> float:
        """Largest gap to be called optimal."""
        return self.limits.tolerance * max(1.0, abs(self.primal))

    def _complete(self, mate: Integers) -> None:
        """Take an assignment if it is the best so far; rows without a column get a free one."""
        mate = mate.copy()
        free = np.ones(self.pool.geometry.shape[1], dtype=bool)
        free[mate[mate >= 0]] = False
        mate[mate < 0] = np.flatnonzero(free)[: (mate < 0).sum()]
        values = score(self.pool.geometry, np.arange(len(mate)), mate)
        if values.sum() >= self.primal:
            self.primal = float(values.sum())
            self.best_mate, self.best_values = mate, values

    def ties(self) -> int | None:
        """See `Certificate.ties`; unknown unless the end was proven."""
        if self.ended != "proven" or self.state is None:
            return None
        count = ties(self.pool.edges, self.state, self.pool.geometry.shape)
        # pairs that were left out can only add ties
        return None if self.pool.cut and not count else count


TIGHT = 1e-10
"""Reduced cost below which a pair counts as just as good."""


def ties(edges: Edges, state: State, shape: tuple[int, int]) -> int:
    """Rows that another assignment, no worse, pairs differently.

    A row may exchange along pairs of reduced cost 0. Those exchanges that close (through the
    columns left free, where there are some) make other optimal assignments. Of `edges`, all that
    may have reduced cost 0, and a proven state with n <= m.
    """
    n, _ = shape
    cost = state.u[edges.row] + state.v[edges.column] - edges.value
    tight = (cost <= TIGHT) & (state.mate[edges.row] != edges.column)
    row, column = edges.row[tight], edges.column[tight]
    owner = state.owner[column]
    # node n stands for all free columns: a row may move there, and one without a price may be left
    to = np.where(owner >= 0, owner, n)
    mates = np.maximum(state.mate, 0)
    leaves = np.flatnonzero((state.mate >= 0) & (state.v[mates] <= TIGHT))
    row, to = np.concatenate([row, np.full(len(leaves), n)]), np.concatenate([to, leaves])
    graph = csr_array((np.ones(len(row), np.int8), (row, to)), shape=(n + 1, n + 1))
    _, component = connected_components(graph, directed=True, connection="strong")
    size = np.bincount(component)[component[:n]]
    return int((size > 1).sum())


MOST_PAIRS = 2**28
"""Pairs above lambda that are taken, at most: they take 6 GiB."""


def match_above(
    geometry: Geometry,
    least: float,
    limits: Limits,
    show: Callable[[float], None] | None = None,
) -> Match:
    """The one-to-one pairs with the largest Σ (similarity - least), all above `least`.

    At most min(n, m) pairs; `primal` and `dual` are sums of similarity - least. Of the limits the
    tolerance and the time count; the search for pairs is not cut short.
    """
    started = time.perf_counter()
    edges = pairs_above(geometry, least, show)
    return match_edges(edges, geometry.shape, least, limits, started=started)


def pairs_above(
    geometry: Geometry, least: float, show: Callable[[float], None] | None = None
) -> Edges:
    """All pairs more similar than `least`, with their similarity in float64."""
    pairs: list[tuple[Integers, Integers]] = []
    total = 0
    for found in _found_above(geometry, np.float32(least - geometry.error), show or nothing):
        total += len(found[0])
        _check_number(total, least)
        pairs.append(found)
    rows, columns_ = (
        np.concatenate([block_pairs[side] for block_pairs in pairs]) for side in (0, 1)
    )
    values = score(geometry, rows, columns_)
    keep = values > least
    return Edges(rows[keep], columns_[keep], values[keep])


def _found_above(
    geometry: Geometry, limit: np.float32, show: Callable[[float], None]
) -> Iterator[tuple[Integers, Integers]]:
    """Rows and columns of what may be above a limit, some at a time."""
    if (products := geometry.products()) is not None:
        from reseed.loops.gpu_offers import above

        yield from above(products, limit, show)
        return
    (n, m), multiplier = geometry.shape, Multiplier(geometry, ROWS, COLUMNS)
    room = np.empty(4096, np.int64), np.empty(4096, np.int64)
    for part in stretches(n, ROWS):
        for columns in stretches(m, COLUMNS):
            block = multiplier.uppers(part, columns)
            count = offers.above(block, limit, *room)
            if count > len(room[0]):
                room = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
                offers.above(block, limit, *room)
            yield room[0][:count] + part.start, room[1][:count] + columns.start
            show(block.size)


def _check_number(total: int, least: float) -> None:
    if total > MOST_PAIRS:
        raise SpecError(
            f"more than {MOST_PAIRS} pairs are more similar than {least:g}; a reject threshold "
            "this low rejects little: raise it, or match without one"
        )
