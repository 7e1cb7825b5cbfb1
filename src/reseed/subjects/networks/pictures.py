"""Where the rows of a module stand in pictures, and what people see of a sample.

The factory of a module may give, besides module and batches, `show(sample)` and labels. Samples are
counted over all batches, from 0. Read without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError

Places = NDArray[np.int32]
"""`[rows, 3]` sample, y, x of each row of a block; y and x are -1 where it stands in no map, sample
where it cannot be traced to one."""


class Pictures:
    """Places of the rows that are used, and pictures and labels of samples.

    Args:
        places: block and site to the places of all its rows.
        rows: `[blocks]` rows of each block that are used.
        show: sample to its picture, uint8 `[H, W, 3]`; None if nothing can be shown.
        labels: a word for each sample; None if there are none.
        used: block to which of its rows are used, `[rows]`; None for all.
    """

    def __init__(
        self,
        places: Callable[[int, str | None], Places],
        rows: NDArray[np.int64],
        show: Callable[[int], NDArray[np.uint8]] | None,
        labels: Sequence[object] | None,
        used: Callable[[int], NDArray[np.bool_]] | None = None,
    ) -> None:
        self._places, self.rows, self._show = places, rows, show
        self._labels, self._used = labels, used

    def places(self, block: int, site: str | None = None) -> Places:
        """`[rows, 3]` sample, y, x of each row of a block that is used, in the map of a site."""
        places = self._places(block, site)
        return places if self._used is None else places[self._used(block)]

    def sizes(self, block: int, site: str | None = None) -> tuple[int, int]:
        """Height and width of the maps of a block, as far as rows reach."""
        high, wide = self._places(block, site)[:, 1:].max(axis=0).tolist()
        return high + 1, wide + 1

    def show(self, sample: int) -> NDArray[np.uint8] | None:
        """The picture of a sample; None if the factory shows none."""
        return None if self._show is None else np.asarray(self._show(sample))

    def label(self, sample: int) -> str | None:
        """The label of a sample; None without one."""
        if self._labels is None or sample >= len(self._labels):
            return None
        value = self._labels[sample]
        return None if value is None else str(value)

    # -- samples as documents, for choosing latents by their labels -------------------------------

    @property
    def documents(self) -> pl.DataFrame:
        """All samples that have rows: document (their number), origin, label.

        Raises:
            SpecError: without labels.
        """
        if self._labels is None:
            raise SpecError(
                "the samples of this subject have no labels; its factory gives them as the fourth "
                "value: (module, batches, show, labels), where show may be None"
            )
        samples = np.unique(self.row_documents(np.arange(len(self.rows))))
        rows = [(n, f"sample {n}", self.label(n)) for n in samples.tolist() if n >= 0]
        schema = {"document": pl.Int32, "origin": pl.String, "label": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def row_documents(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """[rows of these blocks] the sample of each row."""
        parts = [self.places(int(block))[:, 0] for block in blocks]
        return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int64)
