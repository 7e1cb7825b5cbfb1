"""Makes blocks of similarities on a CPU: in bfloat16 or int16 where that is fast, else in float32.

A product of rounded rows a~, b~ of length about 1 bounds the similarity from above. With
da = a - a~, db = b - b~:

    |a b - a~ b~| <= |a| |db| + |da| |b~|               (Cauchy-Schwarz)
    |sum as computed - a~ b~| <= (D + 16) 2^-23         (float32 sums in any order)
    |product as stored - sum| <= 2^-7 |product|         (bfloat16, any rounding; int16 2^-22)

Which type products have decides how long it takes; what is chosen is scored in float64.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from reseed.matching.geometry import Floats, Floats32, Geometry

if TYPE_CHECKING:
    from reseed.sae.encode import Product

TORCH_FROM = 2**33
"""Multiplications of a whole product from which torch makes it, where it is installed: below, it is
faster than importing torch. By size alone, so that a study does not depend on what a process had
imported before."""

_ROUNDED = np.float32(2.0**-7 + 2.0**-20)

_OVER = 1 + 2.0**-10
"""Bounds are this much larger than computed lengths, since these are rounded as well."""


def few_threads(rows: int) -> AbstractContextManager[Any]:
    """Let NumPy take one thread for matrices of so many rows, if that is few.

    Threads of a small product wait for each other: where other work has one of two cores, a product
    of 256 by 576 by 256 takes 20 times as long with both, and structure of 256 latents too.
    """
    return threadpool_limits(limits=1 if rows <= _FEW else None, user_api="blas")


_FEW = 2_048
"""Rows up to which one thread loses seconds at the most on two free cores.

Chance of a pair of so many latents in 576 dimensions takes 7 s by one thread and 5 by two; beside
other work 7 and 10.
"""


def threads_for(geometry: Geometry) -> int:
    """How many threads may make blocks at once; NumPy's products take all threads themselves."""
    if not _takes_torch(geometry):
        return 1
    import torch

    return torch.get_num_threads()


def _takes_torch(geometry: Geometry) -> bool:
    n, m = geometry.shape
    dimensions = sum(left.exact.shape[1] for left, _ in geometry.views)
    return _torch_is_here() and n * m * dimensions >= TORCH_FROM


@lru_cache(maxsize=1)
def _torch_is_here() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "numba"))


def _product_of(geometry: Geometry) -> Product:
    if not _takes_torch(geometry):
        return "float32"
    from reseed.sae.encode import fastest_product

    return fastest_product()


class Multiplier:
    """Makes blocks in memory of its own, which the next call overwrites; one a thread."""

    def __init__(
        self, geometry: Geometry, rows: int, columns: int, *, product: Product | None = None
    ) -> None:
        """For blocks of up to `rows` x `columns`.

        `product` says what is multiplied; left out, what is fast here.
        """
        self._geometry, self._size = geometry, rows * columns
        self._out: list[Floats32] = []
        self._by = product or _product_of(geometry)
        self._torch: Any = None
        if self._by == "float32" and not _takes_torch(geometry):
            return
        import torch

        self._torch = torch
        if self._by == "bfloat16":
            self._stored = torch.empty(self._size, dtype=torch.bfloat16)
            both = ((a.halves.lost, b.halves.lost) for a, b in geometry.views)
            self._bounds = [_bounds(*lost, geometry.error) for lost in both]
        elif self._by == "int16":
            both = ((a.whole.lost, b.whole.lost) for a, b in geometry.views)
            bounds = (_bounds(*lost, geometry.error) for lost in both)
            self._error = [np.float32(reach.max() + slope.max()) for reach, slope in bounds]

    def uppers(self, rows: Any, columns: Any) -> Floats32:
        """`[rows, columns]` upper bounds of the similarities; slices or index arrays.

        They allow for the rounding of the product, of a price taken off them, and of a bar.
        """
        ways = {"bfloat16": self._upper, "int16": self._upper_whole, "float32": self._above}
        return self._least(rows, columns, ways[self._by])

    def block(self, rows: Any, columns: Any) -> Floats32:
        """`[rows, columns]` similarities within `Geometry.error`; slices or index arrays."""
        return self._least(rows, columns, self._product)

    def _least(self, rows: Any, columns: Any, make: Any) -> Floats32:
        least: Floats32 | None = None
        for view in range(len(self._geometry.views)):
            out = make(view, rows, columns)
            least = out if least is None else np.minimum(least, out, out=least)
        assert least is not None
        return least

    def _room(self, view: int, shape: tuple[int, int]) -> Floats32:
        at = min(view, 1)
        if at == len(self._out):
            self._out.append(np.empty(self._size, np.float32))
        return self._out[at][: shape[0] * shape[1]].reshape(shape)

    def _product(self, view: int, rows: Any, columns: Any) -> Floats32:
        left, right = self._geometry.views[view]
        a, b = left.screen[rows], right.screen[columns]
        out = self._room(view, (len(a), len(b)))
        if self._torch is None:
            return np.matmul(a, b.T, out=out)
        x, y, z = (self._torch.from_numpy(array) for array in (a, b, out))
        self._torch.mm(x, y.T, out=z)
        return out

    def _above(self, view: int, rows: Any, columns: Any) -> Floats32:
        out = self._product(view, rows, columns)
        out += np.float32(self._geometry.error)
        return out

    def _upper(self, view: int, rows: Any, columns: Any) -> Floats32:
        from reseed.loops import products

        left, right = self._geometry.views[view]
        a, b = _taken(left.halves.numbers, rows), _taken(right.halves.numbers, columns)
        shape = len(a), len(b)
        stored = self._stored[: shape[0] * shape[1]].view(shape)
        self._torch.mm(a, b.T, out=stored)
        out = self._room(view, shape)
        bits = stored.view(self._torch.int16).numpy().view(np.uint16)
        reach, slope = self._bounds[view]
        products.uppers(bits, _ROUNDED, reach[rows], slope[columns], out)
        return out

    def _upper_whole(self, view: int, rows: Any, columns: Any) -> Floats32:
        from reseed.loops import products

        left, right = self._geometry.views[view]
        a: products.Whole = left.whole.numbers.of(rows)
        b: products.Whole = right.whole.numbers.of(columns)
        out = self._room(view, (len(a.scale), len(b.scale)))
        products.multiply(*a, *b, out)
        out += self._error[view]
        return out


def _taken(halves: Any, which: Any) -> Any:
    if isinstance(which, slice):
        return halves[which]
    import torch

    return halves.index_select(0, torch.from_numpy(which))


def _bounds(a: Floats, b: Floats, error: float) -> tuple[Floats32, Floats32]:
    """What rounding of each row, and of each column, can move its products by.

    `a` and `b` are lengths of what it took from each.
    """
    reach = a * (1 + b.max()) * _OVER
    return (reach + error).astype(np.float32), (b * _OVER).astype(np.float32)
