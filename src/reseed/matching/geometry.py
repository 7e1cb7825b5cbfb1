"""The similarity of two dictionaries as operations, never as a matrix.

A `Geometry` knows how similar row i of A is to row j of B without holding all the numbers. Blocks
of it come out of float32 products; chosen pairs are scored again in float64. A float32 product is
off by at most `error`, so what a block cannot rule out by more than that is scored again.

| similarity | constructor |
|---|---|
| signed cosine of rows | `cosine(A, B)` |
| mean of the cosines of several views (decoder, encoder) | `mean_cosine([...])` |
| the least of the cosines of several views | `least_cosine([...])` |
| cosine of encoder rows for input of covariance C | `cosine(whitened(A, C), whitened(B, C))` |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.rows import check_dense, check_dimensions, finite_rows, unit

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CHUNK = 8_192
"""Rows that are scaled at a time."""


class Rows(NamedTuple):
    """One view of one dictionary."""

    exact: Floats32 | Floats
    """[F, D] as given, C-contiguous"""
    scale: Floats
    """[F] one over the length of each row; 0 for a zero row, which is similar to nothing"""
    screen: Floats32
    """[F, D] unit rows for products"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Similarities between n rows of A and m rows of B: the least over the views of their cosines.

    Every similarity is in [-1, 1] up to rounding.
    """

    views: tuple[tuple[Rows, Rows], ...]
    device: str = "cpu"
    """where products are made: `"cpu"` by NumPy, anything else by torch"""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        left, right = self.views[0]
        return len(left.scale), len(right.scale)

    @property
    def error(self) -> float:
        """By how much an entry of a block can be off, whatever the order of the sums.

        Rounding of the unit rows and of D products and sums (Higham 2002, section 3.1), times two
        for prices and bars, which are rounded too.
        """
        widest = max(left.screen.shape[1] for left, _ in self.views)
        return 2.0 * (widest + 16) * 2.0**-24

    def swapped(self) -> Geometry:
        """The same with A and B exchanged."""
        return Geometry(views=tuple((b, a) for a, b in self.views), device=self.device)

    def multiplier(self, rows: int, columns: int) -> Multiplier:
        """What makes blocks of up to `rows` x `columns`."""
        return Multiplier(self, rows, columns)


class Multiplier:
    """Makes blocks of similarities in memory of its own, which the next call overwrites."""

    def __init__(self, geometry: Geometry, rows: int, columns: int) -> None:
        self._geometry = geometry
        self._out = [np.empty(rows * columns, np.float32) for _ in geometry.views[:2]]
        self._torch: Any = None
        if geometry.device != "cpu":
            import torch

            self._torch = torch

    def block(self, rows: Any, columns: Any) -> Floats32:
        """`[rows, columns]` similarities; slices or index arrays."""
        out: Floats32 | None = None
        for view, (left, right) in enumerate(self._geometry.views):
            a, b = left.screen[rows], right.screen[columns]
            buffer = self._out[min(view, 1)][: len(a) * len(b)].reshape(len(a), len(b))
            self._multiply(a, b, buffer)
            out = buffer if out is None else np.minimum(out, buffer, out=out)
        assert out is not None
        return out

    def _multiply(self, a: Floats32, b: Floats32, out: Floats32) -> None:
        if self._torch is None:
            np.matmul(a, b.T, out=out)
            return
        x, y = (self._torch.from_numpy(part).to(self._geometry.device) for part in (a, b))
        self._torch.from_numpy(out).copy_(x @ y.T)


def cosine(A: Any, B: Any, *, device: str = "cpu", names: Sequence[str] = "AB") -> Geometry:
    """Signed cosine of rows.

    Args:
        A: `[n, D]` array or tensor, rows are latents; row lengths do not matter.
        B: `[m, D]`.
        device: where products are made.
        names: how to call the two in messages.

    Raises:
        SpecError: if one is not a matrix of finite numbers, or the dimensions differ.
    """
    return least_cosine([(A, B)], device=device, names=names)


def least_cosine(
    views: Sequence[tuple[Any, Any]], *, device: str = "cpu", names: Sequence[str] = "AB"
) -> Geometry:
    """The least of the cosines of several views, e.g. decoder and encoder rows.

    Raises:
        SpecError: as `cosine`; or if the views have different numbers of rows.
    """
    made = tuple((rows(a, names[0]), rows(b, names[1])) for a, b in views)
    for a, b in made:
        check_dimensions(a.exact.shape[1], b.exact.shape[1])
        if (len(a.scale), len(b.scale)) != (len(made[0][0].scale), len(made[0][1].scale)):
            raise SpecError("the views have different numbers of latents; they must be of one SAE")
    return Geometry(views=made, device=device)


def mean_cosine(
    views: Sequence[tuple[Any, Any]], *, device: str = "cpu", names: Sequence[str] = "AB"
) -> Geometry:
    """The mean of the cosines of several views: the cosine of their unit rows set side by side.

    A row that is zero in one view has cosine 0 there, as it should.

    Raises:
        SpecError: as `least_cosine`.
    """
    root = 1.0 / np.sqrt(len(views))
    sides: list[Rows] = []
    for which in (0, 1):
        parts = [unit(view[which], names[which]) * root for view in views]
        if len({len(part) for part in parts}) > 1:
            raise SpecError("the views have different numbers of latents; they must be of one SAE")
        exact = np.concatenate(parts, axis=1)
        sides.append(Rows(exact, np.ones(len(exact)), exact.astype(np.float32)))
    for a, b in views:
        check_dimensions(np.shape(a)[1], np.shape(b)[1])
    return Geometry(views=((sides[0], sides[1]),), device=device)


def whitened(encoder: Any, covariance: Any) -> Floats:
    """Encoder rows as they act on whitened input: w . x = (C^1/2 w) . (C^-1/2 x).

    Args:
        encoder: `[F, D]`.
        covariance: `[D, D]` of the SAE's input, symmetric, no negative eigenvalue.

    Raises:
        SpecError: if the covariance is not such a matrix.
    """
    rows_ = finite_rows(encoder, "encoder")
    C = finite_rows(covariance, "covariance")
    if C.shape != (rows_.shape[1],) * 2 or not np.allclose(C, C.T, atol=1e-6 * np.abs(C).max()):
        raise SpecError(
            f"the covariance must be a symmetric matrix over the {rows_.shape[1]} dimensions of "
            f"the encoder rows, not {C.shape}"
        )
    values, vectors = np.linalg.eigh((C + C.T).astype(np.float64) / 2)
    if values[0] < -1e-6 * max(values[-1], 0.0):
        raise SpecError(f"the covariance has the negative eigenvalue {values[0]:.3g}")
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return rows_.astype(np.float64) @ root


def rows(given: Any, name: str) -> Rows:
    """Prepare one view of one dictionary.

    Raises:
        SpecError: if it is not a matrix of finite numbers.
    """
    exact = finite_rows(given, name)
    scale = np.empty(len(exact))
    screen = np.empty(exact.shape, np.float32)
    for low in range(0, len(exact), _CHUNK):
        part = exact[low : low + _CHUNK].astype(np.float64)
        top = np.abs(part).max(axis=1)
        # lengths of rows of any magnitude must neither over- nor underflow
        part /= np.where(top > 0, top, 1.0)[:, None]
        length = np.linalg.norm(part, axis=1)
        scale[low : low + _CHUNK] = np.where(length > 0, length * top, 0.0)
        screen[low : low + _CHUNK] = part / np.where(length > 0, length, 1.0)[:, None]
    tiny = (scale > 0) & ((scale < 1e-30) | (scale > 1e30))
    if exact.dtype == np.float32 and not tiny.any():
        return Rows(exact, np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0), screen)
    exact = unit(exact, name)
    return Rows(exact, (np.abs(exact).max(axis=1) > 0).astype(np.float64), screen)


def dense(geometry: Geometry) -> Floats:
    """All similarities in float64, `[n, m]`, for the dense solver and for tests.

    Raises:
        SpecError: if there are more than `DENSE_LIMIT`.
    """
    check_dense(*geometry.shape)
    return float64_block(geometry, slice(None), slice(None))


def float64_block(geometry: Geometry, rows: Any, columns: Any) -> Floats:
    """A block of similarities in float64; slices or index arrays."""
    least: Floats | None = None
    for left, right in geometry.views:
        a = left.exact[rows] * left.scale[rows][:, None]
        b = right.exact[columns] * right.scale[columns][:, None]
        least = a @ b.T if least is None else np.minimum(least, a @ b.T)
    assert least is not None
    return least


def cosines_of(geometry: Geometry, rows: Integers, columns: Integers) -> Floats:
    """Similarities of chosen pairs in float64.

    Args:
        geometry: n x m.
        rows: `[E]` of A.
        columns: `[E]` of B.

    Returns:
        `[E]`.
    """
    out = np.full(len(rows), np.inf)
    for part in stretches(len(rows), _CHUNK):
        i, j = rows[part], columns[part]
        for left, right in geometry.views:
            a, b = left.exact[i].astype(np.float64), right.exact[j].astype(np.float64)
            value = np.einsum("ed,ed->e", a, b) * left.scale[i] * right.scale[j]
            out[part] = np.minimum(out[part], value)
    return out


def stretches(size: int, step: int) -> Iterator[slice]:
    """Slices that cover `size` in steps."""
    return (slice(low, min(low + step, size)) for low in range(0, size, step))
