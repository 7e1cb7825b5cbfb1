"""Where activations come from: blocks of rows, read in any order.

A block is a fixed bundle of neighbouring rows (the tokens of one block of text, a slice of an
array). How many rows each block gives is known before anything is computed, so the order of a whole
training is known too.

N rows, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from reseed.events import Events
from reseed.sae.lazy import torch
from reseed.spec.activations import parts_of

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 32
"""Blocks that are read together in a pass."""


class BlockSource(Protocol):
    """Activations of one or more sites, readable block by block."""

    @property
    def sites(self) -> Mapping[str, int]:
        """Site name to D."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """[blocks] rows that each block gives; excluded positions are not counted."""
        ...

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks, one after the other in the order given.

        Args:
            blocks: block numbers.

        Returns:
            site to float32 `[sum of rows[blocks], D]`, on the CPU.

        Raises:
            SubjectError: if a row is NaN or infinite; the message names site and block.
            StoreError: if stored activations are damaged.
        """
        ...


class Chunk(NamedTuple):
    """Some blocks of a source that were read together."""

    blocks: NDArray[np.int64]
    """[n] their numbers"""
    first: int
    """place of the first of them among all blocks of the pass"""
    counts: NDArray[np.int64]
    """[n] rows of each block"""
    rows: Mapping[str, Tensor]
    """site to float32 `[N, D]`, N = sum of counts"""


def read_over(
    source: BlockSource,
    blocks: Sequence[int] | NDArray[np.int64],
    take: Callable[[Chunk], None],
    events: Events,
    name: str,
    *,
    unit: str = "tokens",
    size: int = CHUNK,
) -> None:
    """Read blocks once, in their order, a chunk at a time; memory does not grow with the rows.

    Args:
        source: of the activations.
        blocks: which of its blocks.
        take: is handed each chunk.
        events: progress.
        name: of the task, as it is shown.
        unit: of the rows, as it is shown.
        size: blocks of a chunk; sums over rows depend on it in their last bits.

    Raises:
        SubjectError, StoreError: from the source.
    """
    numbers = np.asarray(blocks, dtype=np.int64)
    with events.task(name, int(source.rows[numbers].sum()), unit) as task:
        for first in range(0, len(numbers), size):
            chunk = numbers[first : first + size]
            counts = source.rows[chunk]
            take(Chunk(chunk, first, counts, source.read(chunk.tolist())))
            task.advance(int(counts.sum()))


def first_bad_row(rows: Tensor) -> int | None:
    """The first row of `[n, D]` that has a NaN or an infinity, or None."""
    # A sum over a NaN or an infinity is never finite, and it reads the memory only once; a sum that
    # overflows is told apart by the exact test.
    if rows.numel() == 0 or torch.isfinite(rows.sum()):
        return None
    bad = ~torch.isfinite(rows).all(dim=1)
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else None


class JoinedSource:
    """Another source with joined sites besides its own; implements `BlockSource`.

    Args:
        source: has the parts.
        joined: names of the joined sites, `"a+b"`.
    """

    def __init__(self, source: BlockSource, joined: Sequence[str]) -> None:
        self._source = source
        self._joined = {site: parts_of(site) for site in joined}
        sums = {site: sum(source.sites[p] for p in ps) for site, ps in self._joined.items()}
        self.sites: Mapping[str, int] = {**source.sites, **sums}
        self.rows: NDArray[np.int64] = source.rows

    def read(self, blocks: Sequence[int]) -> dict[str, Tensor]:
        """Rows of these blocks, float32, in the order given.

        Raises:
            SubjectError, StoreError: from the source.
        """
        rows = self._source.read(blocks)
        sides = {s: torch.cat([rows[p] for p in ps], 1) for s, ps in self._joined.items()}
        return {**rows, **sides}
