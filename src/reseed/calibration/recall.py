"""Which true features are found: in one run, in any, in all, and by how often they fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.calibration.detector import Recurrence, subsets
from reseed.matching.measures import shared_pairs
from reseed.runs import Pair
from reseed.stability.intervals import jackknife_ends, mean_over_pairs
from reseed.stability.proportions import wider_than_counts
from reseed.subjects.toy_truth import Truth

Bools = NDArray[np.bool_]


def feature_table(recurrence: Recurrence, truth: Truth) -> pl.DataFrame:
    """One row for each true feature of one dimension.

    Returns:
        feature, rate (true firing probability), depth, parent (null for none), children;
        n_runs (runs in which a latent is this feature), latents (that are, a run; above n_runs / R
        where runs have it twice).
    """
    times = _times(recurrence, truth)
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


def recall(recurrence: Recurrence, truth: Truth, bins: int) -> pl.DataFrame:
    """Share of the true features of one dimension that are found, by kind and firing rate.

    Returns:
        stratum ("all", "rate 1" ... from the rarest, "depth 0" ... where there are trees), rate_lo,
        rate_hi, features; any, mean, all (share found in at least one run, in a run on average, in
        every run), mean_lo and mean_hi (95 %, jackknife over runs), twice (share of those found in
        a run that it has more than once).
    """
    times = _times(recurrence, truth)
    rows: list[dict[str, object]] = []
    for name, at in _feature_strata(truth, bins):
        has = times[:, at] > 0
        each = has.mean(axis=1)
        mean, runs = each.mean(), len(each)
        left = np.array([np.delete(each, run).mean() for run in range(runs)] if runs > 1 else [])
        over_runs = jackknife_ends(np.array(mean), left)
        low, high = wider_than_counts(over_runs, np.array(mean), len(at))
        rows.append(
            {
                "stratum": name,
                "rate_lo": float(truth.firing[at].min()),
                "rate_hi": float(truth.firing[at].max()),
                "features": len(at),
                "any": float(has.any(axis=0).mean()),
                "mean": float(mean),
                "mean_lo": float(low),
                "mean_hi": float(high),
                "all": float(has.all(axis=0).mean()),
                "twice": float((times[:, at] > 1).sum() / max(has.sum(), 1)),
            }
        )
    return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None))


def discovered(recurrence: Recurrence, truth: Truth) -> pl.DataFrame:
    """How many true features a list of "found by at least n of m runs" holds.

    Returns:
        m, n, features (mean over sets of m runs), share (of all true ones of one dimension).
    """
    total, rows = len(truth.single), []
    for size in range(2, len(recurrence.rate) + 1):
        chosen = subsets(len(recurrence.rate), size)
        held = np.zeros(size)
        for runs in chosen:
            score = recurrence.found[runs][:, :, runs].sum(axis=2)
            is_one = recurrence.kind[runs] == "feature"
            best = np.full(len(truth.firing), -1)
            np.maximum.at(best, recurrence.feature[runs][is_one], score[is_one])
            held += [(best >= n).sum() for n in range(size)]
        mean = held / len(chosen)
        rows += [(size, n + 1, float(mean[n]), float(mean[n] / total)) for n in range(size)]
    return pl.DataFrame(rows, schema=["m", "n", "features", "share"], orient="row")


def _times(recurrence: Recurrence, truth: Truth) -> NDArray[np.int64]:
    """[R, G] latents of each run that are each true feature."""
    return np.stack(
        [
            np.bincount(feature[kind == "feature"], minlength=len(truth.firing))
            for kind, feature in zip(recurrence.kind, recurrence.feature, strict=True)
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


TAUS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""At which the errors are measured, besides the study's own."""


def pair_errors(
    tables: Mapping[Pair, pl.DataFrame],
    explained: Mapping[str, pl.DataFrame],
    taus: Sequence[float],
) -> pl.DataFrame:
    """How often a shared pair is wrong, and how often two latents of one feature are not shared.

    A *false match*: of the shared pairs of which at least one latent is a true feature, those whose
    latents have different nearest features. A *false non-match*: of the features that both runs
    have, those of which no two latents are shared.

    Returns:
        tau; shared, judged, both (counts, mean over pairs of runs); false_match and
        false_non_match, each with _lo and _hi (95 %, jackknife over runs); null where no pair was
        to be judged.
    """
    pairs = list(tables)
    rows: list[dict[str, float]] = []
    for tau in taus:
        each = [_errors(tables[p], explained[p[0]], explained[p[1]], tau) for p in pairs]
        counts = np.array([errors[:3] for errors in each], np.float64).mean(axis=0)
        row = dict(zip(("tau", "shared", "judged", "both"), [tau, *counts.tolist()], strict=True))
        for at, name in ((3, "false_match"), (4, "false_non_match")):
            values = np.array([errors[at] for errors in each])
            latents = max(1.0, row["judged" if at == 3 else "both"])
            mean, low, high = mean_over_pairs(pairs, values, latents=latents)
            row |= {name: float(mean)}
            row |= {f"{name}_lo": float(low), f"{name}_hi": float(high)}
        rows.append(row)
    return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None))


def _errors(
    table: pl.DataFrame, a: pl.DataFrame, b: pl.DataFrame, tau: float
) -> tuple[int, int, int, float, float]:
    shared = shared_pairs(table, tau)
    of_a, of_b = shared["latent_a"].to_numpy(), shared["latent_b"].to_numpy()
    features = [latents["feature"].to_numpy() for latents in (a, b)]
    is_one = [(latents["kind"] == "feature").to_numpy() for latents in (a, b)]
    judged = is_one[0][of_a] | is_one[1][of_b]
    same = features[0][of_a] == features[1][of_b]
    true = judged & same & is_one[0][of_a] & is_one[1][of_b]
    both = np.intersect1d(features[0][is_one[0]], features[1][is_one[1]])
    met = np.isin(both, features[0][of_a][true])
    return len(shared), int(judged.sum()), len(both), _share(judged & ~same, judged), _share(~met)


def _share(part: NDArray[np.bool_], among: NDArray[np.bool_] | None = None) -> float:
    total = len(part) if among is None else int(among.sum())
    return float(part.sum() / total) if total else float("nan")
