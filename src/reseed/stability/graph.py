"""The shared pairs of all pairs of runs as one graph of arrays, and how far they compose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reseed.errors import SpecError

Integers = NDArray[np.int64]

Floats = NDArray[np.float64]

Booleans = NDArray[np.bool_]

_AT_ONCE = 2**18
"""Edges whose partners are compared at a time."""


class Graph(NamedTuple):
    """Latents of M runs as nodes, numbered run by run; shared pairs as edges."""

    runs: list[str]
    """in order of their names"""
    first: Integers
    """[M + 1] first node of each run, and how many nodes there are"""
    low: Integers
    """[E] the end of each edge with the lower number"""
    high: Integers
    """[E] the other end"""
    similarity: Floats
    """[E]"""
    partner: NDArray[np.int32]
    """[nodes, M] latent of each run that a node is paired with, -1 for none"""

    def run_of(self, nodes: Integers) -> Integers:
        """Place in `runs` of the run of each node."""
        return np.searchsorted(self.first, nodes, side="right") - 1


def graph_of(edges: pl.DataFrame) -> Graph:
    """Make a graph of shared pairs.

    Args:
        edges: columns run_a, latent_a, run_b, latent_b, similarity; for every two runs one to one.
    """
    ends = [edges[f"run_{end}"].cast(pl.String) for end in "ab"]
    runs = sorted(set(ends[0].unique()) | set(ends[1].unique()))
    codes = [end.cast(pl.Enum(runs)).to_physical().to_numpy().astype(np.int64) for end in ends]
    latents = [edges[f"latent_{end}"].to_numpy().astype(np.int64) for end in "ab"]
    sizes = np.zeros(len(runs), np.int64)
    for code, latent in zip(codes, latents, strict=True):
        np.maximum.at(sizes, code, latent + 1)
    first = np.concatenate([[0], np.cumsum(sizes)])
    a, b = (first[code] + latent for code, latent in zip(codes, latents, strict=True))
    partner = np.full((first[-1], len(runs)), -1, np.int32)
    partner[a, codes[1]], partner[b, codes[0]] = latents[1], latents[0]
    _check(edges, codes, partner)
    similarity = edges["similarity"].to_numpy().astype(np.float64)
    return Graph(runs, first, np.minimum(a, b), np.maximum(a, b), similarity, partner)


def _check(edges: pl.DataFrame, codes: list[Integers], partner: NDArray[np.int32]) -> None:
    if (codes[0] == codes[1]).any():
        raise SpecError("a shared pair joins two latents of one run; pairs are of different runs")
    if (partner >= 0).sum() != 2 * len(edges):
        raise SpecError(
            f"{len(edges) - int((partner >= 0).sum()) // 2} of {len(edges)} shared pairs give a "
            "latent a second partner in a run; shared pairs must be one to one for every two runs"
        )


def triangle_support(graph: Graph) -> Integers:
    """`[E]` in how many third runs both ends of an edge have the same partner."""
    out = np.zeros(len(graph.low), np.int64)
    for start in range(0, len(out), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        one, other = graph.partner[graph.low[part]], graph.partner[graph.high[part]]
        out[part] = ((one == other) & (one >= 0)).sum(axis=1)
    return out


class Consistency(NamedTuple):
    """How far shared pairs of different runs compose."""

    chains: int
    """chains a-b-c over three runs"""
    closed: int
    """of these, closed by a-c; a triangle counts once for each of its three chains"""
    edges: int
    """shared pairs"""
    in_triangle: int
    """of these, in at least one closed triangle"""
    in_consistent: int
    """of these, in a connected component with at most one latent of each run, where chains of any
    length compose"""


def consistency(graph: Graph) -> Consistency:
    """Count closed triangles, and edges from which no chain leads to a second latent of a run."""
    degree = (graph.partner >= 0).sum(axis=1)
    support = triangle_support(graph)
    component = components(graph)
    place = component * len(graph.runs) + graph.run_of(np.arange(len(component)))
    twice = np.bincount(place, minlength=(component.max(initial=-1) + 1) * len(graph.runs)) > 1
    torn: Booleans = np.any(twice.reshape(-1, max(len(graph.runs), 1)), axis=1)
    return Consistency(
        chains=int((degree * (degree - 1) // 2).sum()),
        closed=int(support.sum()),
        edges=len(support),
        in_triangle=int((support > 0).sum()),
        in_consistent=int((~torn[component[graph.low]]).sum()),
    )


def components(graph: Graph) -> Integers:
    """`[nodes]` number of the connected component of each node."""
    nodes = int(graph.first[-1])
    ones = np.ones(len(graph.low), np.int8)
    links = coo_array((ones, (graph.low, graph.high)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1].astype(np.int64)


Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finds:
    """Of one run, seen as the base of a star."""

    run: str
    others: tuple[str, ...]
    """independent runs, see `reseed.stability.intervals`"""
    matched: NDArray[np.bool_]
    """`[F, T]` whether a latent is shared with each of them"""

    def without(self, left: set[str]) -> Finds:
        """The same where some of the other runs were not there."""
        keep = [place for place, other in enumerate(self.others) if other not in left]
        others = tuple(self.others[place] for place in keep)
        return Finds(run=self.run, others=others, matched=self.matched[:, keep])


def finds(edges: pl.DataFrame, pairs: Sequence[Pair], sizes: Mapping[str, int]) -> dict[str, Finds]:
    """Read the shared pairs of latents from the side of each run.

    Args:
        edges: run_a, latent_a, run_b, latent_b.
        pairs: of independent runs; edges of others are left out.
        sizes: latents of each run.

    Returns:
        run to its finds, in the order of `sizes`.
    """
    others: dict[str, list[str]] = {run: [] for run in sizes}
    for a, b in pairs:
        others[a].append(b)
        others[b].append(a)
    out = {
        run: Finds(
            run=run,
            others=tuple(others[run]),
            matched=np.zeros((sizes[run], len(others[run])), dtype=bool),
        )
        for run in sizes
    }
    for (a, b), rows in edges.group_by("run_a", "run_b"):
        for mine, other, column in ((str(a), str(b), "latent_a"), (str(b), str(a), "latent_b")):
            if other in out[mine].others:
                latents = rows[column].to_numpy()
                out[mine].matched[latents, out[mine].others.index(other)] = True
    return out
