"""Several sites side by side as one site, for dictionaries that read and write them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reseed.activations.names import parts_of
from reseed.subjects.source import BlockSource


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
