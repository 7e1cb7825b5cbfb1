"""Latents of several runs that are one feature.

The best families over three or more runs are a multi-marginal assignment, which is NP-hard. Here
they grow greedily from shared pairs: those that close the most triangles first, then the most
similar; two families join unless that would put two latents of one run into one family. How much
similarity this keeps stands beside an upper bound (`within`).
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.stability.graph import Consistency, Graph, consistency, graph_of, triangle_support

Integers = NDArray[np.int64]

_WORTH_COMPILING = 50_000
"""Pairs from which the compiled loop is faster, its compilation included."""
_RUNS_A_WORD = 62


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

    Written to be compiled; it runs without, more slowly.

    Args:
        low: `[E]` nodes.
        high: `[E]` nodes.
        parent: `[nodes]` itself at first; changed in place. A root is its family's lowest node.
        seats: `[nodes, words]` bits of the runs in the family of each root; changed in place.
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


def within(graph: Graph, root: Integers) -> Within:
    """What families keep of the similarity of all shared pairs.

    Args:
        graph: of the shared pairs.
        root: from `family_roots`.
    """
    inside = root[graph.low] == root[graph.high]
    kept = float(graph.similarity[inside].sum())
    return Within(float(graph.similarity.sum()), kept, int(inside.sum()))


def triangles(edges: pl.DataFrame) -> tuple[int, int]:
    """How many chains a-b-c over three runs there are, and how many are closed by a-c.

    Args:
        edges: as for `families`.

    Returns:
        Chains, closed chains. A triangle counts once for each of its three chains.
    """
    found = consistency(graph_of(edges))
    return found.chains, found.closed


def family_summary(latents: pl.DataFrame, edges: pl.DataFrame) -> dict[str, Any]:
    """The numbers on families of a group for its summary; keys in docs/summary.md.

    Args:
        latents: run, latent, n_matched, family, family_size of all latents of the group.
        edges: as for `families`.
    """
    graph = graph_of(edges)
    kept = within(graph, family_roots(graph))
    sizes = latents.drop_nulls("family").unique("family")["family_size"].value_counts()
    return {
        "by_size": {str(s): int(n) for s, n in sizes.sort("family_size").iter_rows()},
        "orphans": int(latents["family"].null_count()),
        **_consistency(consistency(graph)),
        "edges_in_family": kept.edges,
        "similarity": {"bound": kept.bound, "reached": kept.reached, "gap": kept.gap},
        "n_of_m": counts(latents),
    }


def _consistency(found: Consistency) -> dict[str, Any]:
    return {
        "triangle_chains": found.chains,
        "triangle_closure": found.closed / found.chains if found.chains else None,
        "edges": found.edges,
        "edges_in_triangle": found.in_triangle,
        "edges_in_consistent": found.in_consistent,
    }


def counts(latents: pl.DataFrame) -> dict[str, Any]:
    """Latents found in exactly n of the m runs, by families and by stars.

    A star counts from one run the others in which a latent is shared; it depends on the run it
    starts from and ignores whether the others agree among themselves.

    Args:
        latents: as for `family_summary`.

    Returns:
        `by_family`, latents of a run in families of n runs, for n = 1 (orphans) to m, averaged over
        runs; `by_star` with `mean`, `lo`, `hi` over the runs they start from.
    """
    runs = latents["run"].n_unique()
    size = latents["family_size"].fill_null(1).to_numpy()
    stars = np.stack(
        [
            np.bincount(one["n_matched"].to_numpy(), minlength=runs)[:runs]
            for one in latents.partition_by("run", maintain_order=True)
        ]
    )
    return {
        "by_family": (np.bincount(size, minlength=runs + 1)[1 : runs + 1] / runs).tolist(),
        "by_star": {
            "mean": stars.mean(axis=0).tolist(),
            "lo": stars.min(axis=0).tolist(),
            "hi": stars.max(axis=0).tolist(),
        },
    }
