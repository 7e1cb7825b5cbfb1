"""The samples of a toy as text that names what fires, for whatever reads text.

A sample is a token: `" f12+f40"` where features 12 and 40 fire, `" -"` where none does. Samples do
not depend on each other; sixteen neighbours count as a document, so that a block has several.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reseed.subjects.spec import ToySpec
from reseed.subjects.toy import Toy

DOCUMENT = 16
"""Samples that count as one document."""
_REMEMBERED = 64


class ToyText:
    """Where the rows of a toy stand in its text; a block is rendered when it is asked for.

    Args:
        spec: the toy.
    """

    def __init__(self, spec: ToySpec) -> None:
        self._spec, self._toy = spec, Toy(spec)
        self._block = lru_cache(maxsize=_REMEMBERED)(self._rendered)

    @property
    def length(self) -> int:
        """L, samples in a block."""
        return self._spec.block

    def positions(self, block: int) -> NDArray[np.int64]:
        """[rows] every sample of a block."""
        return np.arange(self._spec.block)

    def documents(self, block: int) -> NDArray[np.int64]:
        """[L] number of the document of each sample."""
        per_block = -(-self._spec.block // DOCUMENT)
        return block * per_block + np.arange(self._spec.block) // DOCUMENT

    def document(self, block: int, position: int) -> int:
        """Number of the document of a sample."""
        return int(self.documents(block)[position])

    def tokens(self, block: int, first: int, last: int) -> list[str]:
        """The samples first..last-1, each by the features that fire in it."""
        return list(self._block(block)[first:last])

    def _rendered(self, block: int) -> tuple[str, ...]:
        fires = self._toy.sparse(block)
        starts = fires.indptr
        names = (sorted(fires.indices[a:b]) for a, b in zip(starts, starts[1:], strict=False))
        return tuple(" " + ("+".join(f"f{one}" for one in row) or "-") for row in names)
