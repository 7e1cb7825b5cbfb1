"""One verdict for each latent, with its numbers beside it.

The first of these that holds:

dead
    It did not fire on held-out tokens.
dense
    It fired on more of them than `dense_rate`.
feature_stable
    It is shared with more than half of the other runs.
split, merged, absorbed
    So it is labelled in more than half of the other runs in which it is left over.
subspace_stable
    Its neighbourhood comes back: the upper median of the p-values of `reseed.matching.subspaces`,
    over the other runs in which it is left over, is at most `ALPHA`.
unstable
    None of these.

A verdict says what was found under this recipe with these runs. With few runs it is one or two
observations: read it with `n_matched`, `recurrence_lo` and `recurrence_hi`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from reseed.matching import labels

VERDICTS = (
    "feature_stable",
    "subspace_stable",
    "split",
    "merged",
    "absorbed",
    "unstable",
    "dead",
    "dense",
)
ALPHA = 0.01
"""P-value at or below which a neighbourhood counts as one that comes back."""
_STRUCTURAL = (labels.SPLIT, labels.MERGED, labels.ABSORBED)


class StructureTable(NamedTuple):
    """What became of the latents of two runs that have no counterpart."""

    pair: tuple[str, str]
    table: pl.DataFrame
    """of `reseed.matching.structure`"""
    about: Mapping[str, Any]
    """counts and chance of each side"""


def verdicts(latents: pl.DataFrame, structure: Sequence[StructureTable]) -> pl.DataFrame:
    """Add a verdict to each latent of a group.

    Args:
        latents: one row for each latent of each run, with run, latent, alive, dense, n_runs,
            n_matched.
        structure: of every pair of the runs.

    Returns:
        The same rows with `verdict` (one of `VERDICTS`; null with one run, unless dead or dense);
        and, over the other runs in which it is left over, null without any: `explained_by_3`, mean
        cosine of the fit by at most three latents; `subspace_overlap`, mean; `subspace_p`, upper
        median.
    """
    found = _by_latent(structure)
    table = latents.join(found, on=["run", "latent"], how="left", maintain_order="left")
    others = pl.col("n_runs") - 1
    verdict = pl.when(~pl.col("alive")).then(pl.lit("dead")).when("dense").then(pl.lit("dense"))
    verdict = verdict.when(others == 0).then(None)
    verdict = verdict.when(2 * pl.col("n_matched") > others).then(pl.lit("feature_stable"))
    for name in _STRUCTURAL:
        verdict = verdict.when(2 * pl.col(name) > pl.col("left")).then(pl.lit(name))
    verdict = verdict.when(pl.col("subspace_p") <= ALPHA).then(pl.lit("subspace_stable"))
    return table.with_columns(verdict.otherwise(pl.lit("unstable")).alias("verdict")).select(
        *latents.columns, "verdict", "explained_by_3", "subspace_overlap", "subspace_p"
    )


def _by_latent(structure: Sequence[StructureTable]) -> pl.DataFrame:
    """What the pairs of a latent say together."""
    columns = {
        "run": pl.String,
        "latent": pl.Int64,
        "label": pl.String,
        "explained_3": pl.Float64,
        "subspace_overlap": pl.Float64,
        "subspace_p": pl.Float64,
    }
    sides = [pl.DataFrame(schema=columns)] + [
        one.table.filter(pl.col("side") == side)
        .with_columns(pl.lit(run).alias("run"))
        .select(pl.col(name).cast(kind) for name, kind in columns.items())
        for one in structure
        for side, run in zip("ab", one.pair, strict=True)
    ]
    return (
        pl.concat(sides)
        .group_by("run", "latent")
        .agg(
            pl.len().cast(pl.Int64).alias("left"),
            *((pl.col("label") == name).sum().cast(pl.Int64).alias(name) for name in _STRUCTURAL),
            pl.col("explained_3").mean().alias("explained_by_3"),
            pl.col("subspace_overlap").mean(),
            pl.col("subspace_p").quantile(0.5, "higher"),
        )
    )


def structure_summary(latents: pl.DataFrame, structure: Sequence[StructureTable]) -> dict[str, Any]:
    """The numbers beyond one-to-one of a group for its summary; keys in docs/summary.md.

    Args:
        latents: from `verdicts`.
        structure: of every pair of the runs.
    """
    sides = [one.about[side] for one in structure for side in "ab"]
    chances = [side["by_chance"] for side in sides if side["by_chance"] is not None]
    return {
        "verdicts": {name: int((latents["verdict"] == name).sum()) for name in VERDICTS},
        "left_over": sum(side["left_over"] for side in sides),
        "labels": {n: sum(side["labels"][n] for side in sides) for n in labels.LABELS},
        "by_chance": {
            name: float(np.mean([chance[name] for chance in chances])) if chances else None
            for name in ("fit", "nearest", "gain")
        },
        "subspaces": {
            name: sum(side["subspaces"][name] for side in sides)
            for name in ("tested", "stable", "by_chance")
        },
    }
