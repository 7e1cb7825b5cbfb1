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
        lower = table["tokens"].explode().str.to_lowercase()
        sizes = lower.str.len_bytes().to_numpy().astype(np.int64)
        starts = np.cumsum(sizes) - sizes
        # a NUL between blocks, which no query holds, so that nothing is found across them
        self._starts = starts + np.repeat(np.arange(len(lengths)), lengths)
        cuts = zip(self._first[:-1].tolist(), self._first[1:].tolist(), strict=True)
        self._text = "\0".join("".join(lower[a:b]) for a, b in cuts).encode()

    def places(self, words: str) -> tuple[Integers, Integers]:
        """`[n]` each: first and last token, over all blocks, of each place where words stand."""
        wanted, found, at = words.lower().encode(), list[int](), -1
        if not wanted or b"\0" in wanted:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        while (at := self._text.find(wanted, at + 1)) >= 0:
            found.append(at)
        start = np.array(found, np.int64)
        ends = (start, start + len(wanted) - 1)
        first, last = (np.searchsorted(self._starts, end, "right") - 1 for end in ends)
        return first, last

    def windows(self, block: Integers, position: Integers) -> tuple[Integers, Integers]:
        """`[n]` each: first token of contexts, and the one behind their last; over all blocks."""
        row = np.searchsorted(self._blocks, block).clip(max=max(len(self._blocks) - 1, 0))
        low, high = self._first[row], self._first[row + 1]
        middle = low + position
        first = np.maximum(low, middle - self._before)
        last = np.minimum(high, middle + self._after + 1)
        return first, np.where(self._blocks[row] == block, last, first)


def shows(
    windows: tuple[Integers, Integers], places: tuple[Integers, Integers]
) -> NDArray[np.bool_]:
    """`[n]` whether a window holds one of the places whole."""
    first, behind = windows
    start, end = places
    if not len(start):
        return np.zeros(len(first), np.bool_)
    # of the places that begin in the window the earliest also ends first
    at = np.searchsorted(start, first)
    return (at < len(start)) & (end[at.clip(max=len(start) - 1)] < behind)
