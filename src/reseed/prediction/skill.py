"""How good predicted probabilities are: scores with intervals whose unit is the run.

A trial is a latent of one run and another run that finds it or not. Scores are taken for each
ordered pair of runs, so that every run weighs the same however many of its latents are live.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.prediction.features import LiveLatents
from reseed.stability.intervals import auroc, jackknife_ends, jackknife_over_pairs
from reseed.stability.proportions import wider_than_counts
from reseed.stability.shares import quantile_edges

Floats = NDArray[np.float64]

METRICS = ("log_loss", "brier", "auroc")

_LEAST = 1e-9
"""Probabilities are kept this far from 0 and 1 before a logarithm."""

BINS = 10


def log_loss(p: Floats, hits: NDArray[np.bool_]) -> float:
    """Mean of minus the logarithm (nats) of the probability given to what happened."""
    inside = p.clip(_LEAST, 1 - _LEAST)
    return float(-np.log(np.where(hits, inside, 1 - inside)).mean())


def brier(p: Floats, hits: NDArray[np.bool_]) -> float:
    """Mean squared difference of the probability and what happened."""
    return float(((p - hits) ** 2).mean())


def pair_scores(groups: Sequence[LiveLatents], predicted: Sequence[Floats]) -> pl.DataFrame:
    """Every score of both models for each two runs, averaged over the two directions.

    Predicted are `[L, 2]` of each group: by frequency alone, by everything.

    Returns:
        run_a, run_b (with the group's name), and of each metric NAME_frequency and NAME_full; pairs
        for which a metric is not defined are NaN.
    """
    rows: list[dict[str, str | float]] = []
    for group, both in zip(groups, predicted, strict=True):
        name = "" if not len(group.key) else group.key["group"][0]
        for a, b in combinations(range(len(group.runs)), 2):
            row: dict[str, str | float] = {
                "run_a": f"{name}/{group.runs[a]}",
                "run_b": f"{name}/{group.runs[b]}",
            }
            for column, model in enumerate(("frequency", "full")):
                ways = [_scores(group, both[:, column], x, y) for x, y in ((a, b), (b, a))]
                means = np.mean(ways, axis=0)
                row |= {f"{m}_{model}": float(v) for m, v in zip(METRICS, means, strict=True)}
            rows.append(row)
    schema: dict[str, type[pl.DataType]] = {"run_a": pl.String, "run_b": pl.String}
    schema |= {f"{m}_{model}": pl.Float64 for model in ("frequency", "full") for m in METRICS}
    return pl.DataFrame(rows, schema=schema)


def _scores(group: LiveLatents, p: Floats, run: int, other: int) -> list[float]:
    rows = (group.run == run) & np.isfinite(p)
    if not rows.any():
        return [float("nan")] * len(METRICS)
    hits = group.found[rows, other]
    return [float(score(p[rows], hits)) for score in (log_loss, brier, auroc)]


def skill(pairs: pl.DataFrame) -> pl.DataFrame:
    """What everything says beyond frequency, with a 95 % interval by the jackknife over runs.

    Returns:
        metric, frequency, full, gain (positive is better: less loss, more area), lo, hi, runs,
        pairs. Null where it could not be told; the interval of fewer than three runs.
    """
    rows: list[tuple[str | float, ...]] = []
    for metric in METRICS:
        both = pairs.select("run_a", "run_b", f"{metric}_frequency", f"{metric}_full")
        known = both.filter(pl.all_horizontal(pl.selectors.float().is_finite()))
        names = list(known.select("run_a", "run_b").iter_rows())
        if not names:
            rows.append((metric, *[float("nan")] * 5, 0, 0))
            continue
        before, after = known[f"{metric}_frequency"].to_numpy(), known[f"{metric}_full"].to_numpy()
        gain = after - before if metric == "auroc" else before - after
        middle, low, high = jackknife_over_pairs(names, gain)
        runs = len({run for pair in names for run in pair})
        values = (before.mean(), after.mean(), float(middle), float(low), float(high))
        rows.append((metric, *values, runs, len(names)))
    columns = ["metric", "frequency", "full", "gain", "lo", "hi", "runs", "pairs"]
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        pl.selectors.float().fill_nan(None)
    )


def reliability(groups: Sequence[LiveLatents], predicted: Sequence[Floats]) -> pl.DataFrame:
    """What was said against what happened, in bins of equal numbers of trials.

    Predicted are `[L]` of each group.

    Returns:
        predicted (mean), observed (share of trials), lo, hi (95 %, leaving out one run at a time,
        and no narrower than the counts allow), trials, of at most `BINS` bins from the lowest to
        the highest; lo and hi are null with fewer than three runs.
    """
    p, outcome, ends = _trials(groups, predicted)
    if not len(p):
        names = ("predicted", "observed", "lo", "hi")
        return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64) | {"trials": pl.Int64})
    edges = quantile_edges(p, BINS)[1:-1]
    place = np.searchsorted(edges, p, side="left")
    bins, runs = len(edges) + 1, int(ends.max()) + 1

    def sums(weights: Floats) -> tuple[Floats, Floats]:
        """Sums of a bin, and what is left of them without each run."""
        total = _count(place, weights, bins)
        of_run = [
            _count(place[with_run], weights[with_run], bins)
            for with_run in ((ends == run).any(axis=1) for run in range(runs))
        ]
        return total, total - np.array(of_run)

    trials, fewer_trials = sums(np.ones(len(p)))
    hits, fewer_hits = sums(outcome.astype(np.float64))
    expected, _ = sums(p)
    use = trials > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (hits / trials)[use]
        ends_of_runs = jackknife_ends(observed, (fewer_hits / fewer_trials)[:, use])
    # a feature is tried from the side of every run that has it
    low, high = wider_than_counts(ends_of_runs, observed, trials[use] / runs)
    return pl.DataFrame(
        {
            "predicted": expected[use] / trials[use],
            "observed": observed,
            "lo": low,
            "hi": high,
            "trials": trials[use].astype(np.int64),
        }
    ).with_columns(pl.selectors.float().fill_nan(None))


def _count(place: NDArray[np.int64], weights: Floats, bins: int) -> Floats:
    return np.bincount(place, weights, bins).astype(np.float64)


def _trials(
    groups: Sequence[LiveLatents], predicted: Sequence[Floats]
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Probability, outcome and the two runs of each trial; runs numbered over all groups."""
    p, outcome, ends, before = [np.empty(0)], [np.empty(0, bool)], [np.empty((0, 2), np.int64)], 0
    for group, of_group in zip(groups, predicted, strict=True):
        for run in range(len(group.runs)):
            for other in (o for o in range(len(group.runs)) if o != run):
                rows = (group.run == run) & np.isfinite(of_group)
                p.append(of_group[rows])
                outcome.append(group.found[rows, other])
                ends.append(np.full((int(rows.sum()), 2), (before + run, before + other)))
        before += len(group.runs)
    return np.concatenate(p), np.concatenate(outcome), np.concatenate(ends)
