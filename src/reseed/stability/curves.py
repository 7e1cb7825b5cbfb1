"""Curves over seeds: found in N of M, only in one against M, features found against runs.

Where disagreement comes from: the init seed, the data seed, or their combination.

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
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reseed.matching import measures
from reseed.matching.measures import Measure
from reseed.stability import shares
from reseed.stability.graph import Finds
from reseed.stability.intervals import (
    CLASSES,
    NEITHER,
    SAME_DATA,
    SAME_INIT,
    Design,
    class_of,
    is_crossed,
    seed_ends,
)
from reseed.stability.posterior import fit, histograms
from reseed.stability.shares import Members, PairTable

Floats = NDArray[np.float64]

ENOUGH_RUNS = 6
"""From so many runs on the offset of the power law gets an interval: each run left out must leave
more points than the three parameters."""


def n_of_m(found: Mapping[str, Finds], strata: Mapping[str, Members]) -> pl.DataFrame:
    """How many latents are found in exactly n of m runs, seen from each run and averaged.

    Counting is a star around each run: a latent found in n runs is shared with n - 1 others, which
    need not be shared with each other.

    Args:
        found: of each run; where runs differ in how many others they have, those with most count.
        strata: which latents belong; here `all` and `live` are given.

    Returns:
        stratum, n, m, latents (mean over runs), share, binomial (expected share if every latent
        were found with the mean probability), beta_binomial (expected share of the fit), alpha,
        beta (of that fit; null without latents).
    """
    trials = max(len(one.others) for one in found.values())
    bases = [one for one in found.values() if len(one.others) == trials]
    frames: list[pl.DataFrame] = []
    for stratum in ("all", "live"):
        matched = np.concatenate(
            [one.matched[strata[stratum][one.run]].sum(axis=1) for one in bases]
        )
        counts = np.bincount(matched, minlength=trials + 1)
        total = int(counts.sum())
        mean = float(matched.mean() / trials) if total and trials else 0.0
        model = None
        if total and trials:
            model = fit(histograms(matched, np.full(total, trials)), len(bases), prior=trials < 2)
        none = np.full(trials + 1, np.nan)
        columns = {
            "stratum": [stratum] * (trials + 1),
            "n": np.arange(1, trials + 2),
            "m": [trials + 1] * (trials + 1),
            "latents": counts / len(bases),
            "share": counts / max(total, 1),
            "binomial": stats.binom.pmf(np.arange(trials + 1), trials, mean),
            "beta_binomial": none if model is None else model.expected(trials),
            "alpha": none if model is None else np.full(trials + 1, model.alpha),
            "beta": none if model is None else np.full(trials + 1, model.beta),
        }
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None))


class PowerLaw(NamedTuple):
    """Share found in one run only = a M^b + c against M runs."""

    a: float
    b: float
    c: float


def only_in_one(found: Sequence[Finds], members: Members) -> Floats:
    """Share of a run's latents that none of M - 1 other runs has, over M = 2, 3, ...

    The average over all choices of M - 1 others is exact: of a latent that r of T others have,
    C(T - r, M - 1) / C(T, M - 1) of the choices miss it.

    Args:
        found: of each run.
        members: which latents count.

    Returns:
        `[M - 1]`, mean over runs; as long as the fewest others of a run; NaN without latents.
    """
    trials = min((len(one.others) for one in found), default=0)
    curves: list[Floats] = []
    for one in found:
        total, drawn = len(one.others), np.arange(1, trials + 1)
        matched = one.matched[members[one.run]].sum(axis=1)
        counts = np.bincount(matched, minlength=total + 1)
        missing = total - np.arange(total + 1)[:, None]
        missed = special.comb(missing, drawn) / special.comb(total, drawn)
        none = np.full(trials, np.nan)
        curves.append(counts @ missed / len(matched) if len(matched) else none)
    return np.mean(curves, axis=0) if curves else np.zeros(0)


def power_law(share: Floats, first: int = 2) -> PowerLaw | None:
    """Fit a M^b + c by least squares (arXiv 2501.16615).

    Args:
        share: `[n]` for M = first, first + 1, ...
        first: M of the first one.

    Returns:
        None with fewer points than parameters, NaN among them, or where the fit does not settle.
    """
    if len(share) < 3 or not np.isfinite(share).all():
        return None
    at = np.arange(first, first + len(share), dtype=np.float64)

    # For a given b the best a and c follow from a straight line, so one number is sought.
    def solve(b: float) -> tuple[float, float, float]:
        x = at**b - (at**b).mean()
        a = float(x @ share / (x @ x))
        c = float(share.mean() - a * (at**b).mean())
        return a, c, float(((a * at**b + c - share) ** 2).sum())

    grid = np.linspace(-6.0, -0.05, 60)
    best = int(np.argmin([solve(b)[2] for b in grid]))
    if best in (0, len(grid) - 1):
        return None
    ends = (grid[best - 1], grid[best + 1])

    def loss(b: float) -> float:
        return solve(b)[2]

    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-10})
    b = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    a, c, _ = solve(b)
    return PowerLaw(a, b, c)


def only_in_one_table(
    found: Mapping[str, Finds], strata: Mapping[str, Members], design: Design
) -> tuple[pl.DataFrame, dict[str, dict[str, float | list[float] | None]]]:
    """The curve with its interval, and the power law with the interval of its offset.

    Whole runs are left out (crossed seeds: whole seeds). A bootstrap, which draws runs with
    replacement, would put a run beside its own copy, in which everything is found again.

    Args:
        found: of each run.
        strata: which latents belong; here `all` and `live` are given.
        design: seeds of the runs.

    Returns:
        stratum, m, share, lo, hi, fitted; and stratum to `a`, `b`, `c`, `c_interval_95` (None
        below `ENOUGH_RUNS` runs, or with crossed seeds, where leaving one out leaves too little).
    """
    frames: list[pl.DataFrame] = []
    laws: dict[str, dict[str, float | list[float] | None]] = {}
    for stratum in ("all", "live"):
        members = strata[stratum]
        share, low, high = _curve(found, members, design)
        law = power_law(share)
        m = np.arange(2, len(share) + 2)
        none = np.full(len(m), np.nan)
        columns = {
            "stratum": [stratum] * len(m),
            "m": m,
            "share": share,
            "lo": low.clip(0, 1),
            "hi": high.clip(0, 1),
            "fitted": none if law is None else law.a * m**law.b + law.c,
        }
        frames.append(pl.DataFrame(columns))
        laws[stratum] = {
            "a": law.a if law else None,
            "b": law.b if law else None,
            "c": law.c if law else None,
            "c_interval_95": _offset_interval(found, members, design) if law else None,
        }
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None)), laws


def _left(found: Mapping[str, Finds], left: set[str]) -> list[Finds]:
    return [one.without(left) for run, one in found.items() if run not in left]


def _curve(
    found: Mapping[str, Finds], members: Members, design: Design
) -> tuple[Floats, Floats, Floats]:
    whole = only_in_one(_left(found, set()), members)
    length = len(whole)

    def statistic(left: set[str]) -> Floats | None:
        part = only_in_one(_left(found, left), members)
        return np.pad(part, (0, length - len(part)), constant_values=np.nan) if len(part) else None

    return seed_ends(whole, statistic, design)


def _offset_interval(
    found: Mapping[str, Finds], members: Members, design: Design
) -> list[float] | None:
    if len(found) < ENOUGH_RUNS or is_crossed(design):
        return None

    def offset(left: set[str]) -> Floats | None:
        law = power_law(only_in_one(_left(found, left), members))
        return None if law is None else np.array(law.c)

    value = offset(set())
    assert value is not None
    _, low, high = seed_ends(value, offset, design)
    return None if np.isnan(low) else [float(low), float(high)]


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
    found = side.filter(measures.is_shared(side, tau))
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
    _, low, high = seed_ends(value, statistic, design)

    def number(*at: int) -> Number:
        found = float(value[at])
        if np.isnan(low[at]):
            return {"value": None if np.isnan(found) else found, "interval_95": None}
        ends = [max(float(low[at]), least), min(float(high[at]), 1.0)]
        return {"value": found, "interval_95": ends}

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
