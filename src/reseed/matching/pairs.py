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

Both sides come from the same two assignments, so they agree with each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching.assignment import assign
from reseed.matching.similarity import cosines, unit
from reseed.records import Match

Matrix = NDArray[np.float64]


class Views(NamedTuple):
    """Encoder and decoder rows of one SAE, `[F, D]` each."""

    encoder: Any
    decoder: Any


class Comparison(NamedTuple):
    """What two SAEs have in common."""

    table: pl.DataFrame
    decoder: Match
    encoder: Match


def compare(a: Views, b: Views) -> Comparison:
    """Match two SAEs by decoder rows and, independently, by encoder rows (arXiv 2501.16615).

    Raises:
        SpecError: if a matrix has NaN, dimensions differ, or the sizes are above the dense limit.
    """
    S = {
        view: cosines(unit(getattr(a, view), f"A's {view}"), unit(getattr(b, view), f"B's {view}"))
        for view in Views._fields
    }
    found = {view: assign(S[view]) for view in S}
    sides = [_side("a", S, {v: m.pairs for v, m in found.items()})]
    flipped = {v: m.pairs[:, ::-1] for v, m in found.items()}
    sides.append(_side("b", {v: s.T for v, s in S.items()}, flipped))
    return Comparison(pl.concat(sides), found["decoder"], found["encoder"])


def _side(name: str, S: dict[str, Matrix], pairs: dict[str, NDArray[np.int64]]) -> pl.DataFrame:
    size = S["decoder"].shape[0]
    columns: dict[str, Any] = {"side": [name] * size, "latent": np.arange(size)}
    for view, other in (("decoder", "encoder"), ("encoder", "decoder")):
        partner = np.full(size, -1)
        partner[pairs[view][:, 0]] = pairs[view][:, 1]
        none = partner < 0
        columns[f"{view}_match"] = _masked(partner, none)
        columns[f"{view}_cos"] = _masked(S[view][np.arange(size), partner], none)
        columns[f"{other}_cos_at_{view}"] = _masked(S[other][np.arange(size), partner], none)
        nearest = S[view].argmax(axis=1)
        columns[f"{view}_nearest"] = nearest
        columns[f"{view}_max_cos"] = S[view][np.arange(size), nearest]
    return pl.DataFrame(columns).with_columns(pl.col("side").cast(pl.Categorical))


def _masked(values: NDArray[Any], none: NDArray[np.bool_]) -> pl.Series:
    return pl.Series(values).zip_with(
        pl.Series(~none), pl.Series([None], dtype=pl.Series(values).dtype)
    )
