"""Latents of several runs that are one feature.

The shared pairs of all pairs of runs are one graph. The best families over three or more runs are a
multi-marginal assignment, which is NP-hard. Here they grow greedily from shared pairs: those that
close the most triangles first, then the most similar; two families join unless that would put two
latents of one run into one family. How much similarity this keeps stands beside an upper bound
(`within`).
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reseed.errors import SpecError
from reseed.spec.statistics import Families, FoundInN, Similarity, Stars
from reseed.stability.group import family_occasions

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

_WORTH_COMPILING = 50_000
"""Pairs from which the compiled loop is faster, its compilation included."""

_RUNS_A_WORD = 62

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
    """The graph of shared pairs, given as for `families`."""
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
        low, high = graph.partner[graph.low[part]], graph.partner[graph.high[part]]
        out[part] = ((low == high) & (low >= 0)).sum(axis=1)
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
    torn: NDArray[np.bool_] = np.any(twice.reshape(-1, max(len(graph.runs), 1)), axis=1)
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


def families(edges: pl.DataFrame) -> pl.DataFrame:
    """Join shared pairs into families with at most one latent of each run.

    Pairs are taken in order of how many triangles they are in, then of their similarity, then of
    their latents' numbers. A pair that would put two latents of one run into one family is left out
    (the pairwise matches then contradict each other). Other names of runs and other numbers of
    latents change nothing but names, unless pairs tie in both.

    Args:
        edges: columns run_a, latent_a, run_b, latent_b, similarity; for every two runs one to one.

    Returns:
        family (numbered from the largest), run, latent, size; latents without a shared pair are not
        in it.
    """
    graph = graph_of(edges)
    root = family_roots(graph)
    size = np.bincount(root, minlength=len(root))[root]
    nodes = np.flatnonzero(size > 1)
    # a root is the lowest node of its family, so this numbers by size, then by the first member
    order = np.lexsort((nodes, root[nodes], -size[nodes]))
    nodes = nodes[order]
    new = np.diff(root[nodes], prepend=-1) != 0
    run = graph.run_of(nodes)
    return pl.DataFrame(
        {
            "family": np.cumsum(new) - 1,
            "run": pl.Series(graph.runs, dtype=pl.String).gather(run),
            "latent": nodes - graph.first[run],
            "size": size[nodes],
        },
        schema={"family": pl.Int64, "run": pl.String, "latent": pl.Int64, "size": pl.Int64},
    )


def family_roots(graph: Graph) -> Integers:
    """`[nodes]` the lowest node of the family of each node; itself where it has none."""
    order = np.lexsort((graph.high, graph.low, -graph.similarity, -triangle_support(graph)))
    nodes, runs = len(graph.partner), len(graph.runs)
    parent = np.arange(nodes)
    run = graph.run_of(parent)
    seats = np.zeros((nodes, runs // _RUNS_A_WORD + 1), np.int64)
    seats[parent, run // _RUNS_A_WORD] = 1 << (run % _RUNS_A_WORD)
    _joiner(len(order))(graph.low[order], graph.high[order], parent, seats)
    while (parent != parent[parent]).any():
        parent = parent[parent]
    return parent


def _joiner(edges: int) -> Any:
    if edges < _WORTH_COMPILING or importlib.util.find_spec("numba") is None:
        return join
    from reseed.loops.compiled import compiled

    return compiled(join)


def join(low: Integers, high: Integers, parent: Integers, seats: Integers) -> None:
    """Join the families of the two ends of each edge in turn unless they share a run.

    Written to be compiled; it runs without, more slowly. Roots are found with path halving, and the
    lower root stays, so that no order of the edges changes which node names a family.

    Changed in place: `parent`, `[nodes]`, itself at first; a root is its family's lowest node. And
    `seats`, `[nodes, words]`, bits of the runs in the family of each root.
    """
    for edge in range(len(low)):
        a, b = low[edge], high[edge]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        clash = a == b
        for word in range(seats.shape[1]):
            clash = clash or (seats[a, word] & seats[b, word]) != 0
        if clash:
            continue
        if b < a:
            a, b = b, a
        parent[b] = a
        for word in range(seats.shape[1]):
            seats[a, word] |= seats[b, word]


class Within(NamedTuple):
    """How much of the similarity of all shared pairs lies inside families.

    Every choice of families with at most one latent a run takes from each two runs a one-to-one set
    of shared pairs, so it cannot keep more than all of them: the sum over pairs of runs of their
    optimum is a bound for the whole. It counts similarity of shared pairs only; two latents of a
    family that are not a shared pair add nothing.
    """

    bound: float
    """summed similarity of all shared pairs"""
    reached: float
    """of those inside families"""
    edges: int
    """shared pairs inside families"""

    @property
    def gap(self) -> float:
        """What the best families could have more at the most."""
        return self.bound - self.reached


def within(graph: Graph, root: Integers) -> Within:
    """What families, by the root of each node, keep of the similarity of all shared pairs."""
    inside = root[graph.low] == root[graph.high]
    kept = float(graph.similarity[inside].sum())
    return Within(float(graph.similarity.sum()), kept, int(inside.sum()))


def family_summary(latents: pl.DataFrame, edges: pl.DataFrame) -> Families:
    """The numbers on families of a group, from its table of latents and its shared pairs."""
    graph = graph_of(edges)
    kept, composed = within(graph, family_roots(graph)), consistency(graph)
    sizes = latents.drop_nulls("family").unique("family")["family_size"].value_counts()
    return Families(
        by_size={str(size): int(n) for size, n in sizes.sort("family_size").iter_rows()},
        orphans=int(latents["family"].null_count()),
        triangle_chains=composed.chains,
        triangle_closure=composed.closed / composed.chains if composed.chains else None,
        edges=composed.edges,
        edges_in_triangle=composed.in_triangle,
        edges_in_consistent=composed.in_consistent,
        edges_in_family=kept.edges,
        similarity=Similarity(bound=kept.bound, reached=kept.reached, gap=kept.gap),
        n_of_m=counts(latents),
    )


def counts(latents: pl.DataFrame) -> FoundInN:
    """Latents found in exactly n of the m runs, by families (n = 1 for orphans) and by stars.

    Of crossed seeds a family counts the runs of which no two share a seed. A star counts from one
    run the others in which a latent is shared; it depends on the run it starts from and ignores
    whether the others agree among themselves.
    """
    runs = latents["run"].n_unique()
    size = latents["family_size"].fill_null(1).to_numpy()
    if "family" in latents.columns:
        apart = family_occasions(latents)
        found = latents.join(apart, on="family", how="left", maintain_order="left")["occasions"]
        size = found.fill_null(1).to_numpy()
    stars = np.stack(
        [
            np.bincount(of_run["n_matched"].to_numpy(), minlength=runs)[:runs]
            for of_run in latents.partition_by("run", maintain_order=True)
        ]
    )
    ends = {"lo": stars.min(axis=0).tolist(), "hi": stars.max(axis=0).tolist()}
    return FoundInN(
        by_family=(np.bincount(size, minlength=runs + 1)[1 : runs + 1] / runs).tolist(),
        by_star=Stars(mean=stars.mean(axis=0).tolist(), **ends),
    )
