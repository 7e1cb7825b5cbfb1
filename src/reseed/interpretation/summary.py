"""What the scores of a group of runs say, as it is written down and shown."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import polars as pl

from reseed.errors import SpecError
from reseed.interpretation.compare_groups import GroupComparison, compare_groups
from reseed.interpretation.instruments import Embedder
from reseed.interpretation.similarity import explanation_similarity
from reseed.interpretation.tables import explanations_of


def comparison(
    latents: pl.DataFrame,
    explanations: pl.DataFrame,
    table: pl.DataFrame,
    embedder: Embedder | None,
) -> dict[str, Any]:
    """What the scores of a group say, as it is written down.

    Args:
        latents: of the group, see docs/latent_table.md.
        explanations: columns of `reseed.interpretation.tables.EXPLANATIONS`.
        table: columns of `reseed.interpretation.tables.SCORES`.
        embedder: to compare explanations within families; None to leave that out.

    Returns:
        `scorers`: one for each with `scorer`, `chance`, `kinds`, `counts`, `differences` (see
        `GroupComparison`), `controls` (name to mean value), `failed_questions` and `says`;
        `unscored`: a sentence about each scorer that gave no latent a score;
        `similarity`: None, or the fields of `ExplanationSimilarity` but for its pairs.
    """
    real = table.filter(pl.col("control").is_null())
    done = real.filter(pl.col("value").is_not_null())["scorer"].unique().to_list()
    scored = real.filter(pl.col("scorer").is_in(done))
    nothing = real.filter(~pl.col("scorer").is_in(done)).group_by("scorer", maintain_order=True)
    found = compare_groups(scored, latents) if len(scored) else []
    out: dict[str, Any] = {
        "scorers": [_compared(one, table) for one in found],
        "unscored": [_without_score(str(name), rows) for (name,), rows in nothing],
        "similarity": None,
    }
    if embedder is None:
        return out
    known = set(latents["run"])
    said = [one for one in explanations_of(explanations).values() if one.of.run in known]
    try:
        near = explanation_similarity(said, latents, embedder.embed)
    except SpecError as error:  # no family with two explained latents
        return out | {"similarity": {"says": f"not measured: {error}"}}
    keep = {k: v for k, v in asdict(replace(near, pairs=pl.DataFrame())).items() if k != "pairs"}
    return out | {"similarity": keep}


def _without_score(scorer: str, rows: pl.DataFrame) -> str:
    reasons = rows["failure"].value_counts(sort=True)
    return f"{scorer}: none of {len(rows)} latents got a score; mostly: {reasons['failure'][0]}"


def _compared(one: GroupComparison, table: pl.DataFrame) -> dict[str, Any]:
    mine = table.filter(scorer=one.scorer)
    controls = {
        control: float(values.mean())  # pyright: ignore[reportArgumentType]
        for control in ("shuffled", "random")
        if len(values := mine.filter(control=control)["value"].drop_nulls())
    }
    chance = mine["chance"].drop_nulls()
    return {
        "scorer": one.scorer,
        "chance": float(chance[0]) if len(chance) else None,
        "kinds": one.kinds.to_dicts(),
        "counts": one.counts.to_dicts(),
        "differences": one.differences.to_dicts(),
        "controls": controls,
        "failed_questions": int(mine.filter(pl.col("control").is_null())["failed"].sum()),
        "says": one.says,
    }
