"""The strongest contexts of each latent: a window of tokens with its activation at each.

L positions in a block.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.evidence.rows import Fired, Integers
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


class Contexts:
    """Keeps the strongest contexts of each latent, each from another block."""

    def __init__(self, places: TextPositions | None, spec: EvidenceSpec) -> None:
        self._places, self._spec = places, spec
        self._kept = pl.DataFrame(schema=_SCHEMA)

    def add(self, fired: Fired, blocks: Integers) -> None:
        """Take in what fires at all kept positions of some blocks."""
        if self._places is None or self._spec.contexts == 0:
            return
        new = self._windows(self._places, self._strongest(fired), fired, blocks)
        self._kept = (
            pl.concat([self._kept, new])
            .sort(["latent", "activation", "block"], descending=[False, True, False])
            .group_by("latent", maintain_order=True)
            .head(self._spec.contexts)
        )

    def table(self) -> pl.DataFrame:
        """latent, activation, block, position, document, tokens, activations; strongest first.

        `activations[i]` belongs to `tokens[i]`; it is null where the position is excluded from the
        activations.
        """
        return self._kept

    def _strongest(self, fired: Fired) -> pl.DataFrame:
        """The strongest entry of each latent in each block, and of those the strongest few.

        What cannot enter the kept ones any more is left out.
        """
        order = np.lexsort((fired.position, fired.place, -fired.value, fired.latent))
        floor = (
            self._kept.group_by("latent")
            .agg(pl.col("activation").min().alias("floor"), pl.len().alias("kept"))
            .filter(pl.col("kept") >= self._spec.contexts)
        )
        return (
            pl.DataFrame(fired.at(order)._asdict())
            .unique(["latent", "place"], keep="first", maintain_order=True)
            .group_by("latent", maintain_order=True)
            .head(self._spec.contexts)
            .join(floor, on="latent", how="left")
            .filter(pl.col("floor").is_null() | (pl.col("value") > pl.col("floor")))
        )

    def _windows(
        self, places: TextPositions, best: pl.DataFrame, fired: Fired, blocks: Integers
    ) -> pl.DataFrame:
        """The tokens around the best entries, with the latent's activation at each."""
        length, spec = places.length, self._spec
        documents = [places.documents(int(block)) for block in blocks]
        kept = np.zeros((len(blocks), length), np.bool_)
        for place, block in enumerate(blocks):
            kept[place, places.positions(int(block))] = True
        # one number for each latent and position of these blocks, to look activations up by
        keys = fired.latent * kept.size + fired.place * length + fired.position
        order = np.argsort(keys)
        keys, values = keys[order], fired.value[order]

        def around(latent: int, place: int, first: int, last: int) -> NDArray[np.float32]:
            wanted = latent * kept.size + place * length + np.arange(first, last)
            near = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            return np.where(keys[near] == wanted, values[near], np.float32(0.0))

        rows: list[dict[str, object]] = []
        columns = best.select("latent", "place", "position", "value")
        for latent, place, position, value in columns.iter_rows():
            block = int(blocks[place])
            first, last = max(0, position - spec.before), min(length, position + spec.after + 1)
            activations = zip(
                around(latent, place, first, last).tolist(), kept[place, first:last], strict=True
            )
            rows.append(
                {
                    "latent": latent,
                    "activation": value,
                    "block": block,
                    "position": position,
                    "document": int(documents[place][position]),
                    "tokens": places.tokens(block, first, last),
                    "activations": [value if read else None for value, read in activations],
                }
            )
        return pl.DataFrame(rows, schema=_SCHEMA)
