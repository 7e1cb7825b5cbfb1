"""Latents of several runs that are one feature."""

from __future__ import annotations

import polars as pl


def families(edges: pl.DataFrame) -> pl.DataFrame:
    """Join shared pairs into families with at most one latent of each run.

    Pairs are taken from the most to the least similar; a pair that would put two latents of one run
    into one family is left out (the pairwise matches then contradict each other).

    Args:
        edges: columns run_a, latent_a, run_b, latent_b, similarity.

    Returns:
        family (numbered from the largest), run, latent, size; latents without a shared pair are not
        in it.
    """
    parent: dict[tuple[str, int], tuple[str, int]] = {}
    members: dict[tuple[str, int], dict[str, int]] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        if node not in parent:
            parent[node], members[node] = node, {node[0]: node[1]}
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    ordered = edges.sort(
        ["similarity", "run_a", "latent_a", "run_b", "latent_b"],
        descending=[True, False, False, False, False],
    )
    columns = ("run_a", "latent_a", "run_b", "latent_b")
    for run_a, latent_a, run_b, latent_b in ordered.select(columns).iter_rows():
        a, b = root((run_a, latent_a)), root((run_b, latent_b))
        if a != b and not members[a].keys() & members[b].keys():
            parent[b] = a
            members[a] |= members.pop(b)
    found = sorted(members.values(), key=lambda m: (-len(m), sorted(m.items())))
    rows = [
        (number, run, latent, len(member))
        for number, member in enumerate(found)
        if len(member) > 1
        for run, latent in sorted(member.items())
    ]
    schema = {"family": pl.Int64, "run": pl.String, "latent": pl.Int64, "size": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def triangles(edges: pl.DataFrame) -> tuple[int, int]:
    """How many chains a-b-c over three runs there are, and how many are closed by a-c.

    Args:
        edges: as for `families`.

    Returns:
        Chains, closed chains. A triangle counts once for each of its three chains.
    """
    partner: dict[tuple[str, int], dict[str, int]] = {}
    columns = ("run_a", "latent_a", "run_b", "latent_b")
    for run_a, latent_a, run_b, latent_b in edges.select(columns).iter_rows():
        partner.setdefault((run_a, latent_a), {})[run_b] = latent_b
        partner.setdefault((run_b, latent_b), {})[run_a] = latent_a
    chains = closed = 0
    for middle in partner.values():
        ends = sorted(middle.items())
        for i, first in enumerate(ends):
            for second in ends[i + 1 :]:
                chains += 1
                closed += partner[first].get(second[0]) == second[1]
    return chains, closed
