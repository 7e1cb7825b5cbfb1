"""The table of latents as people get it: words and scores joined, what is looked at in front."""

from __future__ import annotations

import polars as pl


def with_interpretation(
    latents: pl.DataFrame, explanations: pl.DataFrame, scores: pl.DataFrame | None
) -> pl.DataFrame:
    """The same rows with `explanation`, and `score_NAME` of each scorer; null where not asked."""
    keys = ["run", "latent"]

    def joined(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        right = right.with_columns(pl.col("latent").cast(left.schema["latent"]))
        return left.join(right.unique(keys, keep="first"), on=keys, how="left")

    latents = joined(latents, explanations.select(*keys, "explanation"))
    if scores is None:
        return latents
    scores = scores.filter(pl.col("control").is_null())
    for name in scores["scorer"].unique().sort().to_list():
        column = pl.col("value").alias(f"score_{name}")
        latents = joined(latents, scores.filter(scorer=name).select(*keys, column))
    return latents


_FIRST = ("group", "run", "latent", "verdict", "n_matched", "n_seeds", "firing_rate")


def in_order(latents: pl.DataFrame) -> pl.DataFrame:
    """The same table, with what people look at in front and digests and versions behind."""
    behind = [name for name in latents.columns if name.endswith(("sha256", "_version", "_id"))]
    front = [name for name in _FIRST if name in latents.columns]
    return latents.select(*front, pl.exclude(*front, *behind), *behind)
