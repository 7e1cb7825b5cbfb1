"""Where activations come from: blocks of rows, read in any order.

A block is a fixed bundle of neighbouring rows (the tokens of one block of text, a slice of an
array). How many rows each block gives is known before anything is computed, so the order of a whole
training is known too.

N rows, D dimensions of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
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
