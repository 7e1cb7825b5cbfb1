"""Errors of the pairwise match: partners that are not one feature, and features that are missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.calibration.recurrence import shared_pairs
from reseed.matching.stage import Pair
from reseed.stability.intervals import mean_over_pairs

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

    Args:
        tables: of `reseed.matching.pairs` for every two runs.
        explained: of `truth.explain`, of each run.
        taus: thresholds.

    Returns:
        tau; shared, judged, both (counts, mean over pairs of runs); false_match and
        false_non_match, each with _lo and _hi (95 %, jackknife over runs); null where no pair was
        to be judged.
    """
    pairs = list(tables)
    rows: list[dict[str, float]] = []
    for tau in taus:
        each = [_errors(tables[p], explained[p[0]], explained[p[1]], tau) for p in pairs]
        counts = np.array([one[:3] for one in each], np.float64).mean(axis=0)
        row = dict(zip(("tau", "shared", "judged", "both"), [tau, *counts.tolist()], strict=True))
        for at, name in ((3, "false_match"), (4, "false_non_match")):
            values = np.array([one[at] for one in each])
            mean, low, high = mean_over_pairs(pairs, values)
            row |= {name: float(mean)}
            row |= {f"{name}_lo": float(low.clip(0, 1)), f"{name}_hi": float(high.clip(0, 1))}
        rows.append(row)
    return pl.DataFrame(rows).with_columns(pl.selectors.float().fill_nan(None))


def _errors(
    table: pl.DataFrame, a: pl.DataFrame, b: pl.DataFrame, tau: float
) -> tuple[int, int, int, float, float]:
    mine, others = shared_pairs(table, tau)
    features = [one["feature"].to_numpy() for one in (a, b)]
    is_one = [(one["kind"] == "feature").to_numpy() for one in (a, b)]
    judged = is_one[0][mine] | is_one[1][others]
    same = features[0][mine] == features[1][others]
    true = judged & same & is_one[0][mine] & is_one[1][others]
    both = np.intersect1d(features[0][is_one[0]], features[1][is_one[1]])
    met = np.isin(both, features[0][mine][true])
    return len(mine), int(judged.sum()), len(both), _share(judged & ~same, judged), _share(~met)


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_] | None = None) -> float:
    total = len(part) if whole is None else int(whole.sum())
    return float(part.sum() / total) if total else float("nan")
