"""How far an optimal assignment is from being the only one."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from reseed.matching.auction import State
from reseed.matching.sparse import Edges

TIGHT = 1e-10
"""Reduced cost below which a pair counts as just as good."""


def ties(edges: Edges, state: State, shape: tuple[int, int]) -> int:
    """Rows that another assignment, no worse, pairs differently.

    A row may exchange along pairs of reduced cost 0. Those exchanges that close (through the
    columns left free, where there are some) make other optimal assignments.

    Args:
        edges: all that may have reduced cost 0.
        state: proven optimal; n <= m.
        shape: (n, m).
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
