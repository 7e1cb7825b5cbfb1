"""Which true features are found: in one run, in any, in all, and by how often they fire."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.calibration.recurrence import Recurrence
from reseed.calibration.resampling import jackknife, subsets
from reseed.subjects.toy_truth import Truth

Bools = NDArray[np.bool_]


def feature_table(seen: Recurrence, truth: Truth) -> pl.DataFrame:
    """One row for each true feature of one dimension.

    Returns:
        feature, rate (true firing probability), depth, parent (null for none), children;
        n_runs (runs in which a latent is this feature), latents (that are, a run; above n_runs / R
        where runs have it twice).
    """
    times = _times(seen, truth)
    children = np.bincount(truth.parent[truth.parent >= 0], minlength=len(truth.parent))
    at = truth.single
    return pl.DataFrame(
        {
            "feature": at,
            "rate": truth.firing[at],
            "depth": truth.depth[at],
            "parent": pl.Series(truth.parent[at], dtype=pl.Int64).replace(-1, None),
            "children": children[at],
            "n_runs": (times > 0).sum(axis=0)[at],
            "latents": times.mean(axis=0)[at],
        }
    )


def recall(seen: Recurrence, truth: Truth, bins: int) -> pl.DataFrame:
    """Share of the true features of one dimension that are found, by kind and firing rate.

    Returns:
        stratum ("all", "rate 1" ... from the rarest, "depth 0" ... where there are trees), rate_lo,
        rate_hi, features; any, mean, all (share found in at least one run, in a run on average, in
        every run), mean_lo and mean_hi (95 %, jackknife over runs), twice (share of those found in
        a run that it has more than once).
    """
    times = _times(seen, truth)
    rows: list[dict[str, object]] = []
    for name, at in _feature_strata(truth, bins):
        has = times[:, at] > 0
        each = has.mean(axis=1)
        whole, runs = each.mean(), len(each)
        left = np.array([np.delete(each, run).mean() for run in range(runs)] if runs > 1 else [])
        low, high = jackknife(np.array(whole), left)
        rows.append(
            {
                "stratum": name,
                "rate_lo": float(truth.firing[at].min()),
                "rate_hi": float(truth.firing[at].max()),
                "features": len(at),
                "any": float(has.any(axis=0).mean()),
                "mean": float(whole),
                "mean_lo": max(float(low), 0.0),
                "mean_hi": min(float(high), 1.0),
                "all": float(has.all(axis=0).mean()),
                "twice": float((times[:, at] > 1).sum() / max(has.sum(), 1)),
            }
        )
    return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None))


def discovered(seen: Recurrence, truth: Truth) -> pl.DataFrame:
    """How many true features a list of "found by at least n of m runs" holds.

    Returns:
        m, n, features (mean over sets of m runs), share (of all true ones of one dimension).
    """
    total, rows = len(truth.single), []
    for size in range(2, len(seen.rate) + 1):
        chosen = subsets(len(seen.rate), size)
        held = np.zeros(size)
        for runs in chosen:
            score = seen.found[runs][:, :, runs].sum(axis=2)
            is_one = seen.kind[runs] == "feature"
            best = np.full(len(truth.firing), -1)
            np.maximum.at(best, seen.feature[runs][is_one], score[is_one])
            held += [(best >= n).sum() for n in range(size)]
        mean = held / len(chosen)
        rows += [(size, n + 1, float(mean[n]), float(mean[n] / total)) for n in range(size)]
    return pl.DataFrame(rows, schema=["m", "n", "features", "share"], orient="row")


def _times(seen: Recurrence, truth: Truth) -> NDArray[np.int64]:
    """[R, G] latents of each run that are each true feature."""
    return np.stack(
        [
            np.bincount(feature[kind == "feature"], minlength=len(truth.firing))
            for kind, feature in zip(seen.kind, seen.feature, strict=True)
        ]
    )


def _feature_strata(truth: Truth, bins: int) -> list[tuple[str, NDArray[np.int64]]]:
    single = truth.single
    ordered = single[np.argsort(truth.firing[single], kind="stable")]
    out = [("all", single)]
    parts = [part for part in np.array_split(ordered, bins) if len(part)]
    out += [(f"rate {number}", part) for number, part in enumerate(parts, 1)]
    deepest = int(truth.depth.max(initial=0))
    for depth in range(deepest + 1 if deepest else 0):
        at = single[truth.depth[single] == depth]
        if len(at):
            out.append((f"depth {depth}", at))
    return out
