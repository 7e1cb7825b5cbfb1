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

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError

if TYPE_CHECKING:
    from reseed.loops.gpu_offers import Products

Floats32 = NDArray[np.float32]

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

_CHUNK = 512
"""Rows that are scaled at a time."""

_SMALL, _LARGE = 1e-30, 1e30
"""Lengths between which rows are scaled as they are."""


class Rounded(NamedTuple):
    """Unit rows rounded to bfloat16 or int16."""

    numbers: Any
    """[F, D] a tensor, or `reseed.loops.products.Whole`"""
    lost: Floats
    """[F] lengths of what rounding took from them"""


@dataclass(frozen=True, eq=False)
class Rows:
    """One view of one dictionary. What products need is made once, whatever it is matched with."""

    exact: Floats32 | Floats
    """[F, D] as given, C-contiguous"""
    scale: Floats
    """[F] one over the length of each row; 0 for a zero row, which is similar to nothing"""

    @cached_property
    def screen(self) -> Floats32:
        """[F, D] unit rows for products in float32."""
        out = np.empty(self.exact.shape, np.float32)
        in_parts(len(out), lambda p: np.copyto(out[p], self._unit(p)))
        return out

    @cached_property
    def halves(self) -> Rounded:
        """For products in bfloat16; needs torch and numba."""
        import torch

        from reseed.loops.encode import to_halves

        halves = torch.empty(self.exact.shape, dtype=torch.bfloat16)
        bits = halves.view(torch.int16).numpy().view(np.uint16)
        length, lost = np.empty((2, len(bits)))
        in_parts(len(bits), lambda p: to_halves(self._unit(p), bits[p], length[p], lost[p]))
        return Rounded(halves, np.sqrt(lost))

    @cached_property
    def whole(self) -> Rounded:
        """For products in int16; needs numba."""
        from reseed.loops.products import Whole, to_wholes

        whole = Whole.room(*self.exact.shape)
        length, lost = np.empty((2, len(self.scale)))
        in_parts(len(lost), lambda p: to_wholes(self._unit(p), *whole.of(p), length[p], lost[p]))
        return Rounded(whole, np.sqrt(lost))

    def _unit(self, part: slice) -> Floats32:
        return (self.exact[part] * self.scale[part, None]).astype(np.float32)


def in_parts(size: int, work: Callable[[slice], None], step: int = _CHUNK) -> None:
    """Do a piece of work for each of `stretches`, on two threads; needs no torch."""
    with ThreadPoolExecutor(2) as threads:
        # starting a thread takes longer than a small match
        list((threads.map if size > step else map)(work, stretches(size, step)))


def stretches(size: int, step: int) -> Iterator[slice]:
    """Slices that cover `size` in steps."""
    return (slice(low, min(low + step, size)) for low in range(0, size, step))


_in_force = ["cpu"]
"""Where products are made unless it is said; the last one counts."""


@contextmanager
def products_on(device: str) -> Generator[None, None, None]:
    """Let products of all matching in this block be made on a device, as torch names it.

    Like a number of threads it changes no assignment that is proven the best, so that it stands in
    no settings and goes through no arguments.
    """
    _in_force.append(device)
    try:
        yield
    finally:
        _in_force.pop()


def device_in_force() -> str:
    """Where products are made unless it is said."""
    return _in_force[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Similarities between n rows of A and m rows of B: the least over the views of their cosines.

    Every similarity is in [-1, 1] up to rounding.
    """

    views: tuple[tuple[Rows, Rows], ...]
    device: str = field(default_factory=lambda: _in_force[-1])
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
        widest = max(left.exact.shape[1] for left, _ in self.views)
        return 2.0 * (widest + 16) * 2.0**-24

    def swapped(self) -> Geometry:
        """The same with A and B exchanged."""
        return Geometry(views=tuple((b, a) for a, b in self.views), device=self.device)

    def products(self) -> Products | None:
        """What makes them on the device; None on a CPU.

        Raises:
            SpecError: if float32 products are rounded there.
        """
        if self.device == "cpu":
            return None
        from reseed.loops.gpu_offers import Products
        from reseed.sae.arithmetic import refuse_tf32

        refuse_tf32(self.device)
        return Products([(a.screen, b.screen) for a, b in self.views], self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop."""

    tolerance: float = 1e-9
    """largest gap to be called optimal, relative to the objective (at least to 1)"""
    rounds: int = 50
    """solves of the sparse problem"""
    seconds: float = float("inf")
    """wall time"""


def cosine(A: Any, B: Any, *, device: str | None = None, names: Sequence[str] = "AB") -> Geometry:
    """Signed cosine of the rows of `[n, D]` and `[m, D]`, whatever their length."""
    return least_cosine([(A, B)], device=device, names=names)


def least_cosine(
    views: Sequence[tuple[Any, Any]], *, device: str | None = None, names: Sequence[str] = "AB"
) -> Geometry:
    """The least of the cosines of several views, e.g. decoder and encoder rows."""
    made = tuple((rows(a, names[0]), rows(b, names[1])) for a, b in views)
    for a, b in made:
        check_dimensions(a.exact.shape[1], b.exact.shape[1])
        if (len(a.scale), len(b.scale)) != (len(made[0][0].scale), len(made[0][1].scale)):
            raise SpecError("the views have different numbers of latents; they must be of one SAE")
    return Geometry(views=made, device=device or _in_force[-1])


def mean_cosine(
    views: Sequence[tuple[Any, Any]], *, device: str | None = None, names: Sequence[str] = "AB"
) -> Geometry:
    """The mean of the cosines of several views: the cosine of their unit rows set side by side.

    A row that is zero in one view has cosine 0 there, as it should.
    """
    root = 1.0 / np.sqrt(len(views))
    sides: list[Rows] = []
    for which in (0, 1):
        parts = [unit(view[which], names[which]) * root for view in views]
        if len({len(part) for part in parts}) > 1:
            raise SpecError("the views have different numbers of latents; they must be of one SAE")
        exact = np.concatenate(parts, axis=1)
        sides.append(Rows(exact, np.ones(len(exact))))
    for a, b in views:
        check_dimensions(np.shape(a)[1], np.shape(b)[1])
    return Geometry(views=((sides[0], sides[1]),), device=device or _in_force[-1])


def whitened(encoder: Any, covariance: Any) -> Floats:
    """Encoder rows `[F, D]` as they act on whitened input: w . x = (C^1/2 w) . (C^-1/2 x)."""
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


def rows(matrix: Any, name: str) -> Rows:
    """Prepare one view of one dictionary."""
    exact = finite_rows(matrix, name)
    if exact.dtype == np.float32:
        length = np.empty(len(exact))

        def measure(p: slice) -> None:
            chunk = exact[p].astype(np.float64)
            length[p] = np.sqrt(np.einsum("fd,fd->f", chunk, chunk))

        in_parts(len(exact), measure)
        if ((length == 0) | (length > _SMALL) & (length < _LARGE)).all():
            return Rows(exact, np.divide(1.0, length, out=np.zeros_like(length), where=length > 0))
    exact = unit(exact, name)
    return Rows(exact, (np.abs(exact).max(axis=1) > 0).astype(np.float64))


def finite_rows(rows: Any, name: str) -> NDArray[Any]:
    """An array or tensor `[F, D]` as a C-contiguous array, float32 or float64, of finite numbers.

    Other types than float32 become float64.
    """
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu()
        rows = rows.float() if str(rows.dtype) == "torch.bfloat16" else rows
    array = np.asarray(rows)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise SpecError(
            f"{name} must be a matrix of numbers with latents as rows, not an array of shape "
            f"{array.shape} and type {array.dtype}"
        )
    array = np.ascontiguousarray(array, np.float32 if array.dtype == np.float32 else np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise SpecError(
            f"{name}: {len(bad)} of {len(array)} rows have NaN or infinity (first: row {bad[0]}); "
            "leave those latents out or mend the file, an assignment over them means nothing"
        )
    return array


def unit(rows: Any, name: str) -> NDArray[np.float64]:
    """Rows scaled to length 1 in float64; a zero row stays zero, so it is similar to nothing."""
    array = finite_rows(rows, name).astype(np.float64)
    # scaling by the largest entry first keeps rows of any magnitude from over- or underflowing
    array /= np.where((top := np.abs(array).max(axis=1)) > 0, top, 1.0)[:, None]
    norms = np.linalg.norm(array, axis=1)
    return array / np.where(norms > 0, norms, 1.0)[:, None]


def check_dimensions(d_a: int, d_b: int) -> None:
    """Refuse rows that live in different spaces."""
    if d_a != d_b:
        raise SpecError(
            f"A has rows of {d_a} dimensions and B of {d_b}: they live in different spaces "
            "(another site or subject?), so cosines between them mean nothing"
        )
