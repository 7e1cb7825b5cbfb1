"""Two SAEs compared from both sides, by decoder and by encoder rows.

The table has one row for each latent of each side:

side
    `"a"` or `"b"`: whose latent this row is about.
latent
    Its number.
decoder_match, encoder_match
    Its counterpart in the assignment of decoder (encoder) rows; null without one.
decoder_cos, encoder_cos
    Signed cosine to that counterpart.
decoder_cos_at_encoder, encoder_cos_at_decoder
    The other view's cosine at that counterpart.
decoder_nearest, encoder_nearest
    The most similar latent of the other side, whether others share it or not.
decoder_max_cos, encoder_max_cos
    Signed cosine to it.
decoder_mutual, encoder_mutual
    Whether this latent is also the most similar one to it.

Both sides come from the same two assignments, so they agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.assignment import solve_and_nearest
from reseed.matching.geometry import Geometry, cosine, cosines_of
from reseed.matching.nearest import BothNearest
from reseed.matching.views import Views
from reseed.records import Match


class Comparison(NamedTuple):
    """What two SAEs have in common."""

    table: pl.DataFrame
    decoder: Match
    encoder: Match


def compare(a: Views, b: Views, show: Callable[[float], None] | None = None) -> Comparison:
    """Match two SAEs by decoder rows and, independently, by encoder rows (arXiv 2501.16615).

    Args:
        a: one SAE.
        b: the other.
        show: told how many similarities were computed, as they are; from dictionaries of some size
            on, where it takes long enough to show.

    Raises:
        SpecError: if a matrix has NaN, dimensions or numbers of latents differ, or, without numba,
            the sizes are above the dense limit.
    """
    geometry = {
        view: cosine(*pair, names=(f"A's {view}", f"B's {view}"))
        for view, pair in (("decoder", (a.decoder, b.decoder)), ("encoder", (a.encoder, b.encoder)))
    }
    sizes = geometry["decoder"].shape
    if sizes != geometry["encoder"].shape:
        raise SpecError("encoder and decoder have different numbers of latents")
    found = {view: solve_and_nearest(g, show) for view, g in geometry.items()}
    seen = {view: _Seen(geometry, view, match) for view, (match, _) in found.items()}
    sides = [
        _side(name, side, sizes[side], {v: (seen[v], near) for v, (_, near) in found.items()})
        for side, name in enumerate("ab")
    ]
    return Comparison(pl.concat(sides), found["decoder"][0], found["encoder"][0])


class _Seen:
    """An assignment by one view, and how similar the other view finds its pairs."""

    def __init__(self, geometry: Mapping[str, Geometry], view: str, match: Match) -> None:
        other = geometry["encoder" if view == "decoder" else "decoder"]
        self.pairs, self.similarity = match.pairs, match.similarity
        self.other = cosines_of(other, match.pairs[:, 0], match.pairs[:, 1])


def _side(
    name: str, side: int, size: int, found: Mapping[str, tuple[_Seen, BothNearest]]
) -> pl.DataFrame:
    columns: dict[str, Any] = {"side": [name] * size, "latent": np.arange(size)}
    for view, other in (("decoder", "encoder"), ("encoder", "decoder")):
        seen, nearest = found[view][0], found[view][1][side]
        back = found[view][1][1 - side].latent
        own = seen.pairs[:, side]
        partner = np.full(size, -1)
        partner[own] = seen.pairs[:, 1 - side]
        none = partner < 0
        columns[f"{view}_match"] = _masked(partner, none)
        for column, values in (
            (f"{view}_cos", seen.similarity),
            (f"{other}_cos_at_{view}", seen.other),
        ):
            full = np.zeros(size)
            full[own] = values
            columns[column] = _masked(full, none)
        columns[f"{view}_nearest"] = nearest.latent
        columns[f"{view}_max_cos"] = nearest.similarity
        columns[f"{view}_mutual"] = back[nearest.latent] == np.arange(size)
    return pl.DataFrame(columns).with_columns(pl.col("side").cast(pl.Categorical))


def _masked(values: NDArray[Any], none: NDArray[np.bool_]) -> pl.Series:
    return pl.Series(values).zip_with(
        pl.Series(~none), pl.Series([None], dtype=pl.Series(values).dtype)
    )
