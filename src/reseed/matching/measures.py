"""The field's measures of agreement, each under its exact name.

Every measure gives each latent a score; its share at tau is the part of the latents whose score
reaches tau. Measures whose papers do not use a threshold give a mean instead.

The scores are functions of the table of `reseed.matching.match`, seen from one side; with unequal
widths a latent without a counterpart scores lowest and still counts in the denominator.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """One way to say how much two SAEs agree."""

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


_SAME = pl.col("decoder_match") == pl.col("encoder_match")
_BOTH = pl.min_horizontal("decoder_cos", "encoder_cos")
_ALONE = "a latent without a counterpart scores -1 and counts in the denominator"

SHARED = Measure(
    id="shared",
    words="same partner in the decoder and the encoder assignment, both cosines at least tau",
    version=1,
    formula="same counterpart in decoder and encoder assignment; min(cos_dec, cos_enc) >= tau",
    direction="symmetric",
    unequal_widths=_ALONE,
    source="arXiv 2501.16615, text",
    score=pl.when(_SAME).then(_BOTH).otherwise(LOWEST),
)
BOTH = Measure(
    id="both",
    words="both cosines above tau, each under its own assignment",
    version=1,
    formula="min(cos_dec, cos_enc) > tau, each under its own assignment",
    direction="from each side",
    unequal_widths=_ALONE,
    source="notebook of arXiv 2501.16615",
    score=_BOTH,
    strict=True,
)
EQUAL = Measure(
    id="equal",
    words="same partner in both assignments, at any cosine",
    version=1,
    formula="same counterpart in the decoder and the encoder assignment; no threshold",
    direction="symmetric",
    unequal_widths=_ALONE,
    source="notebook of arXiv 2501.16615",
    score=pl.when(_SAME).then(1.0).otherwise(LOWEST),
)
DECODER_ONLY = Measure(
    id="decoder_only",
    words="decoder cosine above tau under the decoder assignment",
    version=1,
    formula="cos_dec > tau under the decoder assignment",
    direction="symmetric",
    unequal_widths=_ALONE,
    source="notebook of arXiv 2501.16615, model and architecture figures",
    score=pl.col("decoder_cos"),
    strict=True,
)
MAX_COS_BOTH = Measure(
    id="max_cos_both",
    words="cosines to the nearest neighbours above tau; not one to one",
    version=1,
    formula="min(max_j cos_dec, max_j cos_enc) > tau; nearest neighbours, not one to one",
    direction="from each side",
    unequal_widths="every latent has a nearest neighbour",
    source="notebook of arXiv 2501.16615",
    score=pl.min_horizontal("decoder_max_cos", "encoder_max_cos"),
    strict=True,
)
THRESHOLDED = (SHARED, BOTH, EQUAL, DECODER_ONLY, MAX_COS_BOTH)

PW_MCC = Measure(
    id="pw_mcc",
    words="mean decoder cosine under the assignment; no tau",
    version=1,
    formula="mean of cos_dec under the decoder assignment",
    direction="symmetric",
    unequal_widths="mean over the min(F_a, F_b) pairs; latents without a counterpart do not count",
    source="arXiv 2505.20254",
    score=pl.col("decoder_cos"),
)
MMCS = Measure(
    id="mmcs_decoder",
    words="mean decoder cosine to the nearest neighbour; no tau",
    version=1,
    formula="mean of max_j cos_dec, signed, nearest neighbours",
    direction="from each side",
    unequal_widths="every latent has a nearest neighbour",
    source="notebook of arXiv 2501.16615 (mean max cos)",
    score=pl.col("decoder_max_cos"),
)
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

    Args:
        table: of `reseed.matching.match`.
        tau: the threshold.

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
    """Share of the scores that reach each tau.

    Args:
        score: without nulls.
        taus: `[T]`.
        strict: whether reaching means being above.

    Returns:
        `[T]`; NaN where there are no scores.
    """
    ordered = np.sort(score.to_numpy())
    if not len(ordered):
        return np.full(len(taus), np.nan)
    side, slack = ("right", 0.0) if strict else ("left", _ROUNDING)
    return 1.0 - np.searchsorted(ordered, taus - slack, side=side) / len(ordered)
