"""Two subjects, two bases: one turned into the other by their activations on the same tokens.

Orthogonal Procrustes with one scale: over rotations R, shifts and a scale s > 0,

    min Σ ‖(x_b - mean_b) - s (x_a - mean_a) R‖²

Rows of a dictionary of A, which are directions, become `row @ R` in B's space. R is the polar
factor of the cross-covariance: the best rotation if D_a <= D_b; if D_a is larger, the directions of
A that B's activations follow best are kept and the others are lost.

N rows, D_a and D_b dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError

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
    """What the alignment needs of the rows; sums, so that parts can be added in any order.

    Args:
        d_a: D_a.
        d_b: D_b.
    """

    def __init__(self, d_a: int, d_b: int) -> None:
        self.rows = 0
        self._a, self._b = np.zeros(d_a), np.zeros(d_b)
        self._aa, self._ab = np.zeros((d_a, d_a)), np.zeros((d_a, d_b))

    def add(self, a: NDArray[np.floating], b: NDArray[np.floating]) -> None:
        """Take in rows of the same tokens, `[N, D_a]` and `[N, D_b]`.

        Raises:
            SpecError: if the numbers of rows differ.
        """
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
        """The best map.

        Raises:
            SpecError: if there are fewer rows than dimensions, or the activations are constant.
        """
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
