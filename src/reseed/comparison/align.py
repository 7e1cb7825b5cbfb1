"""Two subjects, two bases: one turned into the other by their activations on the same tokens.

Orthogonal Procrustes with one scale: over rotations R, shifts and a scale s > 0,

    min Σ ‖(x_b - mean_b) - s (x_a - mean_a) R‖²

Rows of a dictionary of A, which are directions, become `row @ R` in B's space. R is the polar
factor of the cross-covariance: the best rotation if D_a <= D_b; if D_a is larger, the directions of
A that B's activations follow best are kept and the others are lost.

N rows, D_a and D_b dimensions.

Needs torch. The map is fitted on one half of the rows and judged on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reseed.comparison.dictionary import Dictionary
from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.distance import ErrorByDistance
from reseed.matching.match import Views
from reseed.records import is_transcoder
from reseed.sae import torch
from reseed.sae.model import SAE, from_arrays
from reseed.subjects.source import Chunk, read_over

if TYPE_CHECKING:
    from reseed.comparison.activations import Activations

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """A map between two activation spaces."""

    R: Floats
    """[D_a, D_b], orthonormal rows or columns"""
    scale: float
    mean_a: Floats
    """[D_a]"""
    mean_b: Floats
    """[D_b]"""

    def to_b(self, x: NDArray[np.floating]) -> Floats:
        """Activations `[N, D_a]` of A as B would have them, `[N, D_b]`."""
        return self.scale * (x - self.mean_a) @ self.R + self.mean_b

    def to_a(self, x: NDArray[np.floating]) -> Floats:
        """Activations `[N, D_b]` of B as A would have them, `[N, D_a]`."""
        return (x - self.mean_b) @ self.R.T / self.scale + self.mean_a


class Sums:
    """What the alignment needs of the rows; sums, so that parts can be added in any order."""

    def __init__(self, d_a: int, d_b: int) -> None:
        self.rows = 0
        self._a, self._b = np.zeros(d_a), np.zeros(d_b)
        self._aa, self._ab = np.zeros((d_a, d_a)), np.zeros((d_a, d_b))

    def add(self, a: NDArray[np.floating], b: NDArray[np.floating]) -> None:
        """Take in rows of the same tokens, `[N, D_a]` and `[N, D_b]`."""
        if len(a) != len(b):
            raise SpecError(
                f"{len(a)} rows of one subject and {len(b)} of the other; they must be of the same "
                "tokens in the same order"
            )
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        self.rows += len(x)
        self._a += x.sum(0)
        self._b += y.sum(0)
        self._aa += x.T @ x
        self._ab += x.T @ y

    def alignment(self) -> Alignment:
        """The best map."""
        most = max(self._ab.shape)
        if self.rows < 2 * most:
            raise SpecError(
                f"{self.rows} rows cannot align spaces of {self._ab.shape[0]} and "
                f"{self._ab.shape[1]} dimensions; give at least {2 * most}, better ten times that"
            )
        mean_a, mean_b = self._a / self.rows, self._b / self.rows
        cross = self._ab - self.rows * np.outer(mean_a, mean_b)
        own = self._aa - self.rows * np.outer(mean_a, mean_a)
        u, s, vt = np.linalg.svd(cross, full_matrices=False)
        R = u @ vt
        kept = float(np.einsum("ij,ij->", R, own @ R))
        if kept <= 0 or s[0] <= 0:
            raise SpecError("the activations of one subject do not vary; nothing can be aligned")
        return Alignment(R=R, scale=float(s.sum() / kept), mean_a=mean_a, mean_b=mean_b)


def aligned(
    first: Dictionary, other: Dictionary, activations: Activations, events: Events
) -> tuple[Dictionary, dict[str, Any]]:
    """The other dictionary in the basis of the first, and how well crossing over reconstructs.

    Even blocks of the activations fit the map, odd ones judge it.

    Returns:
        The turned dictionary, and `crossing`: fvu of the map alone (there and back) and of the
        other's activations through the first's SAE, beside the other SAE's own; null where there is
        no SAE to run.
    """
    from reseed.comparison.activations import CHUNK

    for side in (first, other):
        one = side.dimensions[0] == side.dimensions[1]
        if not one or (side.sae is not None and is_transcoder(side.sae)):
            raise SpecError(f"{side.name} is a transcoder; only SAEs of one site can be turned")
    sites = activations.sites[first.name], activations.sites[other.name]

    def over(take: Callable[[Floats, Floats], None], start: int) -> None:
        """Hand over the rows of both sites in every other block, a chunk at a time."""

        def both(chunk: Chunk) -> None:
            x, y = (chunk.rows[site].numpy().astype(np.float64) for site in sites)
            take(x, y)

        source, blocks = activations.source, activations.blocks[start::2]
        read_over(source, blocks, both, events, "alignment", unit="rows", size=CHUNK)

    sums = Sums(other.dimensions[0], first.dimensions[0])
    over(lambda x, y: sums.add(y, x), 0)
    alignment = sums.alignment()
    crossing = _Crossing(first, other, alignment)
    with torch.no_grad():
        over(lambda _, y: crossing.add(y), 1)
    views = Views(*(rows.astype(np.float64) @ alignment.R for rows in other.views))
    return replace(other, views=views), crossing.result()


class _Crossing:
    """What is lost by crossing over: of the map alone, and of the first's SAE behind it."""

    def __init__(self, first: Dictionary, other: Dictionary, alignment: Alignment) -> None:
        self._names, self._map = (other.name, first.name), alignment
        self._first, self._other = (
            None if side.sae is None else from_arrays(side.sae) for side in (first, other)
        )
        self._fvu = {name: ErrorByDistance() for name in ("map_alone", "through_first", "own")}

    def add(self, y: Floats) -> None:
        """Take in rows of the other subject."""
        there = self._map.to_b(y)
        self._add("map_alone", y, self._map.to_a(there))
        if self._first is not None:
            rebuilt = _rebuilt(self._first, there)
            self._add("through_first", y, self._map.to_a(rebuilt))
        if self._other is not None:
            self._add("own", y, _rebuilt(self._other, y))

    def _add(self, name: str, y: Floats, made: Floats) -> None:
        self._fvu[name].add(torch.from_numpy(y), torch.from_numpy(made))

    def result(self) -> dict[str, Any]:
        """As in `comparison.json`; null where there is no SAE to run."""
        return {
            "from": self._names[0],
            "to": self._names[1],
            "rows": self._fvu["map_alone"].rows,
            "scale": self._map.scale,
            **{
                number: {
                    name: fvu.numbers()[number] if fvu.rows else None
                    for name, fvu in self._fvu.items()
                }
                for number in ("fvu", "fvu_robust")
            },
        }


def _rebuilt(sae: SAE, x: Floats) -> Floats:
    return sae.reconstruct(x.astype(np.float32)).numpy().astype(np.float64)
