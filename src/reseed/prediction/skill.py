"""How good predicted probabilities are: scores with intervals whose unit is the run.

A trial is a latent of one run and another run that finds it or not. Scores are taken for each
ordered pair of runs, so that every run weighs the same however many of its latents are live.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.prediction.features import FOLDS, LiveLatents, fit_both
from reseed.stability.intervals import Design, auroc, jackknife_over_pairs, seed_ends
from reseed.stability.proportions import wider_than_counts
from reseed.stability.shares import quantile_edges

Floats = NDArray[np.float64]

METRICS = ("log_loss", "brier", "auroc")

_LEAST = 1e-9
"""Probabilities are kept this far from 0 and 1 before a logarithm."""

BINS = 10


def held_out(groups: Sequence[LiveLatents]) -> list[NDArray[np.float64]]:
    """Each latent predicted by models that saw neither its run nor its feature.

    Returns:
        Of each group `[L, 2]`: by frequency alone, by everything; NaN where there was nothing to
        learn from.
    """
    out = [np.full((len(group.rows), 2), np.nan) for group in groups]
    for at, group in enumerate(groups):
        for run, fold in product(range(len(group.runs)), range(FOLDS)):
            at_stake = (group.run == run) & (group.fold == fold)
            if at_stake.any():
                models = fit_both(groups, [(at, run)], fold)
                for column, model in enumerate(models or ()):
                    out[at][at_stake, column] = model.probability(group.rows[at_stake])
    return out


def log_loss(p: Floats, hits: NDArray[np.bool_]) -> float:
    """Mean of minus the logarithm (nats) of the probability given to what happened."""
    inside = p.clip(_LEAST, 1 - _LEAST)
    return float(-np.log(np.where(hits, inside, 1 - inside)).mean())


def brier(p: Floats, hits: NDArray[np.bool_]) -> float:
    """Mean squared difference of the probability and what happened."""
    return float(((p - hits) ** 2).mean())


def pair_scores(groups: Sequence[LiveLatents], predicted: Sequence[Floats]) -> pl.DataFrame:
    """Every score of both models for each two independent runs, over the two directions.

    Predicted are `[L, 2]` of each group: by frequency alone, by everything.

    Returns:
        run_a, run_b (as in `seeds_of`), and of each metric NAME_frequency and NAME_full; pairs
        for which a metric is not defined are NaN.
    """
    rows: list[dict[str, str | float]] = []
    names = iter(seeds_of(groups))
    for group, both in zip(groups, predicted, strict=True):
        mine = [next(names) for _ in group.runs]
        for a, b in combinations(range(len(group.runs)), 2):
            if not group.tried[a, b]:
                continue
            row: dict[str, str | float] = {"run_a": mine[a], "run_b": mine[b]}
            for column, model in enumerate(("frequency", "full")):
                ways = [_scores(group, both[:, column], x, y) for x, y in ((a, b), (b, a))]
                means = np.mean(ways, axis=0)
                row |= {f"{m}_{model}": float(v) for m, v in zip(METRICS, means, strict=True)}
            rows.append(row)
    schema: dict[str, type[pl.DataType]] = {"run_a": pl.String, "run_b": pl.String}
    schema |= {f"{m}_{model}": pl.Float64 for model in ("frequency", "full") for m in METRICS}
    return pl.DataFrame(rows, schema=schema)


def seeds_of(groups: Sequence[LiveLatents]) -> Design:
    """Seeds of all runs in order, by number of the group and run; groups share no seed."""
    known: dict[tuple[int, int, int], int] = {}
    out: dict[str, tuple[int, int]] = {}
    for at, group in enumerate(groups):
        for run in group.runs:
            init, data = ((axis, at, seed) for axis, seed in enumerate(group.design[run]))
            numbers = (known.setdefault(seed, len(known)) for seed in (init, data))
            out[f"{at}/{run}"] = (next(numbers), next(numbers))
    return out


def _scores(group: LiveLatents, p: Floats, run: int, other: int) -> list[float]:
    rows = (group.run == run) & np.isfinite(p)
    if not rows.any():
        return [float("nan")] * len(METRICS)
    hits = group.found[rows, other]
    return [float(score(p[rows], hits)) for score in (log_loss, brier, auroc)]


def skill(pairs: pl.DataFrame, design: Design | None = None) -> pl.DataFrame:
    """What everything says beyond frequency, with a 95 % interval by the jackknife over runs.

    Where both seeds are crossed, whole seeds are left out.

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
        middle, low, high = jackknife_over_pairs(names, gain, design)
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
        predicted (mean), observed (share of trials), lo, hi (95 %, leaving out one run at a time
        or, of crossed seeds, one seed, and no narrower than the counts allow), trials, of at most
        `BINS` bins from the lowest to the highest; lo and hi are null with fewer than three runs.
    """
    p, outcome, ends = _trials(groups, predicted)
    if not len(p):
        names = ("predicted", "observed", "lo", "hi")
        return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64) | {"trials": pl.Int64})
    edges = quantile_edges(p, BINS)[1:-1]
    place = np.searchsorted(edges, p, side="left")
    bins, design = len(edges) + 1, seeds_of(groups)
    runs = {name: seeds for at, (name, seeds) in enumerate(design.items()) if (ends == at).any()}

    def observed(left: set[str]) -> Floats:
        """Share of the trials of each bin without some runs."""
        away = [at for at, name in enumerate(design) if name in left]
        kept = ~np.isin(ends, away).any(axis=1)
        hits = _count(place[kept], outcome[kept].astype(np.float64), bins)
        trials = _count(place[kept], np.ones(kept.sum()), bins)
        with np.errstate(invalid="ignore", divide="ignore"):
            return hits / trials

    trials, expected = _count(place, np.ones(len(p)), bins), _count(place, p, bins)
    use = trials > 0
    value, *both_ends = (of[use] for of in seed_ends(observed(set()), observed, runs))
    # a feature is tried from the side of every run that has it
    low, high = wider_than_counts((both_ends[0], both_ends[1]), value, trials[use] / len(runs))
    return pl.DataFrame(
        {
            "predicted": expected[use] / trials[use],
            "observed": value,
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
            for other in np.flatnonzero(group.tried[run]).tolist():
                rows = (group.run == run) & np.isfinite(of_group)
                p.append(of_group[rows])
                outcome.append(group.found[rows, other])
                ends.append(np.full((int(rows.sum()), 2), (before + run, before + other)))
        before += len(group.runs)
    return np.concatenate(p), np.concatenate(outcome), np.concatenate(ends)
