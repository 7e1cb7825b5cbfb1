"""What `offers` does, by torch on a GPU: only what may count leaves it. Twins: the loops there.

Rows of both dictionaries stay on the device. Products are float32, off by no more than on a CPU:
the bound holds for any order of the sums (`Geometry.error`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reseed.loops.offers import Floats, Floats32, Found, Integers, Told

ROWS, COLUMNS = 4_096, 16_384
"""Size of a block: 256 MiB, and thrice as much while it is looked through."""


class Products:
    """Unit rows of two dictionaries on a device, `[n, D]` and `[m, D]` for each view."""

    def __init__(self, views: Sequence[tuple[Floats32, Floats32]], device: str) -> None:
        self.device = torch.device(device)
        self._views = [(self.put(a), self.put(b)) for a, b in views]
        self.shape = len(views[0][0]), len(views[0][1])

    def put(self, array: Any) -> Tensor:
        """An array there."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def block(self, rows: Any, columns: Any) -> Tensor:
        """`[R, C]` similarities, the least over the views; slices or index arrays."""
        rows, columns = (self._index(which) for which in (rows, columns))
        least: Tensor | None = None
        for a, b in self._views:
            product = a[rows] @ b[columns].T
            least = product if least is None else torch.minimum(least, product, out=least)
        assert least is not None
        return least

    @property
    def second(self) -> Tensor:
        """`[m, D]` by the first view."""
        return self._views[0][1]

    def blocks(self, told: Told) -> Iterator[tuple[slice, slice, Tensor]]:
        """All similarities."""
        n, m = self.shape
        for rows in _stretches(n, ROWS):
            for columns in _stretches(m, COLUMNS):
                told((rows.stop - rows.start) * (columns.stop - columns.start))
                yield rows, columns, self.block(rows, columns)

    def _index(self, which: Any) -> Any:
        return which if isinstance(which, slice) else self.put(which)


class _Best:
    """The best `room` entries so far of each latent of one side."""

    def __init__(self, size: int, room: int, device: torch.device) -> None:
        self.values = torch.full((size, room), -torch.inf, device=device)
        self.others = torch.full((size, room), -1, dtype=torch.int64, device=device)

    def offer(self, own: Tensor, block: Tensor, others: Tensor) -> None:
        """Take what is better in a block, of rows `own` `[R]` with `others` `[C]`.

        Each row begins at another column and goes round, so that rows with equal entries keep
        different ones, where torch takes the first.
        """
        rows, width = block.shape
        if rows > width:
            for part in _stretches(rows, width):
                self.offer(own[part], block[part], others)
            return
        # row r is read from column r on: one step more than a row is long
        turned = torch.cat([block, block], 1).as_strided((rows, width), (2 * width + 1, 1))
        top = turned.topk(min(width, self.values.shape[1]), dim=1)
        starts = torch.arange(rows, device=block.device)[:, None]
        found = others[(top.indices + starts) % width]
        values = torch.cat([self.values[own], top.values], 1)
        kept = values.topk(self.values.shape[1], dim=1)
        self.others[own] = torch.cat([self.others[own], found], 1).gather(1, kept.indices)
        self.values[own] = kept.values

    def found(self, least: Tensor | None = None) -> Found:
        """What is above `least` `[F]`, or all."""
        kept = self.others >= 0
        bar = self.values[:, -1]
        if least is not None:
            kept &= self.values > least[:, None]
            bar = torch.maximum(bar, least)
        own = kept.nonzero()[:, 0]
        return Found(own.cpu().numpy(), self.others[kept].cpu().numpy(), bar.cpu().numpy())


def best_of_both(products: Products, room: int, told: Told) -> tuple[Found, Found]:
    """The best `room` entries of each row, and of each column."""
    (n, m), device = products.shape, products.device
    by_row, by_column = _Best(n, min(room, m), device), _Best(m, min(room, n), device)
    every = torch.arange(max(n, m), device=device)
    for rows, columns, block in products.blocks(told):
        by_row.offer(every[rows], block, every[columns])
        by_column.offer(every[columns], block.T, every[rows])
    return by_row.found(), by_column.found()


def above_prices(
    products: Products,
    blocks: Iterator[tuple[Integers, Integers]],
    price: Floats32,
    least: Floats32,
    room: int,
    told: Told,
) -> Found:
    """Of each row up to `room` entries, less the price of their column, above `least`.

    Args:
        products: of the dictionaries.
        blocks: rows and columns that are looked at.
        price: `[m]`.
        least: `[n]`.
        room: of a row.
        told: of the products that were made.
    """
    best = _Best(products.shape[0], room, products.device)
    prices = products.put(price)
    for rows, columns in blocks:
        told(len(rows) * len(columns))
        own, others = products.put(rows), products.put(columns)
        best.offer(own, products.block(rows, columns).sub_(prices[others]), others)
    return best.found(products.put(least))


def above(products: Products, limit: np.float32, told: Told) -> Iterator[tuple[Integers, Integers]]:
    """Rows and columns of all entries above a limit, some at a time."""
    for rows, columns, block in products.blocks(told):
        found = (block > float(limit)).nonzero().cpu().numpy()
        yield found[:, 0] + rows.start, found[:, 1] + columns.start


def top(products: Products, rows: Floats32, count: int) -> Integers:
    """`[R, min(count, m)]` the most similar of the second dictionary to other rows, in no order."""
    block = products.put(rows) @ products.second.T
    return block.topk(min(count, block.shape[1]), dim=1).indices.cpu().numpy()


def nearest(
    products: Products, *, absolute: bool = False, itself: bool = False
) -> tuple[Integers, Integers]:
    """The most similar column of each row and the most similar row of each column, `[n]`, `[m]`.

    Args:
        products: of the dictionaries.
        absolute: whether opposite counts as similar.
        itself: whether both are one dictionary, of which no row is its own neighbour.
    """
    sides = [_First(size, products.device) for size in products.shape]
    for rows, columns, block in products.blocks(lambda _: None):
        if absolute:
            block.abs_()
        if itself:
            own = torch.arange(rows.start, rows.stop, device=block.device)[:, None]
            block[
                own == torch.arange(columns.start, columns.stop, device=block.device)
            ] = -torch.inf
        sides[0].offer(block, rows, columns)
        sides[1].offer(block.T, columns, rows)
    return sides[0].latent.cpu().numpy(), sides[1].latent.cpu().numpy()


class _First:
    """The best so far of each latent of one side, the first of several."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.value = torch.full((size,), -torch.inf, device=device)
        self.latent = torch.zeros(size, dtype=torch.int64, device=device)

    def offer(self, block: Tensor, own: slice, other: slice) -> None:
        """Take what is better in a block, `[own, other]`."""
        value, top = block.max(dim=1)
        better = value > self.value[own]
        self.latent[own] = torch.where(better, top + other.start, self.latent[own])
        self.value[own] = torch.where(better, value, self.value[own])


def _stretches(size: int, step: int) -> Iterator[slice]:
    return (slice(low, min(low + step, size)) for low in range(0, size, step))


Entries = tuple[Integers, Integers, Floats]
"""Sparse rows: where each begins, column of each entry, its value."""


class SparseProduct:
    """How latents of A and of B fire together, from codes that lie on a device.

    Every meeting of two latents on a token is made, sorted by pair, and added up in the order of
    tokens or in a tree: counts are exact, sums float64.

    Args:
        a: latents of A with the tokens on which they fire.
        b: tokens with the latents of B that fire on them.
        width: F_b.
        device: where.
    """

    def __init__(self, a: Entries, b: Entries, width: int, device: str) -> None:
        self._starts, self._width = a[0], width
        self._a = [torch.from_numpy(part).to(device) for part in a]
        self._b = [torch.from_numpy(part).to(device) for part in b]

    def pairs(self, low: int, high: int) -> tuple[Integers, Integers, Floats, Integers]:
        """Of latents low..high-1 of A: row, column, sum of products and number of each pair."""
        (starts, token, value_a), (start_b, latent, value_b) = self._a, self._b
        some = slice(int(self._starts[low]), int(self._starts[high]))
        each = torch.arange(low, high, device=starts.device)
        row = each.repeat_interleave(starts[low : high + 1].diff())
        first, count = start_b[token[some]], start_b.diff()[token[some]]
        entry = torch.arange(len(row), device=row.device).repeat_interleave(count)
        place = torch.arange(len(entry), device=row.device) - (count.cumsum(0) - count)[entry]
        at = first[entry] + place
        key, order = (row[entry] * self._width + latent[at]).sort(stable=True)
        product = (value_a[some][entry] * value_b[at])[order]
        pair, both = key.unique_consecutive(return_counts=True)
        total = product
        if len(pair) < len(product):
            total = torch.segment_reduce(product, "sum", lengths=both)
        out = pair // self._width, pair % self._width, total, both
        return tuple(part.cpu().numpy() for part in out)  # pyright: ignore[reportReturnType]
