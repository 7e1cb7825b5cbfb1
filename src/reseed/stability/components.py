"""Where disagreement comes from: the init seed, the data seed, or their combination.

Take whether a run finds a feature as a random variable with effects of the feature, of feature and
init seed, of feature and data seed, and a rest. Of what one run finds, let A be the share that
another run finds too. With A0 for runs that share neither seed, AI for the same init and AD for the
same data the components, in parts of what one run finds, are

    feature      A0                   found whatever the seeds
    init         AI - A0              goes with the init seed
    data         AD - A0              goes with the data seed
    both         1 - AI - AD + A0     goes with the combination, or with no seed at all

They add to 1; a negative one says that sharing that seed does not help. Runs that share the init
start from equal weights: read AI beside the untrained pair, which is 1 there, beside how far the
latents have moved, and beside how many of its matches join latents of the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from reseed.matching import measures
from reseed.matching.measures import Measure
from reseed.stability import shares
from reseed.stability.design import CLASSES, NEITHER, SAME_DATA, SAME_INIT, class_of
from reseed.stability.intervals import Design, crossed_error, is_crossed
from reseed.stability.shares import PairTable
from reseed.stability.strata import Members

Floats = NDArray[np.float64]
Number = dict[str, Any]

PARTS = ("feature", "init", "data", "both")


def components(
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    design: Design,
    members: Members,
    tau: float,
) -> dict[str, Any] | None:
    """Agreement by what two runs share, and the variance components, for the measure `shared`.

    Args:
        end: tables of all pairs, those that share a seed too, at the end of training.
        start: the same at its start.
        design: seeds of the runs.
        members: which latents count.
        tau: the threshold.

    Returns:
        `classes`: for each of `CLASSES` `pairs`, `shared`, `pw_mcc`, `untrained` and `same_number`
        (of the shared latents, how many have the partner of their own number); `parts`: for each of
        `PARTS` `value` and `interval_95`. None where not both seeds vary, or where one of the
        classes has no pairs.
    """
    kinds = [class_of(one.pair, design) for one in end]
    if not is_crossed(design) or set(kinds) != set(CLASSES):
        return None
    shared = np.array([_share(one, members, tau) for one in end])
    cosine = np.array([shares.mean_score(one, measures.PW_MCC, members) for one in end])
    before = np.array([_share(one, members, tau) for one in start])
    numbers = np.array([_same_number(one, members, tau) for one in end])
    columns = np.stack([shared, cosine, before, numbers], axis=1)
    values = _with_ends(lambda left: _class_means(end, columns, design, left), design)
    parts = _with_ends(
        lambda left: _parts(_class_means(end, shared[:, None], design, left)), design, -np.inf
    )
    names = ("shared", "pw_mcc", "untrained", "same_number")
    return {
        "classes": {
            kind: {"pairs": kinds.count(kind)}
            | {name: values(at, column) for column, name in enumerate(names)}
            for at, kind in enumerate(CLASSES)
        },
        "parts": {name: parts(at) for at, name in enumerate(PARTS)},
    }


def _share(one: PairTable, members: Members, tau: float) -> float:
    at = int(np.abs(shares.TAUS - tau).argmin())
    measure: Measure = measures.SHARED
    return float(shares.curve(one, measure, members)[at])


def _same_number(one: PairTable, members: Members, tau: float) -> float:
    """Of the shared latents of a pair, how many have the partner of their own number."""
    side = one.table.filter(pl.col("side") == "a").filter(pl.Series(members[one.pair[0]]))
    found = side.filter(measures.scores(side, measures.SHARED) >= tau - 1e-9)
    same = (found["latent"] == found["decoder_match"]).sum()
    return float(same / len(found)) if len(found) else float("nan")


def _class_means(
    tables: Sequence[PairTable], columns: Floats, design: Design, left: set[str]
) -> Floats | None:
    """`[classes, columns]` means over the pairs without some runs."""
    kept = [not left & set(one.pair) for one in tables]
    kinds = np.array([class_of(one.pair, design) for one in tables])
    rows = [columns[kept & (kinds == kind)] for kind in CLASSES]
    return np.stack([row.mean(axis=0) for row in rows]) if all(map(len, rows)) else None


def _parts(means: Floats | None) -> Floats | None:
    if means is None:
        return None
    at = {kind: means[place, 0] for place, kind in enumerate(CLASSES)}
    neither, init, data = at[NEITHER], at[SAME_INIT], at[SAME_DATA]
    return np.array([neither, init - neither, data - neither, 1 - init - data + neither])


def _with_ends(
    statistic: Callable[[set[str]], Floats | None], design: Design, least: float = -1.0
) -> Callable[..., Number]:
    """A function that gives one entry of the statistic with its interval, cut at `least` and 1."""
    value = statistic(set())
    assert value is not None
    error, freedom = crossed_error(statistic, design)

    def number(*at: int) -> Number:
        found = float(value[at])
        if error is None or np.isnan(error[at]):
            return {"value": None if np.isnan(found) else found, "interval_95": None}
        reach = float(stats.t.ppf(0.975, freedom) * error[at])
        return {"value": found, "interval_95": [max(found - reach, least), min(found + reach, 1.0)]}

    return number


def distance_from_init(latents: pl.DataFrame) -> Mapping[str, float | None]:
    """Mean cosine of the decoder rows of live latents to where they started, over runs.

    Returns:
        `mean`, `lo`, `hi` over runs; None without live latents.
    """
    by_run = latents.filter("alive").group_by("run").agg(pl.col("init_cos").mean())["init_cos"]
    found = by_run.drop_nulls().to_numpy()
    if not len(found):
        return dict.fromkeys(("mean", "lo", "hi"))
    return {"mean": float(found.mean()), "lo": float(found.min()), "hi": float(found.max())}
