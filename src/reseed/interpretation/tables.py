"""Explanations and scores as tables, as they lie in a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from reseed.interpretation.records import Explanation, Failure, Latent, Score

EXPLANATIONS = {
    "run": pl.String,
    "latent": pl.Int64,
    "kind": pl.String,
    "explanation": pl.String,
    "reasoning": pl.String,
    "model": pl.String,
    "settings": pl.String,
    "failure": pl.String,
    "reply": pl.String,
}
"""`kind`: reproducible, partly, orphan, or random for a latent that means nothing; `explanation` is
null where there is a `failure`, and `reply` is what came instead."""

SCORES = {
    "run": pl.String,
    "latent": pl.Int64,
    "control": pl.String,
    "scorer": pl.String,
    "value": pl.Float64,
    "lo": pl.Float64,
    "hi": pl.Float64,
    "chance": pl.Float64,
    "balanced_accuracy": pl.Float64,
    "auroc": pl.Float64,
    "auroc_lo": pl.Float64,
    "auroc_hi": pl.Float64,
    "positives": pl.Int64,
    "negatives": pl.Int64,
    "failed": pl.Int64,
    "failure": pl.String,
}
"""`control`: null for the latents asked about, else `shuffled` or `random`; `value` is null where
there is a `failure`."""

_NUMBERS = (
    "scorer", "value", "chance", "balanced_accuracy", "auroc", "positives", "negatives", "failed",
)  # fmt: skip


def explanation_rows(
    of: Sequence[Latent], kinds: Sequence[str], results: Sequence[Explanation | Failure]
) -> pl.DataFrame:
    """A row for each latent, failures among them."""
    rows: list[dict[str, Any]] = []
    for latent, kind, result in zip(of, kinds, results, strict=True):
        row: dict[str, Any] = {"run": latent.run, "latent": latent.latent, "kind": kind}
        if isinstance(result, Failure):
            row |= {"failure": result.reason, "reply": result.text}
        else:
            row |= {
                "explanation": result.text,
                "reasoning": result.reasoning,
                "model": result.model,
                "settings": result.settings,
            }
        rows.append(row)
    return pl.DataFrame(rows, schema=EXPLANATIONS)


def explanations_of(table: pl.DataFrame) -> dict[Latent, Explanation]:
    """The explanations in a table; failures are left out."""
    out: dict[Latent, Explanation] = {}
    for row in table.filter(pl.col("explanation").is_not_null()).iter_rows(named=True):
        of = Latent(run=row["run"], latent=row["latent"])
        out[of] = Explanation(
            of=of,
            text=row["explanation"],
            model=row["model"],
            reasoning=row["reasoning"],
            settings=row["settings"],
        )
    return out


def score_rows(
    scorer: str, control: str | None, of: Iterable[Latent], results: Iterable[Score | Failure]
) -> pl.DataFrame:
    """A row for each latent, failures among them."""
    rows: list[dict[str, Any]] = []
    for latent, result in zip(of, results, strict=True):
        row: dict[str, Any] = {"run": latent.run, "latent": latent.latent, "control": control}
        if isinstance(result, Failure):
            rows.append(row | {"scorer": scorer, "failure": result.reason})
            continue
        row["lo"], row["hi"] = result.interval or (None, None)
        row["auroc_lo"], row["auroc_hi"] = result.auroc_interval or (None, None)
        rows.append(row | {name: getattr(result, name) for name in _NUMBERS})
    return pl.DataFrame(rows, schema=SCORES)


def with_interpretation(
    latents: pl.DataFrame, explanations: pl.DataFrame, scores: pl.DataFrame | None
) -> pl.DataFrame:
    """A table of latents with what was said of them.

    Args:
        latents: with run and latent.
        explanations: columns of `EXPLANATIONS`.
        scores: columns of `SCORES`; None if nothing was scored.

    Returns:
        The same rows with `explanation`, and `score_NAME` for each scorer; null where not asked.
    """
    keys = ["run", "latent"]
    said = explanations.select(*keys, "explanation").with_columns(
        pl.col("latent").cast(latents.schema["latent"])
    )
    out = latents.join(said.unique(keys, keep="first"), on=keys, how="left")
    if scores is None:
        return out
    real = scores.filter(pl.col("control").is_null())
    for name in real["scorer"].unique().sort().to_list():
        mine = real.filter(scorer=name).select(*keys, pl.col("value").alias(f"score_{name}"))
        mine = mine.with_columns(pl.col("latent").cast(latents.schema["latent"]))
        out = out.join(mine.unique(keys, keep="first"), on=keys, how="left")
    return out
