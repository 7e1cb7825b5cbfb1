"""Are latents that do not come back less interpretable? Scores of orphans against the rest.

Needs no torch. The unit is the latent, and latents of one family count as one: intervals speak of
other latents of these runs, not of other runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.interpretation.strata import KINDS, live_kinds
from reseed.stability.intervals import Floats, t_quantile
from reseed.stability.proportions import inside


class Coefficient(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(
    design: Floats, y: Floats, weights: Floats, clusters: NDArray[np.int64], column: int
) -> Coefficient | None:
    """One coefficient of a weighted regression, with a cluster-robust interval.

    The covariance is the sandwich summed over clusters, residuals divided by the square root of
    1 - leverage (HC2); the quantile is Student's with clusters - columns degrees of freedom.
    The clustered errors of statsmodels leave leverage out: with five latents of a kind their
    intervals are a tenth shorter, and hold the truth less often than these.

    Args:
        design: `[n, p]`; columns without variation beyond the others are dropped.
        y: `[n]`.
        weights: `[n]`, above 0.
        clusters: `[n]` number of the cluster of each row.
        column: whose coefficient is wanted.

    Returns:
        None where it is not determined, or there are too few clusters for an interval.
    """
    design, column = _independent(design, column)
    groups = len(np.unique(clusters))
    if column < 0 or groups - design.shape[1] < 1:
        return None
    root = np.sqrt(weights)
    x, z = design * root[:, None], y * root
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ (x.T @ z)
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    # HC2: an unbiased variance if all rows vary alike; without it small strata look too sure
    residual = (z - x @ beta) / np.sqrt(np.maximum(1 - leverage, 1e-9))
    _, place = np.unique(clusters, return_inverse=True)
    scores = np.zeros((groups, x.shape[1]))
    np.add.at(scores, place, x * residual[:, None])
    error = float(np.linalg.norm(scores @ inverse[:, column]))  # no rounding makes it negative
    half = t_quantile(groups - design.shape[1]) * error
    value = float(beta[column])
    return Coefficient(value, value - half, value + half)


def _independent(design: Floats, column: int) -> tuple[Floats, int]:
    """The design with the wanted column last, without columns that the ones before them give."""
    order = [*(c for c in range(design.shape[1]) if c != column), column]
    kept: list[int] = []
    for c in order:
        if np.linalg.matrix_rank(design[:, [*kept, c]]) > len(kept):
            kept.append(c)
    return design[:, kept], kept.index(column) if column in kept else -1


CONTRASTS = (
    ("orphan", ("reproducible", "partly")),
    ("orphan", ("reproducible",)),
    ("partly", ("reproducible",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComparison:
    """Scores by how often latents came back, under one scorer."""

    scorer: str
    kinds: pl.DataFrame
    """kind, live (latents in the table), scored, failed, rate (median firing rate of the scored),
    mean, lo, hi: of all live latents of that kind"""
    counts: pl.DataFrame
    """found (in so many runs, its own included), of (runs), live, scored, failed, mean, lo, hi"""
    differences: pl.DataFrame
    """contrast, unadjusted, unadjusted_lo, unadjusted_hi, matched, matched_lo, matched_hi, strata
    (in which both sides were scored), scored: as they are, and at equal firing rate"""
    says: str


def compare_groups(
    scores: pl.DataFrame, latents: pl.DataFrame, *, column: str = "value"
) -> list[GroupComparison]:
    """Compare the scores of orphans with those of the latents that came back.

    *Unadjusted* is the difference between the means over all live latents; a sample that took some
    firing rates more than others (`sample_latents` does) is weighted back. *Matched* is the
    difference within strata of firing rate, with a line in its logarithm: what is left when both
    sides fire equally often.

    Args:
        scores: run, latent, scorer and the column with the score; null where scoring failed.
            Several rows of a latent under a scorer are averaged.
        latents: the table of docs/latent_table.md, of one group of runs.
        column: of `scores`.

    Returns:
        One for each scorer, in the order of their names.

    Raises:
        SpecError: if a column is missing or no scored latent is among the live ones.
    """
    missing = [n for n in ("run", "latent", "scorer", column) if n not in scores.columns]
    if missing:
        raise SpecError(f"the table of scores lacks {', '.join(missing)}")
    every = live_kinds(latents)
    out: list[GroupComparison] = []
    for scorer in scores["scorer"].unique().sort().to_list():
        by_latent = (
            scores.filter(pl.col("scorer") == scorer)
            .with_columns(pl.col(column).cast(pl.Float64).fill_nan(None))
            .group_by("run", "latent")
            .agg(pl.col(column).mean().alias("score"))
        )
        judged = every.join(by_latent, on=["run", "latent"], how="inner").sort("run", "latent")
        if not judged["score"].is_not_null().any():
            raise SpecError(
                f"{scorer}: none of its {len(by_latent)} latents has a score and is a live latent "
                "of the table; are both of the same study and group?"
            )
        out.append(_compare(scorer, every, judged))
    return out


def _compare(scorer: str, every: pl.DataFrame, judged: pl.DataFrame) -> GroupComparison:
    scored = _weighted(judged.filter(pl.col("score").is_not_null()), every)
    ends = _RANGE.get(scorer, (-np.inf, np.inf))
    kinds = pl.DataFrame(
        [
            {
                "kind": kind,
                **_counted(pl.col("kind") == kind, every, judged),
                "rate": scored.filter(pl.col("kind") == kind)["firing_rate"].median(),
                **_mean(scored.filter(pl.col("kind") == kind), ends),
            }
            for kind in KINDS
        ],
        schema_overrides={"rate": pl.Float64} | _ENDS,
    )
    levels = every.select("n_matched", "n_seeds").unique().sort("n_seeds", "n_matched")
    counts = pl.DataFrame(
        [
            {"found": n + 1, "of": of, **_counted(_is(n, of), every, judged)}
            | _mean(scored.filter(_is(n, of)), ends)
            for n, of in levels.iter_rows()
        ],
        schema_overrides=_ENDS,
    )
    widest = ends[1] - ends[0]
    rows = [_contrast(scored, widest, *contrast) for contrast in CONTRASTS]
    differences = pl.DataFrame(rows, schema_overrides=_BOTH)
    return GroupComparison(
        scorer=scorer,
        kinds=kinds,
        counts=counts,
        differences=differences,
        says=_sentence(scorer, kinds, differences),
    )


_ENDS: dict[str, type[pl.DataType]] = dict.fromkeys(("mean", "lo", "hi"), pl.Float64)

_BOTH = {
    f"{name}{end}": pl.Float64 for name in ("unadjusted", "matched") for end in ("", "_lo", "_hi")
}


def _is(n_matched: int, n_seeds: int) -> pl.Expr:
    return (pl.col("n_matched") == n_matched) & (pl.col("n_seeds") == n_seeds)


def _counted(which: pl.Expr, every: pl.DataFrame, judged: pl.DataFrame) -> dict[str, int]:
    scores = judged.filter(which)["score"]
    failed = scores.null_count()
    return {"live": every.filter(which).height, "scored": len(scores) - failed, "failed": failed}


def _weighted(scored: pl.DataFrame, every: pl.DataFrame) -> pl.DataFrame:
    """With `weight`: the live latents of its kind and stratum that each scored one stands for."""
    cell = ["kind", "stratum"]
    live = every.group_by(cell).agg(pl.len().alias("live"))
    return scored.join(live, on=cell, maintain_order="left").with_columns(
        (pl.col("live") / pl.len().over(cell)).alias("weight")
    )


_SHARES = ("detection", "fuzzing", "intruder", "embedding", "example_embedding", "surprisal")
_RANGE = dict.fromkeys(_SHARES, (0.0, 1.0)) | {"simulation": (-1.0, 1.0)}
"""Least and most that a score can be, of those that have such: shares, areas, correlations."""


def _mean(rows: pl.DataFrame, range_: tuple[float, float]) -> dict[str, float | None]:
    if not len(rows):
        return {"mean": None, "lo": None, "hi": None}
    mean = _fit(rows, np.ones((len(rows), 1)), rows["weight"].to_numpy(), 0)
    if mean is None:
        average = float(np.average(rows["score"], weights=rows["weight"]))
        return {"mean": average, "lo": None, "hi": None}
    low, high = map(float, inside(np.array(mean[1:]), *range_))
    return {"mean": mean.value, "lo": low, "hi": high}


def _fit(rows: pl.DataFrame, design: Floats, weights: Floats, column: int) -> Coefficient | None:
    _, clusters = np.unique(rows["unit"].to_numpy(), return_inverse=True)
    return estimate(design, rows["score"].to_numpy(), weights, clusters.astype(np.int64), column)


def _contrast(
    scored: pl.DataFrame, widest: float, kind: str, others: Sequence[str]
) -> dict[str, object]:
    rows = scored.filter(pl.col("kind").is_in([kind, *others]))
    rows = rows.with_columns((pl.col("kind") == kind).cast(pl.Float64).alias("side"))
    side = rows["side"].to_numpy()
    plain = None
    if 0 < side.sum() < len(side):
        design = np.stack([np.ones(len(side)), side], axis=1)
        plain = _fit(rows, design, rows["weight"].to_numpy(), 1)
    matched, strata, used = _matched(rows)
    return {
        "contrast": f"{kind} - {'rest' if len(others) > 1 else others[0]}",
        **_ends("unadjusted", plain, widest),
        **_ends("matched", matched, widest),
        "strata": strata,
        "scored": used,
    }


def _matched(rows: pl.DataFrame) -> tuple[Coefficient | None, int, int]:
    """Difference within strata of firing rate; of the others, kinds as common as they are."""
    both = rows.filter(pl.col("side").n_unique().over("stratum") == 2)
    strata = sorted(both["stratum"].unique().to_list())
    if not strata:
        return None, 0, 0
    cell = ["stratum", "side"]
    weights = both.select(pl.col("weight") / pl.col("weight").mean().over(cell))["weight"]
    dummies = [(both["stratum"] == s).to_numpy().astype(np.float64) for s in strata]
    rate = np.log(both["firing_rate"].to_numpy())
    design = np.stack([*dummies, rate - rate.mean(), both["side"].to_numpy()], axis=1)
    difference = _fit(both, design, weights.to_numpy(), design.shape[1] - 1)
    return difference, len(strata), len(both)


def _ends(name: str, estimated: Coefficient | None, widest: float) -> dict[str, float | None]:
    values: tuple[float | None, ...] = (None, None, None)
    if estimated is not None:
        values = estimated.value, *map(float, inside(np.array(estimated[1:]), -widest, widest))
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), values, strict=True))


def _sentence(scorer: str, kinds: pl.DataFrame, differences: pl.DataFrame) -> str:
    parts = [
        f"{row['kind']} {_shown(row['mean'], row['lo'], row['hi'])} (n = {row['scored']})"
        for row in kinds.iter_rows(named=True)
        if row["scored"]
    ]
    first = differences.row(0, named=True)
    start = f"{scorer}: {', '.join(parts)}. "
    if first["unadjusted"] is None:
        return start + "There are no scores on both sides, so orphans cannot be compared."
    plain = _shown(first["unadjusted"], first["unadjusted_lo"], first["unadjusted_hi"])
    start += f"Orphans minus the rest: {plain}"
    if first["matched"] is None:
        return start + "; no firing rate has both, so that alone may be the reason."
    equal = _shown(first["matched"], first["matched_lo"], first["matched_hi"])
    failed = kinds["failed"].sum()
    return f"{start}; at equal firing rate {equal}." + (
        f" {failed} latents have no score." if failed else ""
    )


def _shown(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
