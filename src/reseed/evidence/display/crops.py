"""The strongest places of each latent in pictures, to look at: where it fires in each of them.

As `contexts`, for subjects that see maps: what is kept depends on the rows alone, in whatever
chunks they come; pictures are looked up at the end, for what is left. F latents, C places of a
latent, each in another sample. Read without torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SubjectError
from reseed.evidence.display.coherence import Coherence
from reseed.evidence.rows import Integers, active_entries
from reseed.sae.codes import Codes
from reseed.spec.analysis import EvidenceSpec, parts_of
from reseed.store.png import Pixels, png_bytes
from reseed.subjects.networks.pictures import Pictures

CROPS, PICTURES = "crops.parquet", "pictures.parquet"

_WINDOW = 24
"""Positions of a map to a side that are shown around the strongest; smaller maps are shown whole"""

_LARGEST = 192
"""Pixels to a side of a picture that is kept; larger ones are reduced by a whole number."""

_SCHEMA = {
    "latent": pl.Int64,
    "activation": pl.Float32,
    "block": pl.Int64,
    "sample": pl.Int64,
    "y": pl.Int64,
    "x": pl.Int64,
    "label": pl.String,
    "map_height": pl.Int64,
    "map_width": pl.Int64,
    "first_y": pl.Int64,
    "first_x": pl.Int64,
    "width": pl.Int64,
    "activations": pl.List(pl.Float32),
}

_PICTURE = {"sample": pl.Int64, "picture": pl.Binary}


class Seen:
    """Where a run fires in the maps and pictures of its samples."""

    def __init__(self, latents: int, pictures: Pictures, site: str, spec: EvidenceSpec) -> None:
        self._pictures, self._site = pictures, parts_of(site)[0]  # joined ones have the same rows
        self._crops = Crops(latents, pictures, self._site, spec.contexts)
        self._coherence = Coherence(latents)

    def add(self, codes: Codes, blocks: Integers) -> None:
        """Take in the codes of all rows of some blocks."""
        parts = [self._pictures.places(int(block), self._site) for block in blocks]
        row, latent, value = active_entries(codes)
        places, block = np.concatenate(parts), np.repeat(blocks, [len(part) for part in parts])
        self._crops.add(row, latent, value, places, block)
        self._coherence.add(row, latent, places)

    def files(self, firing: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """Those of `Crops`, and the table of firing with coherence and its null."""
        firing = firing.with_columns(self._coherence.table())
        return self._crops.files() | {"firing.parquet": firing}


class Crops:
    """Keeps the strongest places of each latent, each in another sample."""

    def __init__(self, latents: int, pictures: Pictures, site: str, contexts: int) -> None:
        self._pictures, self._site, self._most = pictures, site, contexts
        self._least = np.zeros(latents, np.float32)
        self._kept = pl.DataFrame(
            schema={
                "latent": pl.Int64, "sample": pl.Int64, "activation": pl.Float32, "block": pl.Int64,
                "y": pl.Int64, "x": pl.Int64, "ys": pl.List(pl.Int64), "xs": pl.List(pl.Int64),
                "values": pl.List(pl.Float32),
            }
        )  # fmt: skip

    def add(
        self,
        row: Integers,
        latent: Integers,
        value: NDArray[np.float32],
        places: NDArray[np.int32],
        block: Integers,
    ) -> None:
        """Take in what fires in whole samples, `[n]` entries by row; samples come in order.

        Args:
            row: of each entry.
            latent: of each entry.
            value: of each entry, above 0.
            places: `[N, 3]` sample, y, x of each row.
            block: `[N]` of each row.
        """
        at = places[row].astype(np.int64)
        entries = pl.DataFrame(
            {"latent": latent, "sample": at[:, 0], "activation": value, "block": block[row],
             "y": at[:, 1], "x": at[:, 2]}
        )  # fmt: skip
        entries = entries.filter(pl.col("sample") >= 0)
        pair = ["latent", "sample"]
        best = entries.group_by(pair).agg(pl.col("activation").max())
        # one that is as strong as the least of those kept comes after it
        best = self._first(best.filter(pl.col("activation") > self._least[best["latent"]]))
        strongest = pl.col("activation").arg_max()
        new = (
            entries.join(best.select(pair), on=pair, how="semi", maintain_order="left")
            .group_by(pair, maintain_order=True)
            .agg(
                pl.col("activation").max(),
                *(pl.col(name).get(strongest) for name in ("block", "y", "x")),
                pl.col("y").alias("ys"),
                pl.col("x").alias("xs"),
                pl.col("activation").alias("values"),
            )
        )
        self._kept = self._first(pl.concat([self._kept, new]))
        full = self._kept.group_by("latent").agg(pl.len(), pl.col("activation").min())
        full = full.filter(pl.col("len") == self._most)
        self._least[full["latent"]] = full["activation"]

    def _first(self, places: pl.DataFrame) -> pl.DataFrame:
        """The strongest of each latent, among equals those of the first samples."""
        order = ["latent", "activation", "sample"]
        ordered = places.sort(order, descending=[False, True, False])
        return ordered.group_by("latent", maintain_order=True).head(self._most)

    def files(self) -> dict[str, pl.DataFrame]:
        """`CROPS`: places, strongest first, with the activations around each, row by row.

        Null stands at positions that are no rows. Where a row stands in no map (y and x are -1)
        there are none. `PICTURES`: the samples that are shown, as PNG.
        """
        blocks = self._kept["block"].unique()
        sizes = {block: self._pictures.sizes(block, self._site) for block in blocks}
        known: dict[int, NDArray[np.int32]] = {}
        rows = [
            self._shown(row, sizes[row["block"]], known) for row in self._kept.iter_rows(named=True)
        ]
        samples = self._kept["sample"].unique().sort().to_list()
        seen = [(n, png_bytes(_reduced(picture))) for n in samples
                if (picture := self._picture(n)) is not None]  # fmt: skip
        crops = pl.DataFrame(rows, schema=_SCHEMA)
        return {CROPS: crops, PICTURES: pl.DataFrame(seen, schema=_PICTURE, orient="row")}

    def _shown(
        self, row: dict[str, Any], size: tuple[int, int], known: dict[int, NDArray[np.int32]]
    ) -> dict[str, Any]:
        out = {name: row[name] for name in _SCHEMA if name in row}
        out |= {"label": self._pictures.label(row["sample"]), "activations": []}
        out |= {"map_height": size[0], "map_width": size[1], "first_y": 0, "first_x": 0, "width": 0}
        if row["y"] < 0:
            return out
        block = row["block"]
        if block not in known:
            known.clear()  # those of one block at a time; sizes are few, places many
            known[block] = self._pictures.places(block, self._site)
        high, wide = (min(_WINDOW, side) for side in size)
        first = [
            int(np.clip(row[name] - side // 2, 0, whole - side))
            for name, side, whole in (("y", high, size[0]), ("x", wide, size[1]))
        ]
        around = np.full(size, np.nan, np.float32)
        own = known[block][known[block][:, 0] == row["sample"]]
        around[own[:, 1], own[:, 2]] = 0
        around[row["ys"], row["xs"]] = row["values"]
        window = around[first[0] : first[0] + high, first[1] : first[1] + wide].ravel()
        values = pl.Series(window).fill_nan(None).to_list()
        return out | {"first_y": first[0], "first_x": first[1], "width": wide,
                      "activations": values}  # fmt: skip

    def _picture(self, sample: int) -> Pixels | None:
        picture = self._pictures.show(sample)
        if picture is None:
            return None
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise SubjectError(
                f"show({sample}) of the factory gave {picture.dtype} {list(picture.shape)}; a "
                "picture is uint8 [height, width, 3], values 0 to 255"
            )
        return picture


def _reduced(picture: Pixels) -> Pixels:
    """At most `_LARGEST` pixels to a side, by means over squares; what is over is cut off."""
    step = -(-max(picture.shape[:2]) // _LARGEST)
    if step == 1:
        return picture
    high, wide = (side // step for side in picture.shape[:2])
    squares = picture[: high * step, : wide * step].reshape(high, step, wide, step, 3)
    return squares.mean(axis=(1, 3)).round().astype(np.uint8)
