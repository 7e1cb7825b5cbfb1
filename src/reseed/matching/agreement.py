"""What assignments alone, without cosines, say: agreement of two views, closure of triangles."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

Pair = tuple[str, str]


class Closure(NamedTuple):
    """How far assignments of three runs compose."""

    closed: int
    """latents a with c(b(a)) = c(a)"""
    possible: int
    """latents a for which all three edges count"""
    latents: int
    """all latents a, over all triangles"""
    triangles: int

    @property
    def share(self) -> float:
        """Closed of possible; NaN without any."""
        return self.closed / self.possible if self.possible else float("nan")

    @property
    def coverage(self) -> float:
        """Possible of all; NaN without any."""
        return self.possible / self.latents if self.latents else float("nan")


def equal_share(decoder: Integers, encoder: Integers) -> float:
    """Share of latents with the same counterpart by decoder and by encoder rows.

    Args:
        decoder: `[F]` column of each row, -1 without one.
        encoder: the same.
    """
    return float(((decoder == encoder) & (decoder >= 0)).mean())


def triangle_closure(
    matches: Mapping[Pair, Integers], counts: Mapping[Pair, Booleans] | None = None
) -> Closure:
    """Follow a to b to c and compare with a to c, over all triangles of runs.

    Args:
        matches: (run, run) to `[F]`, the latent of the second for each of the first, -1 without
            one. One direction of each pair is enough; triangles with a missing pair are left out.
        counts: (run, run) to `[F]`, which of these edges count; all without it.
    """
    edges = _both_directions(matches, counts or {})
    runs = sorted({run for pair in matches for run in pair})
    closed = possible = latents = triangles = 0
    for a, b, c in combinations(runs, 3):
        if not {(a, b), (b, c), (a, c)} <= edges.keys():
            continue
        first, second, direct = edges[a, b], edges[b, c], edges[a, c]
        through = np.where(first >= 0, second[first], -1)
        all_three = (through >= 0) & (direct >= 0)
        closed += int((all_three & (through == direct)).sum())
        possible += int(all_three.sum())
        latents += len(first)
        triangles += 1
    return Closure(closed, possible, latents, triangles)


def _both_directions(
    matches: Mapping[Pair, Integers], counts: Mapping[Pair, Booleans]
) -> dict[Pair, Integers]:
    edges: dict[Pair, Integers] = {}
    widths = {pair[0]: len(to) for pair, to in matches.items()}
    for (a, b), to in matches.items():
        kept = np.where(counts[a, b], to, -1) if (a, b) in counts else np.asarray(to)
        size = max(widths.get(b, 0), int(kept.max(initial=-1)) + 1)
        back = np.full(size, -1)
        rows = np.flatnonzero(kept >= 0)
        back[kept[rows]] = rows
        edges[a, b] = kept
        edges.setdefault((b, a), back)
    return edges
