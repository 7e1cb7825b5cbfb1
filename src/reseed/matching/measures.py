"""The field's measures of agreement, each under its exact name.

Every measure gives each latent a score; its share at tau is the part of the latents whose score
reaches tau. Measures whose papers do not use a threshold give a mean instead.

The scores are functions of the table of `reseed.matching.match`, seen from one side; with unequal
widths a latent without a counterpart scores lowest and still counts in the denominator.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

LOWEST = -1.0
"""Score of a latent that cannot be shared: no counterpart, or not the same one."""

_ROUNDING = 1e-9
"""Cosines of equal rows come out a rounding below 1; they reach tau = 1 all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One way to say how much two SAEs agree; texts in measures.toml."""

    id: str
    words: str
    """What counts, for readers of a page."""
    version: int
    formula: str
    direction: Literal["from each side", "symmetric"]
    unequal_widths: str
    source: str
    score: pl.Expr
    strict: bool = False
    """whether the score must be above tau, not just at it"""


_ABOUT = tomllib.loads(files(__package__ or "").joinpath("measures.toml").read_text("utf-8"))


def _measure(name: str, score: pl.Expr, *, strict: bool = False) -> Measure:
    return Measure(id=name, score=score, strict=strict, **_ABOUT[name])


_SAME = pl.col("decoder_match") == pl.col("encoder_match")
_BOTH = pl.min_horizontal("decoder_cos", "encoder_cos")
_NEAREST = pl.min_horizontal("decoder_max_cos", "encoder_max_cos")

SHARED = _measure("shared", pl.when(_SAME).then(_BOTH).otherwise(LOWEST))
BOTH = _measure("both", _BOTH, strict=True)
EQUAL = _measure("equal", pl.when(_SAME).then(1.0).otherwise(LOWEST))
DECODER_ONLY = _measure("decoder_only", pl.col("decoder_cos"), strict=True)
MAX_COS_BOTH = _measure("max_cos_both", _NEAREST, strict=True)
THRESHOLDED = (SHARED, BOTH, EQUAL, DECODER_ONLY, MAX_COS_BOTH)

PW_MCC = _measure("pw_mcc", pl.col("decoder_cos"))
MMCS = _measure("mmcs_decoder", pl.col("decoder_max_cos"))
MEANS = (PW_MCC, MMCS)
ALL = THRESHOLDED + MEANS
"""What a study shows."""

MATCH_AT_FDR, NEAREST_AT_FDR = "match_at_fdr", "nearest_at_fdr"
AT_FDR = {
    MATCH_AT_FDR: "same partner, more alike than chance allows at a false discovery rate of 5%; "
    "no tau",
    NEAREST_AT_FDR: "the same for nearest neighbours; not one to one",
}
"""Shares that a false discovery rate decides and no threshold; what counts, in words."""


def scores(table: pl.DataFrame, measure: Measure) -> pl.Series:
    """The score of each row of a pair's table; `LOWEST` where one with a threshold has none."""
    values = table.select(measure.score.alias("score"))["score"]
    return values if measure in MEANS else values.fill_null(LOWEST)


def is_shared(side: pl.DataFrame, tau: float) -> pl.Series:
    """Whether each latent of a side is shared at tau: one counterpart, both cosines reach it."""
    return scores(side, SHARED) >= tau - _ROUNDING


def shared_pairs(table: pl.DataFrame, tau: float) -> pl.DataFrame:
    """The shared pairs of latents of two runs, by the paper's rule at tau.

    Returns:
        latent_a, latent_b, similarity (the lesser of both cosines).
    """
    side = table.filter(pl.col("side") == "a")
    return side.filter(is_shared(side, tau)).select(
        pl.col("latent").alias("latent_a"),
        pl.col("decoder_match").alias("latent_b"),
        SHARED.score.alias("similarity"),
    )


def share_at(score: pl.Series, taus: NDArray[np.float64], *, strict: bool) -> NDArray[np.float64]:
    """`[T]` share of the scores that reach (strict: are above) each tau; NaN without scores."""
    ordered = np.sort(score.to_numpy())
    if not len(ordered):
        return np.full(len(taus), np.nan)
    side, slack = ("right", 0.0) if strict else ("left", _ROUNDING)
    return 1.0 - np.searchsorted(ordered, taus - slack, side=side) / len(ordered)
