"""The held-out text, so that contexts are searched by the place where words stand, not one by one.

Contexts of many latents and runs show the same text again and again. The piece holds it once; a
context is its block and position and what the settings say is shown around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.spec.analysis import EvidenceSpec
from reseed.subjects.language.blocks import TextPositions

FILE, ABOUT = "text.parquet", "about.json"

Integers = NDArray[np.int64]


def text_files(
    places: TextPositions, blocks: Sequence[int] | Integers, spec: EvidenceSpec
) -> dict[str, Any]:
    """The piece: block, tokens (text of each); and how much of it a context shows."""
    numbers = sorted(int(block) for block in blocks)
    table = pl.DataFrame(
        {
            "block": numbers,
            "tokens": [places.tokens(block, 0, places.length) for block in numbers],
        },
        schema={"block": pl.Int64, "tokens": pl.List(pl.String)},
    )
    return {FILE: table, ABOUT: {"before": spec.before, "after": spec.after}}


class HeldOutText:
    """The text as it is searched; letter case does not matter.

    Args:
        table: block, tokens.
        before: tokens that a context shows before its strongest one.
        after: tokens that it shows after it.
    """

    def __init__(self, table: pl.DataFrame, before: int, after: int) -> None:
        self._blocks = table["block"].to_numpy()
        self._before, self._after = before, after
        lengths = table["tokens"].list.len().to_numpy().astype(np.int64)
        self._first = np.concatenate([[0], np.cumsum(lengths)])
        lower = pl.col("tokens").list.eval(pl.element().str.to_lowercase())
        sizes = table.select(lower.list.eval(pl.element().str.len_bytes()).explode())
        ends = np.cumsum(sizes.to_series().to_numpy().astype(np.int64))
        starts = np.concatenate([[0], ends])[:-1][: len(ends)]
        # a NUL between blocks, which no query holds, so that nothing is found across them
        self._starts = starts + np.repeat(np.arange(len(lengths)), lengths)
        joined = table.select(lower.list.join("")).to_series()
        self._text = np.frombuffer("\0".join(joined).encode(), np.uint8)

    def places(self, words: str) -> tuple[Integers, Integers]:
        """`[n]` each: first and last token, over all blocks, of each place where words stand."""
        wanted = np.frombuffer(words.lower().encode(), np.uint8)
        if not len(wanted) or not wanted.all():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        at = np.flatnonzero(self._text[: len(self._text) - len(wanted) + 1] == wanted[0])
        for n, byte in enumerate(wanted[1:].tolist(), start=1):
            at = at[self._text[at + n] == byte]
        first = np.searchsorted(self._starts, at, "right") - 1
        last = np.searchsorted(self._starts, at + len(wanted) - 1, "right") - 1
        return first, last

    def windows(self, block: Integers, position: Integers) -> tuple[Integers, Integers]:
        """`[n]` each: first token of contexts, and the one behind their last; over all blocks."""
        row = np.searchsorted(self._blocks, block).clip(max=max(len(self._blocks) - 1, 0))
        low, high = self._first[row], self._first[row + 1]
        middle = low + position
        first = np.maximum(low, middle - self._before)
        last = np.minimum(high, middle + self._after + 1)
        return first, np.where(self._blocks[row] == block, last, first)

    def reached(self, words: str) -> Integers:
        """`[T + 1]` for each token: where the first place ends that begins at it or behind it.

        A window from `first` to before `behind` holds the words if `reached[first] < behind`,
        since of the places that begin in it the earliest also ends first.
        """
        first, last = self.places(words)
        ends = np.full(self._first[-1] + 1, np.iinfo(np.int64).max)
        np.minimum.at(ends, first, last)
        return np.minimum.accumulate(ends[::-1])[::-1]
