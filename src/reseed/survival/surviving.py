"""Which latents survive a variant, and whether those that come back over seeds are likelier to.

A latent survives if its activations in both versions have r >= 0.7. Shares are of the latents that
fire in the whole. The unit of every interval is the SAE run (or whole seeds where both vary): the
delete-one jackknife of `seed_ends`, with Student's quantile, since a bootstrap of three runs would
draw the same few again. A share's interval is also no narrower than counts of one run allow.

Whether reproducible latents are likelier to survive is asked among latents that fire about as often
and as strongly: inside each run, in fifths of firing rate cut into thirds of mean activation. The
AUROC is the probability that of a survivor and a lost latent of one stratum the survivor was found
by more runs; pairs over all strata count alike. Its null shuffles survival inside strata. Where
nearly all survive or none does there are few such pairs, so the same is asked without a threshold:
the probability that of a latent that another run found and an orphan the first has the higher r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from reseed.seeds import generator
from reseed.stability.intervals import Design, auroc, percentile_ends, seed_ends
from reseed.stability.proportions import wider_than_counts
from reseed.stability.shares import quantile_edges

Floats = NDArray[np.float64]

SURVIVES = 0.7
"""r from which on a latent survives; the share at every other r is in the curves."""

LEVELS = np.round(np.linspace(0.0, 1.0, 21), 2)

KINDS = ("reproducible", "partly", "orphan")
"""Found by all other runs, by some, by none."""

_RATES, _ACTIVATIONS = 5, 3

_DRAWS = 200


def with_strata(latents: pl.DataFrame) -> pl.DataFrame:
    """The latents of a group that fire in the whole, with what they are asked by.

    Args:
        latents: run, latent, fired, rate, mean_act, n_matched, n_seeds and more.

    Returns:
        The same columns with `kind` (of `KINDS`; null with one run), `recurrence` (share of the
        other runs that have it) and `stratum`, for those with `fired` > 0.
    """
    live = latents.filter(pl.col("fired") > 0)
    others = pl.col("n_seeds") - 1
    kind = (
        pl.when(others < 1)
        .then(None)
        .when(pl.col("n_matched") == 0)
        .then(pl.lit("orphan"))
        .when(pl.col("n_matched") >= others)
        .then(pl.lit("reproducible"))
        .otherwise(pl.lit("partly"))
    )
    recurrence = pl.when(others > 0).then(pl.col("n_matched") / others)
    rates = _parts(live["rate"].to_numpy(), _RATES)
    strata = np.zeros(len(live), np.int64)
    strengths = live["mean_act"].to_numpy()
    for rate in np.unique(rates):
        inside = rates == rate
        strata[inside] = rate * _ACTIVATIONS + _parts(strengths[inside], _ACTIVATIONS)
    columns = kind.alias("kind"), recurrence.alias("recurrence"), pl.Series("stratum", strata)
    return live.with_columns(*columns)


def _parts(values: Floats, parts: int) -> NDArray[np.int64]:
    """Which of some equally large parts each value is in."""
    if not len(values):
        return np.zeros(0, np.int64)
    return np.searchsorted(quantile_edges(values, parts)[1:-1], values, side="left")


class OverRuns:
    """Numbers over the runs of a group, each with its interval.

    Args:
        design: run to its init seed and its data seed.
    """

    def __init__(self, design: Design) -> None:
        self._design = design

    def mean(self, by_run: Mapping[str, float]) -> dict[str, Any]:
        """Mean over runs of a number of each; `value`, `interval_95`, `by_run`."""
        return self._over({run: v for run, v in by_run.items() if np.isfinite(v)}, None)

    def share(self, latents: pl.DataFrame, holds: pl.Expr) -> dict[str, Any]:
        """Share of the latents of a run for which something holds, mean over runs."""
        counts = latents.group_by("run", maintain_order=True).agg(
            holds.mean().alias("share"), pl.len().alias("latents")
        )
        sizes = counts["latents"].to_list()
        shares = dict(zip(counts["run"], counts["share"], strict=True))
        found = self._over(shares, float(np.mean(sizes)) if sizes else None)
        return found | {"latents": sum(sizes)}

    def _over(self, by_run: Mapping[str, float], trials: float | None) -> dict[str, Any]:
        if not by_run:
            return {"value": None, "interval_95": None, "by_run": {}}

        def mean(runs: Sequence[float]) -> Floats:
            value = np.array(np.mean(runs), dtype=np.float64)
            return value if trials is None else np.arcsin(np.sqrt(value.clip(0.0, 1.0)))

        def without(left: set[str]) -> Floats | None:
            kept = [value for run, value in by_run.items() if run not in left]
            return mean(kept) if kept else None

        value = float(np.mean(list(by_run.values())))
        design = {run: self._design[run] for run in by_run}
        low, high = seed_ends(mean(list(by_run.values())), without, design)[1:]
        if trials is not None:
            low, high = (np.sin(end.clip(0, np.pi / 2)) ** 2 for end in (low, high))
            low, high = wider_than_counts((low, high), np.array(value), trials)
        return {"value": value, "interval_95": _ends(low, high), "by_run": dict(by_run)}

    def area(
        self, latents: pl.DataFrame, score: str, positive: pl.Expr, numbers: np.random.Generator
    ) -> dict[str, Any]:
        """AUROC of a score for what is positive, inside strata, with its null and its counts."""
        latents = latents.with_columns(positive.alias("positive"))
        runs = latents["run"].unique(maintain_order=True).to_list()
        wins, possible = (np.zeros((len(runs), 1 + _DRAWS)) for _ in range(2))
        for (run, _), cell in latents.group_by("run", "stratum", maintain_order=True):
            at = runs.index(str(run))
            won, pairs = _won(cell[score].to_numpy(), cell["positive"].to_numpy(), numbers)
            wins[at] += won
            possible[at] += pairs

        def area(left: set[str]) -> Floats | None:
            kept = [at for at, run in enumerate(runs) if run not in left]
            total = possible[kept, 0].sum()
            return np.array(wins[kept, 0].sum() / total) if total else None

        value, pairs = area(set()), float(possible[:, 0].sum())
        if value is None:
            return {"value": None, "interval_95": None, "null": {}, "pairs": 0}
        design = {run: self._design[run] for run in runs}
        _, low, high = seed_ends(value, area, design)
        null = wins[:, 1:].sum(axis=0) / possible[:, 1:].sum(axis=0)
        lower, upper = percentile_ends(null)
        return {
            "value": float(value),
            # runs that agree to the last digit, as where all pairs tie, say nothing of others
            "interval_95": _ends(low.clip(0, 1), high.clip(0, 1)) if low < high else None,
            "null": {"mean": float(null.mean()), "lo": float(lower), "hi": float(upper)},
            "pairs": int(pairs),
            "latents": len(latents),
            "strata": latents["stratum"].n_unique(),
        }


def _won(
    scores: Floats, positive: NDArray[np.bool_], numbers: np.random.Generator
) -> tuple[Floats, float]:
    """Pairs of a positive and a negative in which the positive scores higher, and all pairs.

    By sums of ranks (Mann & Whitney 1947), first as they are, then with positives shuffled; ties
    count half.
    """
    first = float(positive.sum())
    pairs = first * (len(positive) - first)
    if not pairs:
        return np.zeros(1 + _DRAWS), 0.0
    drawn = numbers.permuted(np.tile(positive, (_DRAWS, 1)), axis=1)
    every = np.concatenate([positive[None], drawn]).astype(np.float64)
    return every @ stats.rankdata(scores) - first * (first + 1) / 2, pairs


def _ends(low: Floats, high: Floats) -> list[float] | None:
    return None if np.isnan(low) or np.isnan(high) else [float(low), float(high)]


def group_numbers(latents: pl.DataFrame, over: OverRuns, label: str) -> dict[str, Any]:
    """What a variant leaves of the latents of a group of runs.

    Args:
        latents: of `with_strata`, with r, r_shuffled, r_untrained, rate_ratio and `survives`.
        over: of its runs.
        label: of the group and the variant; the draws of the null belong to it.

    Returns:
        survival and each null beside it (`value`, `interval_95`, `by_run`, `latents`), its curve's
        headline parts by kind, AUROCs, firing-rate ratios. Documented in docs/survive.md.
    """
    survives, untrained = pl.col("survives"), latents.drop_nulls("r_untrained")
    known = latents.filter(pl.col("recurrence").is_not_null())
    kinds = {kind: over.share(known.filter(kind=kind), survives) for kind in KINDS if len(known)}
    clear, numbers = latents.drop_nulls("r_lo"), generator("survival-null", label)
    return {
        "survival": over.share(latents, survives),
        "null_shuffled": over.share(latents, pl.col("r_shuffled") >= SURVIVES),
        "untrained": over.share(untrained, pl.col("r_untrained") >= SURVIVES),
        "clearly": over.share(clear, pl.col("r_lo") >= SURVIVES),
        "clearly_not": over.share(clear, pl.col("r_hi") < SURVIVES),
        "silent": over.share(latents, pl.col("fired_variant") == 0),
        "mean_r": over.mean(_by_run(latents, pl.col("r").mean())),
        "median_rate_ratio": over.mean(_by_run(latents, pl.col("rate_ratio").median())),
        "kinds": kinds,
        "auroc": over.area(known, "recurrence", survives, numbers) if len(known) else None,
        "auroc_of_r": over.area(known, "r", pl.col("recurrence") > 0, numbers)
        if len(known)
        else None,
        "auroc_without_strata": _inside(over.mean(_areas(known, "recurrence"))),
        "auroc_of_rate": _inside(over.mean(_areas(latents, "rate"))),
    }


def _inside(area: dict[str, Any]) -> dict[str, Any]:
    """The same with the ends of its interval in what an area can be."""
    ends = area["interval_95"]
    return area | {"interval_95": ends and [min(max(end, 0.0), 1.0) for end in ends]}


def _by_run(latents: pl.DataFrame, value: pl.Expr) -> dict[str, float]:
    rows = latents.group_by("run", maintain_order=True).agg(value.alias("value"))
    return dict(zip(rows["run"], rows["value"].cast(pl.Float64), strict=True))


def _areas(latents: pl.DataFrame, score: str) -> dict[str, float]:
    """AUROC of a column for survival in each run; NaN where all survive or none does."""
    return {
        str(run): float(auroc(rows[score].to_numpy(), rows["survives"].to_numpy()))
        for (run,), rows in latents.group_by("run", maintain_order=True)
    }


def curves(latents: pl.DataFrame, sites: pl.DataFrame) -> pl.DataFrame:
    """Share with at least this r, of latents, of parts of them, and of what is no latent.

    Args:
        latents: of `with_strata`.
        sites: kind and r of directions of the site that the group reads.

    Returns:
        of, r, share, lo and hi (the least and the most of a run; null for directions).
    """
    parts: list[tuple[str, pl.DataFrame, str]] = [("latents", latents, "r")]
    parts += [(kind, latents.filter(kind=kind), "r") for kind in KINDS]
    parts += [("tokens shuffled", latents, "r_shuffled")]
    parts += [("untrained SAE", latents.drop_nulls("r_untrained"), "r_untrained")]
    frames = [_curve(name, rows, column) for name, rows, column in parts if len(rows)]
    for (kind,), rows in sites.group_by("kind", maintain_order=True):
        frames.append(_curve(str(kind), rows.with_columns(pl.lit("").alias("run")), "r"))
    return pl.concat(frames)


def _curve(name: str, rows: pl.DataFrame, column: str) -> pl.DataFrame:
    each = np.stack(
        [
            (of[column].to_numpy()[:, None] >= LEVELS).mean(axis=0)
            for _, of in rows.group_by("run", maintain_order=True)
        ]
    )
    few = len(each) < 2
    ends = [None] * len(LEVELS)
    return pl.DataFrame(
        {
            "of": [name] * len(LEVELS),
            "r": LEVELS,
            "share": each.mean(axis=0),
            "lo": ends if few else each.min(axis=0),
            "hi": ends if few else each.max(axis=0),
        },
        schema_overrides={"lo": pl.Float64, "hi": pl.Float64},
    )
