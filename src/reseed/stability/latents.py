"""One row for each latent of each run: what is known of it and how often it came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from reseed.matching import measures
from reseed.stability.intervals import wilson
from reseed.stability.shares import PairTable

VERSION = 1


class RunFacts(NamedTuple):
    """What other stages wrote about a run."""

    run: str
    sha256: str
    weights: pl.DataFrame
    firing: pl.DataFrame


def shared_edges(tables: Sequence[PairTable], tau: float) -> pl.DataFrame:
    """The shared pairs of latents (paper's rule at tau) of all pairs of runs.

    Returns:
        run_a, latent_a, run_b, latent_b, similarity (the lesser of both cosines).
    """
    frames = [
        table.filter(pl.col("side") == "a")
        .with_columns(
            similarity=measures.scores(table.filter(pl.col("side") == "a"), measures.SHARED)
        )
        .filter(pl.col("similarity") >= tau - 1e-9)
        .select(
            pl.lit(pair[0]).alias("run_a"),
            pl.col("latent").alias("latent_a"),
            pl.lit(pair[1]).alias("run_b"),
            pl.col("decoder_match").alias("latent_b"),
            "similarity",
        )
        for pair, table in tables
    ]
    return pl.concat(frames)


def latent_table(
    facts: Sequence[RunFacts],
    tables: Sequence[PairTable],
    edges: pl.DataFrame,
    families: pl.DataFrame,
    dense_rate: float,
) -> pl.DataFrame:
    """The table of all latents of a group.

    Returns:
        run, latent, run_sha256; fired, firing_rate, mean_act, max_act, alive, dense; enc_dec_cos,
        init_cos, own_max_cos; n_runs, n_matched (other runs in which it is shared), recurrence
        (their share), recurrence_lo and recurrence_hi (95 % Wilson over the other runs);
        max_decoder_cos, max_encoder_cos (to the nearest latent of each other run, averaged over
        those); family, family_size (null for an orphan); metric_version.
    """
    others = len(facts) - 1
    near = _nearest(tables)
    found = pl.concat(
        [
            edges.select(pl.col("run_a").alias("run"), pl.col("latent_a").alias("latent")),
            edges.select(pl.col("run_b").alias("run"), pl.col("latent_b").alias("latent")),
        ]
    )
    counts = found.group_by("run", "latent").agg(pl.len().cast(pl.Int64).alias("n_matched"))
    rows = pl.concat([_facts(one) for one in facts])
    table = (
        rows.join(near, on=["run", "latent"], how="left")
        .join(counts, on=["run", "latent"], how="left")
        .with_columns(pl.col("n_matched").fill_null(0))
        .join(families.rename({"size": "family_size"}), on=["run", "latent"], how="left")
    )
    matched = table["n_matched"].to_numpy()
    low, high = wilson(matched, others) if others else (np.full(len(matched), np.nan),) * 2
    return table.with_columns(
        pl.Series("recurrence", matched / others if others else np.full(len(matched), np.nan)),
        pl.Series("recurrence_lo", low),
        pl.Series("recurrence_hi", high),
        pl.lit(others + 1).alias("n_runs"),
        (pl.col("fired") > 0).alias("alive"),
        (pl.col("firing_rate") > dense_rate).alias("dense"),
        pl.lit(VERSION).alias("metric_version"),
    ).select(
        "run", "latent", "run_sha256", "fired", "firing_rate", "mean_act", "max_act", "alive",
        "dense", "enc_dec_cos", "init_cos", "own_max_cos", "n_runs", "n_matched", "recurrence",
        "recurrence_lo", "recurrence_hi", "max_decoder_cos", "max_encoder_cos", "family",
        "family_size", "metric_version",
    )  # fmt: skip


def _facts(one: RunFacts) -> pl.DataFrame:
    return (
        one.firing.rename({"rate": "firing_rate"})
        .join(one.weights, on="latent")
        .select(
            pl.lit(one.run).alias("run"),
            pl.lit(one.sha256).alias("run_sha256"),
            pl.all(),
        )
    )


def _nearest(tables: Sequence[PairTable]) -> pl.DataFrame:
    """Cosine to the nearest latent of each other run, averaged over those runs."""
    schema = {"run": pl.String, "latent": pl.Int64}
    names = ("decoder_max_cos", "encoder_max_cos")
    sides = [
        table.filter(pl.col("side") == side).select(pl.lit(run).alias("run"), "latent", *names)
        for pair, table in tables
        for side, run in zip("ab", pair, strict=True)
    ]
    if not sides:
        return pl.DataFrame(
            schema=schema | {"max_decoder_cos": pl.Float64, "max_encoder_cos": pl.Float64}
        )
    return (
        pl.concat(sides)
        .group_by("run", "latent")
        .agg(
            pl.col("decoder_max_cos").mean().alias("max_decoder_cos"),
            pl.col("encoder_max_cos").mean().alias("max_encoder_cos"),
        )
    )


def n_of_m(table: pl.DataFrame, pair_share: Mapping[str, float]) -> pl.DataFrame:
    """How many latents are found in exactly n of the m runs, seen from each run and averaged.

    Counting is a star around each run: a latent found in n runs is shared with n - 1 others, which
    need not be shared with each other.

    Args:
        table: from `latent_table`.
        pair_share: mean shared share of a pair, for each stratum; gives the binomial of
            independent sharing.

    Returns:
        stratum ("all", "live"), n, m, latents (mean over runs), share, binomial (expected share).
    """
    runs = table["run"].n_unique()
    frames: list[pl.DataFrame] = []
    for stratum, rows in (("all", table), ("live", table.filter("alive"))):
        counts = np.bincount(rows["n_matched"].to_numpy(), minlength=runs)[:runs]
        frames.append(
            pl.DataFrame(
                {
                    "stratum": [stratum] * runs,
                    "n": np.arange(1, runs + 1),
                    "m": [runs] * runs,
                    "latents": counts / runs,
                    "share": counts / max(counts.sum(), 1),
                    "binomial": stats.binom.pmf(np.arange(runs), runs - 1, pair_share[stratum]),
                }
            )
        )
    return pl.concat(frames)


def by_frequency(table: pl.DataFrame, bins: int = 10) -> pl.DataFrame:
    """Live latents in bins of equal size by firing rate.

    Returns:
        rate_lo, rate_hi, latents, recurrence (mean), max_decoder_cos (mean).
    """
    live = table.filter("alive").sort("firing_rate", "run", "latent")
    place = np.arange(len(live)) * bins // max(len(live), 1)
    return (
        live.with_columns(pl.Series("bin", place))
        .group_by("bin", maintain_order=True)
        .agg(
            pl.col("firing_rate").min().alias("rate_lo"),
            pl.col("firing_rate").max().alias("rate_hi"),
            pl.len().cast(pl.Int64).alias("latents"),
            pl.col("recurrence").mean(),
            pl.col("max_decoder_cos").mean(),
        )
        .drop("bin")
    )
