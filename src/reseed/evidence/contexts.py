"""The strongest contexts of each latent: a window of tokens with its activation at each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.sae.codes import Codes
from reseed.spec.analysis import EvidenceSpec
from reseed.subjects.text.tokens import Places

_SCHEMA = {
    "latent": pl.Int64,
    "activation": pl.Float32,
    "block": pl.Int64,
    "position": pl.Int64,
    "document": pl.Int64,
    "tokens": pl.List(pl.String),
    "activations": pl.List(pl.Float32),
}


class _Best(NamedTuple):
    latent: NDArray[np.int64]
    row: NDArray[np.int64]
    value: NDArray[np.float32]


class Contexts:
    """Keeps the strongest contexts of each latent, each from another block.

    Args:
        places: None if there is no text; then nothing is kept.
        spec: how many, how long.
    """

    def __init__(self, places: Places | None, spec: EvidenceSpec) -> None:
        self._places, self._spec = places, spec
        self._kept = pl.DataFrame(schema=_SCHEMA)

    def add(self, codes: Codes, blocks: NDArray[np.int64]) -> None:
        """Take in the codes of some blocks.

        Args:
            codes: of all kept rows of these blocks, in order.
            blocks: their numbers.
        """
        if self._places is None or self._spec.contexts == 0:
            return
        positions = [self._places.positions(int(b)) for b in blocks]
        block_of = np.repeat(np.arange(len(blocks)), [len(p) for p in positions])
        position_of = np.concatenate(positions)
        row_at = np.full((len(blocks), self._places.length), -1)
        row_at[block_of, position_of] = np.arange(len(position_of))

        fires = (codes.values > 0).numpy()
        rows = np.nonzero(fires)[0]
        latents, values = codes.latents.numpy()[fires], codes.values.numpy()[fires]
        best = self._strongest(latents, rows, values, block_of)
        lookup = _Lookup(latents, rows, values, len(position_of))
        new = self._windows(best, blocks, block_of, position_of, row_at, lookup)
        both = pl.concat([self._kept, new])
        self._kept = (
            both.sort(["latent", "activation", "block"], descending=[False, True, False])
            .group_by("latent", maintain_order=True)
            .head(self._spec.contexts)
        )

    def table(self) -> pl.DataFrame:
        """latent, activation, block, position, document, tokens, activations; strongest first.

        `activations[i]` belongs to `tokens[i]`; it is null where the position is excluded from the
        activations.
        """
        return self._kept

    def _strongest(
        self,
        latents: NDArray[np.int64],
        rows: NDArray[np.int64],
        values: NDArray[np.float32],
        block_of: NDArray[np.int64],
    ) -> _Best:
        """The strongest row of each latent in each block, and of those the strongest few.

        What cannot enter the kept ones any more is left out.
        """
        order = np.lexsort((rows, -values, latents))
        latents, rows, values = latents[order], rows[order], values[order]
        frame = pl.DataFrame(
            {"latent": latents, "row": rows, "value": values, "block": block_of[rows]}
        )
        floor = (
            self._kept.group_by("latent")
            .agg(pl.col("activation").min().alias("floor"), pl.len().alias("kept"))
            .filter(pl.col("kept") >= self._spec.contexts)
        )
        best = (
            frame.unique(["latent", "block"], keep="first", maintain_order=True)
            .group_by("latent", maintain_order=True)
            .head(self._spec.contexts)
            .join(floor, on="latent", how="left")
            .filter(pl.col("floor").is_null() | (pl.col("value") > pl.col("floor")))
        )
        return _Best(*(best[name].to_numpy() for name in ("latent", "row", "value")))

    def _windows(
        self,
        best: _Best,
        blocks: NDArray[np.int64],
        block_of: NDArray[np.int64],
        position_of: NDArray[np.int64],
        row_at: NDArray[np.int64],
        lookup: _Lookup,
    ) -> pl.DataFrame:
        assert self._places is not None
        out: list[dict[str, object]] = []
        for latent, row, value in zip(*best, strict=True):
            place, at = int(block_of[row]), int(position_of[row])
            first = max(0, at - self._spec.before)
            last = min(self._places.length, at + self._spec.after + 1)
            around = row_at[place, first:last]
            activations = lookup.at(int(latent), around)
            out.append(
                {
                    "latent": int(latent),
                    "activation": float(value),
                    "block": int(blocks[place]),
                    "position": at,
                    "document": self._places.document(int(blocks[place]), at),
                    "tokens": self._places.tokens(int(blocks[place]), first, last),
                    "activations": [
                        float(a) if r >= 0 else None
                        for a, r in zip(activations, around, strict=True)
                    ],
                }
            )
        return pl.DataFrame(out, schema=_SCHEMA)


class _Lookup:
    """The code of a latent at given rows."""

    def __init__(
        self,
        latents: NDArray[np.int64],
        rows: NDArray[np.int64],
        values: NDArray[np.float32],
        total: int,
    ) -> None:
        order = np.lexsort((rows, latents))
        self._keys = latents[order] * total + rows[order]
        self._values, self._total = values[order], total

    def at(self, latent: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted = latent * self._total + rows
        found = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(self._keys[found] == wanted, self._values[found], 0.0)
