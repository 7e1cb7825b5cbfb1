"""One row for each latent of each run: what is known of it and how often it came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching import measures
from reseed.stability.group import RunFacts, RunMatches, worth_of
from reseed.stability.over_seeds.posterior import Mixture, reproducibility
from reseed.stability.shares import PairTable, RateBin, bin_of

VERSION = 5
"""Of the definitions of the columns. 2: recurrence_lo and _hi are of a posterior, not Wilson's;
n_seeds counts independent runs. 3: the posterior assumes no shape, and of crossed seeds counts
what the seed with fewer levels is worth. 4: mirrored decoys lie along the axes of more latents. 5:
Gaussian ones are held against those of all other runs."""

OF_MAPS = ("coherence", "coherence_null")
"""Columns of subjects whose rows stand in maps, besides."""

EDGE = {"run_a": pl.String, "latent_a": pl.Int64, "run_b": pl.String, "latent_b": pl.Int64}

COLUMNS = (
    "run", "latent", "run_sha256", "sae_id", "sae_sha256", "init_seed", "data_seed", "fired",
    "firing_rate", "rate_bin", "mean_act", "max_act", "alive", "dense", "enc_dec_cos", "init_cos",
    "own_max_cos", "n_runs", "n_seeds", "n_matched", "recurrence", "recurrence_mean",
    "recurrence_lo", "recurrence_hi", "other_runs", "match_cos", "best_dec_cos", "best_enc_cos",
    "act_corr", "contribution", "max_decoder_cos", "max_encoder_cos", "p_null", "q_fdr",
    "n_matched_fdr", "null_id", "family", "family_size", "metric_version", "run_id",
)  # fmt: skip


_TOGETHER = ("act_corr", "contribution")


def shared_edges(tables: Sequence[PairTable], tau: float) -> pl.DataFrame:
    """The shared pairs of latents (paper's rule at tau) of all pairs of runs.

    Returns:
        run_a, latent_a, run_b, latent_b, similarity (the lesser of both cosines).
    """
    frames = [pl.DataFrame(schema=EDGE | {"similarity": pl.Float64})]
    for (run_a, run_b), table in tables:
        runs = {"run_a": pl.lit(run_a), "run_b": pl.lit(run_b)}
        pairs = measures.shared_pairs(table, tau).with_columns(**runs)
        frames.append(pairs.select(frames[0].columns))
    return pl.concat(frames)


def latent_table(
    facts: Sequence[RunFacts],
    tables: Sequence[PairTable],
    firing: Sequence[PairTable],
    matches: Mapping[str, RunMatches],
    families: pl.DataFrame,
    tests: pl.DataFrame,
    bins: list[RateBin],
    dense_rate: float,
) -> tuple[pl.DataFrame, dict[str, Mixture]]:
    """The table of all latents of a group.

    `tables` are of all pairs at the end of training, those that share a seed too; `firing` says
    how their decoder-matched latents fire together, where that is known.

    Returns:
        The columns `COLUMNS`, described in docs/stability.md; and the fits of the posterior.
    """
    rows = pl.concat([_facts(run, bins, len(facts)) for run in facts])
    counts = pl.concat([_counts(run) for run in matches.values()])
    table = rows
    for more in (
        counts,
        _others(facts, tables, firing),
        _nearest(tables, matches),
        tests,
        families.rename({"size": "family_size"}),
    ):
        table = table.join(more, on=["run", "latent"], how="left", maintain_order="left")
    trials = table["n_seeds"].to_numpy() - 1
    posterior = reproducibility(
        table["n_matched"].to_numpy(),
        trials,
        table["rate_bin"].to_numpy(),
        len(facts),
        worth_of({run.run: run.seeds for run in facts}),
    )
    columns = [
        pl.Series("recurrence_mean", posterior.mean),
        pl.Series("recurrence_lo", posterior.low),
        pl.Series("recurrence_hi", posterior.high),
        pl.Series("recurrence", _ratio(table["n_matched"].to_numpy(), trials)),
    ]
    rows = table.with_columns(
        *(column.fill_nan(None) for column in columns),
        (pl.col("fired") > 0).alias("alive"),
        (pl.col("firing_rate") > dense_rate).alias("dense"),
        pl.lit(VERSION).alias("metric_version"),
        pl.col("run").alias("run_id"),
    )
    maps = [name for name in OF_MAPS if name in rows.columns]
    return rows.select(*COLUMNS, *maps), posterior.fits


def _ratio(matched: NDArray[np.int64], trials: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(trials > 0, matched / np.maximum(trials, 1), np.nan)


def _facts(run: RunFacts, bins: list[RateBin], runs: int) -> pl.DataFrame:
    places = bin_of(run.firing["rate"].to_numpy(), bins)
    return (
        run.firing.rename({"rate": "firing_rate"})
        .with_columns(pl.Series("rate_bin", places, dtype=pl.Int64))
        .join(run.weights, on="latent", maintain_order="left")
        .select(
            pl.lit(run.run).alias("run"),
            pl.lit(run.sha256).alias("run_sha256"),
            pl.lit(run.sae_id).alias("sae_id"),
            pl.lit(run.sae_sha256).alias("sae_sha256"),
            pl.lit(run.seeds[0], dtype=pl.Int64).alias("init_seed"),
            pl.lit(run.seeds[1], dtype=pl.Int64).alias("data_seed"),
            pl.lit(runs, dtype=pl.Int64).alias("n_runs"),
            pl.all(),
        )
    )


def _counts(run: RunMatches) -> pl.DataFrame:
    size = len(run.matched)
    return pl.DataFrame(
        {
            "run": pl.Series([run.run] * size, dtype=pl.String),
            "latent": np.arange(size),
            "n_seeds": np.full(size, len(run.others) + 1),
            "n_matched": run.matched.sum(axis=1).astype(np.int64),
        }
    )


def _sides(tables: Sequence[PairTable]) -> pl.DataFrame:
    """Each latent in each pair, from its side."""
    names = ("decoder_max_cos", "encoder_max_cos")
    schema = {"run": pl.String, "other": pl.String, "latent": pl.Int64}
    frames = [pl.DataFrame(schema=schema | dict.fromkeys((*names, "score"), pl.Float64))]
    for pair, table in tables:
        for side, run, other in (("a", *pair), ("b", pair[1], pair[0])):
            rows = table.filter(pl.col("side") == side)
            frames.append(
                rows.select(
                    pl.lit(run).alias("run"),
                    pl.lit(other).alias("other"),
                    "latent",
                    *names,
                    measures.scores(rows, measures.SHARED).alias("score"),
                )
            )
    return pl.concat(frames)


def _together(firing: Sequence[PairTable]) -> pl.DataFrame:
    """How activations and contributions agree at the decoder match of each latent in each pair."""
    keys = {"run": pl.String, "other": pl.String, "latent": pl.Int64}
    schema = keys | {"act_corr": pl.Float64, "contribution": pl.Float64}
    frames = [pl.DataFrame(schema=schema)]
    for pair, table in firing:
        for latent, run, other in (("latent_a", *pair), ("latent_b", pair[1], pair[0])):
            names = [pl.lit(run).alias("run"), pl.lit(other).alias("other")]
            frames.append(table.select(*names, pl.col(latent).alias("latent"), *_TOGETHER))
    return pl.concat(frames)


def _others(
    facts: Sequence[RunFacts], tables: Sequence[PairTable], firing: Sequence[PairTable]
) -> pl.DataFrame:
    """Lists over the other runs of the group, in its order."""
    order = {run.run: place for place, run in enumerate(facts)}
    return (
        _sides(tables)
        .join(_together(firing), on=["run", "other", "latent"], how="left", maintain_order="left")
        .sort(pl.col("other").replace_strict(order, default=0, return_dtype=pl.Int64))
        .group_by("run", "latent", maintain_order=True)
        .agg(
            pl.col("other").alias("other_runs"),
            pl.when(pl.col("score") > measures.LOWEST).then(pl.col("score")).alias("match_cos"),
            pl.col("decoder_max_cos").alias("best_dec_cos"),
            pl.col("encoder_max_cos").alias("best_enc_cos"),
            *_TOGETHER,
        )
    )


def _nearest(tables: Sequence[PairTable], matches: Mapping[str, RunMatches]) -> pl.DataFrame:
    """Cosine to the nearest latent of each independent other run, averaged over those runs."""
    independent = [t for t in tables if t.pair[1] in matches[t.pair[0]].others]
    return (
        _sides(independent)
        .group_by("run", "latent")
        .agg(
            pl.col("decoder_max_cos").mean().alias("max_decoder_cos"),
            pl.col("encoder_max_cos").mean().alias("max_encoder_cos"),
        )
    )


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


def by_count(table: pl.DataFrame) -> pl.DataFrame:
    """What each count says of a latent: the posterior by firing rate, trials and count.

    Returns:
        rate_bin (-1 for the dead), rate_lo, rate_hi (of the bin), n_seeds, n_matched, latents (of
        all runs), recurrence_mean, recurrence_lo, recurrence_hi.
    """
    rates = table.group_by("rate_bin").agg(
        pl.col("firing_rate").min().alias("rate_lo"), pl.col("firing_rate").max().alias("rate_hi")
    )
    posterior = ("recurrence_mean", "recurrence_lo", "recurrence_hi")
    keys = ("rate_bin", "n_seeds", "n_matched")
    counted = table.group_by(keys).agg(
        pl.len().cast(pl.Int64).alias("latents"), *(pl.col(name).first() for name in posterior)
    )
    return (
        counted.join(rates, on="rate_bin")
        .sort(keys)
        .select("rate_bin", "rate_lo", "rate_hi", "n_seeds", "n_matched", "latents", *posterior)
    )
