"""The strongest contexts of each latent, to read: a window of tokens, its activation at each.

What is kept depends on the rows alone, in whatever chunks they come; texts are looked up at the
end, for what is left. F latents, C contexts of a latent, W tokens of a context, L positions in a
block. Read without torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.evidence.rows import Fired, Integers
from reseed.evidence.windows import by_latent
from reseed.loops.compiled import compiled
from reseed.spec.analysis import EvidenceSpec
from reseed.subjects.language.blocks import TextPositions

_SCHEMA = {
    "latent": pl.Int64,
    "activation": pl.Float32,
    "block": pl.Int64,
    "position": pl.Int64,
    "document": pl.Int64,
    "tokens": pl.List(pl.String),
    "activations": pl.List(pl.Float32),
}


class _Kept(NamedTuple):
    """Of each latent the strongest so far, strongest first, among equals the first blocks."""

    filled: Integers
    """[F] how many there are"""
    activation: NDArray[np.float32]
    """[F, C]"""
    at: Integers
    """[F, C, 3] block, position, document"""
    around: NDArray[np.float32]
    """[F, C, W] activations of the window, NaN at excluded positions"""


class Contexts:
    """Keeps the strongest contexts of each latent, each from another block."""

    def __init__(self, latents: int, places: TextPositions | None, spec: EvidenceSpec) -> None:
        self._places, self._spec = places, spec
        shape = (latents if places is not None else 0, spec.contexts)
        self._kept = _Kept(
            np.zeros(latents, np.int64),
            np.zeros(shape, np.float32),
            np.zeros((*shape, 3), np.int64),
            np.zeros((*shape, spec.before + spec.after + 1), np.float32),
        )

    def add(self, fired: Fired, blocks: Integers) -> None:
        """Take in what fires at all kept positions of some blocks, whose numbers ascend."""
        if self._places is None or self._spec.contexts == 0:
            return
        here = np.zeros((len(blocks), self._places.length), np.bool_)
        for place, block in enumerate(blocks):
            here[place, self._places.positions(int(block))] = True
        documents = np.stack([self._places.documents(int(block)) for block in blocks])
        entries = by_latent(fired, len(self._kept.filled))
        starts = np.searchsorted(entries.latent, np.arange(len(self._kept.filled) + 1))
        among = np.asarray(blocks, np.int64), here, documents.astype(np.int64)
        strongest = entries.place, entries.position, entries.value
        _keep(starts, *strongest, *among, self._spec.before, *self._kept)

    def table(self) -> pl.DataFrame:
        """latent, activation, block, position, document, tokens, activations; strongest first.

        `activations[i]` belongs to `tokens[i]`; it is null where the position is excluded from the
        activations.
        """
        kept, places = self._kept, self._places
        latent, rank = np.nonzero(np.arange(self._spec.contexts) < kept.filled[:, None])
        if places is None or not len(latent):
            return pl.DataFrame(schema=_SCHEMA)
        block, position, document = kept.at[latent, rank].T
        first = np.maximum(0, position - self._spec.before)
        length = np.minimum(places.length, position + self._spec.after + 1) - first
        around = pl.Series(kept.around[latent, rank].ravel())
        columns: dict[str, Any] = {
            "latent": latent,
            "activation": kept.activation[latent, rank],
            "block": block,
            "position": position,
            "document": document,
            "tokens": _texts(places, block, first, length),
            "activations": _lists(around.fill_nan(None), length),
        }
        return pl.DataFrame(columns, schema=_SCHEMA)


def _texts(places: TextPositions, block: Integers, first: Integers, length: Integers) -> pl.Series:
    """The tokens of each window; windows that several latents have are read once."""
    key = (block * (places.length + 1) + first) * (places.length + 1) + length
    _, alone, which = np.unique(key, return_index=True, return_inverse=True)
    block, first, length = block[alone], first[alone], length[alone]
    flat: list[str | None] = []
    wide = int(length.max())
    for window in zip(block.tolist(), first.tolist(), (first + length).tolist(), strict=True):
        flat += places.tokens(*window)
        flat += [None] * (wide - window[2] + window[1])
    return _lists(pl.Series(flat, dtype=pl.String), length).gather(which)


def _lists(values: pl.Series, length: Integers) -> pl.Series:
    """Of as many values for each row the first so many, as a list for each."""
    rows = values.reshape((len(length), len(values) // len(length))).arr.to_list()
    return pl.select(rows.alias("all"), pl.Series("first", length)).select(
        pl.col("all").list.head("first")
    )["all"]


@compiled
def _keep(
    starts: Integers,
    place: Integers,
    position: Integers,
    value: NDArray[np.float32],
    blocks: Integers,
    here: NDArray[np.bool_],
    documents: Integers,
    before: int,
    count: Integers,
    activation: NDArray[np.float32],
    at: Integers,
    around: NDArray[np.float32],
) -> None:
    """Put the strongest entry of each latent in each block among those kept, if it belongs there.

    Args:
        starts: `[F + 1]` where the entries of each latent begin, by place, then position.
        place: `[E]` of the entries.
        position: `[E]`.
        value: `[E]`.
        blocks: number of the block at each place.
        here: `[places, L]` whether a position is kept.
        documents: `[places, L]`.
        before: tokens of a window before its strongest.
        count: `filled` of `_Kept`, moved on,
        activation: so is this,
        at: and this,
        around: and this.
    """
    most, wide, length = activation.shape[1], around.shape[2], here.shape[1]
    for j in range(len(count)):
        low = starts[j]
        while low < starts[j + 1]:
            high, best, p = low, low, place[low]
            while high < starts[j + 1] and place[high] == p:
                best = high if value[high] > value[best] else best
                high += 1
            to = count[j]
            while to > 0 and activation[j, to - 1] < value[best]:
                to -= 1
            if to < most:
                count[j] = min(most, count[j] + 1)
                for c in range(count[j] - 1, to, -1):
                    activation[j, c] = activation[j, c - 1]
                    at[j, c], around[j, c] = at[j, c - 1], around[j, c - 1]
                middle = position[best]
                activation[j, to] = value[best]
                at[j, to, 0], at[j, to, 1] = blocks[p], middle
                at[j, to, 2] = documents[p, middle]
                first = max(0, middle - before)
                last = min(length, middle + wide - before)
                for q in range(first, last):
                    around[j, to, q - first] = np.float32(0.0) if here[p, q] else np.nan
                for e in range(low, high):
                    if first <= position[e] < last:
                        around[j, to, position[e] - first] = value[e]
            low = high
