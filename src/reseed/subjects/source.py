"""Where activations come from: blocks of rows, read in any order.

A block is a fixed bundle of neighbouring rows (the tokens of one block of text, a slice of an
array). How many rows each block gives is known before anything is computed, so the order of a whole
training is known too.

N rows, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from reseed.sae.lazy import torch
from reseed.spec.activations import parts_of

if TYPE_CHECKING:
    from torch import Tensor


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
