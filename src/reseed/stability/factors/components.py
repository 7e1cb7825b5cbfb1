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

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching import measures
from reseed.spec.statistics import Agreement, Components, Estimate, Range
from reseed.stability import shares
from reseed.stability.group import CLASSES, NEITHER, SAME_DATA, SAME_INIT, class_of
from reseed.stability.intervals import Design, is_crossed, seed_ends, share_over_pairs
from reseed.stability.shares import Members, PairTable

Floats = NDArray[np.float64]

PARTS = ("feature", "init", "data", "both")

_NUMBERS = ("shared", "pw_mcc", "untrained", "same_number")


def components(
    end: Sequence[PairTable],
    start: Sequence[PairTable],
    design: Design,
    members: Members,
    tau: float,
) -> Components | None:
    """Agreement by what two runs share, and the variance components, for the measure `shared`.

    From tables of all pairs, those that share a seed too. None where not both seeds vary, or where
    one of `CLASSES` has no pairs.
    """
    kinds = [class_of(table.pair, design) for table in end]
    if not is_crossed(design) or set(kinds) != set(CLASSES):
        return None
    shared = np.array([shares.share_of(table, measures.SHARED, members, tau) for table in end])
    columns = [
        shared,
        np.array([shares.mean_score(table, measures.PW_MCC, members) for table in end]),
        np.array([shares.share_of(table, measures.SHARED, members, tau) for table in start]),
        np.array([_same_number(table, members, tau) for table in end]),
    ]
    values = np.stack(columns, axis=1)
    agreement = _estimates(lambda left: _class_means(end, values, design, left), design, -1.0)
    parts = _estimates(
        lambda left: _parts(_class_means(end, shared[:, None], design, left)), design, -np.inf
    )
    classes: dict[str, Agreement] = {}
    for at, kind in enumerate(CLASSES):
        of_kind = [place for place, other in enumerate(kinds) if other == kind]
        pairs, latents = [end[place].pair for place in of_kind], shares.members_of_run(members)
        numbers = {name: agreement(at, column) for column, name in enumerate(_NUMBERS)}
        # as in the headline
        numbers["shared"] = share_over_pairs(pairs, shared[of_kind], design, latents)
        classes[kind] = Agreement(pairs=len(of_kind), **numbers)
    return Components(
        classes=classes,
        parts={name: parts(at) for at, name in enumerate(PARTS)},
    )


def _same_number(table: PairTable, members: Members, tau: float) -> float:
    """Of the shared latents of a pair, how many have the partner of their own number."""
    side = shares.side_of(table, "a", members)
    shared = side.filter(measures.is_shared(side, tau))
    same = (shared["latent"] == shared["decoder_match"]).sum()
    return float(same / len(shared)) if len(shared) else float("nan")


def _class_means(
    tables: Sequence[PairTable], columns: Floats, design: Design, left: set[str]
) -> Floats | None:
    """`[classes, columns]` means over the pairs without some runs."""
    kept = [not left & set(table.pair) for table in tables]
    kinds = np.array([class_of(table.pair, design) for table in tables])
    rows = [columns[kept & (kinds == kind)] for kind in CLASSES]
    return np.stack([row.mean(axis=0) for row in rows]) if all(map(len, rows)) else None


def _parts(means: Floats | None) -> Floats | None:
    if means is None:
        return None
    at = {kind: means[place, 0] for place, kind in enumerate(CLASSES)}
    neither, init, data = at[NEITHER], at[SAME_INIT], at[SAME_DATA]
    return np.array([neither, init - neither, data - neither, 1 - init - data + neither])


def _estimates(
    statistic: Callable[[set[str]], Floats | None], design: Design, least: float
) -> Callable[..., Estimate]:
    """A function that gives one entry of the statistic with its interval, cut at `least` and 1."""
    of_all = statistic(set())
    assert of_all is not None
    value, low, high = seed_ends(of_all, statistic, design)

    def estimate(*at: int) -> Estimate:
        if np.isnan(low[at]):
            known = None if np.isnan(value[at]) else float(value[at])
            return Estimate(value=known, interval_95=None)
        ends = (max(float(low[at]), least), min(float(high[at]), 1.0))
        return Estimate(value=float(value[at]), interval_95=ends)

    return estimate


def distance_from_init(latents: pl.DataFrame) -> Range:
    """Mean cosine of the decoder rows of live latents to where they started, over runs."""
    # in the order of the runs: sums in whatever order Polars has would differ in the last digit
    by_run = latents.filter("alive").group_by("run", maintain_order=True)
    means = by_run.agg(pl.col("init_cos").mean())["init_cos"].drop_nulls().to_numpy()
    if not len(means):
        return Range(mean=None, lo=None, hi=None)
    return Range(mean=float(means.mean()), lo=float(means.min()), hi=float(means.max()))
