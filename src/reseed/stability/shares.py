"""Shares over all tau, on strata of the latents, each beside its nulls.

A *stratum* is a set of latents of each run, see `reseed.stability.shares`. A share is taken among
the latents of one side of a pair that belong to the stratum, and averaged over the two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching import measures
from reseed.matching.blocks.multiplier import few_threads
from reseed.matching.match import Views, compare
from reseed.matching.measures import Measure
from reseed.runs import Pair
from reseed.stability.decoys import Decoys
from reseed.stability.intervals import Design, mean_over_pairs
from reseed.stability.nulls import GAUSSIAN, CovarianceNull, in_place

RATE_BINS = 5

Members = Mapping[str, NDArray[np.bool_]]
"""run to which of its latents belong, `[F]`"""


class RateBin(NamedTuple):
    """Live latents between two firing rates."""

    name: str
    """`rate1` fires least"""
    low: float
    """exclusive, but for the first bin"""
    high: float
    """inclusive"""


def quantile_edges(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Edges of bins that hold equally many values; fewer bins where edges fall together."""
    return np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))


def rate_bins(rates: Mapping[str, NDArray[np.float64]]) -> list[RateBin]:
    """Bins of equal size by firing rate over the live latents of all runs, edges shared by runs.

    Up to `RATE_BINS`; fewer where so many latents fire equally often that edges fall together, none
    where all are dead.
    """
    live = [rate[rate > 0] for rate in rates.values()]
    pooled = np.concatenate(live) if live else np.zeros(0)
    if not len(pooled):
        return []
    edges = quantile_edges(pooled, RATE_BINS)
    if len(edges) == 1:
        return [RateBin("rate1", float(edges[0]), float(edges[0]))]
    ends = zip(edges[:-1], edges[1:], strict=True)
    return [RateBin(f"rate{n}", float(a), float(b)) for n, (a, b) in enumerate(ends, 1)]


def bin_of(rates: NDArray[np.float64], bins: list[RateBin]) -> NDArray[np.int64]:
    """Number of the bin of each latent, from 0; -1 for a dead one."""
    if not bins:
        return np.full(len(rates), -1)
    place = np.searchsorted([bin_.high for bin_ in bins], rates, side="left")
    return np.where(rates > 0, place.clip(0, len(bins) - 1), -1)


def strata(
    rates: Mapping[str, NDArray[np.float64]], dense_rate: float
) -> tuple[dict[str, dict[str, NDArray[np.bool_]]], list[RateBin]]:
    """All strata of the runs of a group, from the firing rate of each latent; 0 is dead.

    Returns:
        stratum to run to members, and the bins that the strata `rate1`, `rate2` ... stand for.
    """
    bins = rate_bins(rates)
    out: dict[str, dict[str, NDArray[np.bool_]]] = {
        "all": {run: np.ones(len(rate), dtype=bool) for run, rate in rates.items()},
        "live": {run: rate > 0 for run, rate in rates.items()},
        "dead": {run: rate == 0 for run, rate in rates.items()},
        "dense": {run: rate > dense_rate for run, rate in rates.items()},
    }
    places = {run: bin_of(rate, bins) for run, rate in rates.items()}
    for number, bin_ in enumerate(bins):
        out[bin_.name] = {run: place == number for run, place in places.items()}
    return out, bins


TAUS: NDArray[np.float64] = np.round(np.linspace(0.0, 1.0, 101), 2)

HISTOGRAM: NDArray[np.float64] = np.round(np.linspace(-0.5, 1.0, 76), 2)
"""Edges of the bins in which matched cosines are counted."""

Strata = Mapping[str, Mapping[str, NDArray[np.bool_]]]
"""stratum to run to which of its latents belong, `[F]`"""


def base_of(stratum: str) -> str:
    """The stratum among which a stratum is matched and tested: its null is that of this one."""
    return "all" if stratum in ("all", "dead") else "live"


class PairTable(NamedTuple):
    """The table of `reseed.matching.match` of two runs."""

    pair: Pair
    table: pl.DataFrame


def side_of(pair: PairTable, side: str, members: Members) -> pl.DataFrame:
    """The latents of one side (`"a"` or `"b"`) of a pair that belong."""
    run = pair.pair["ab".index(side)]
    return pair.table.filter(pl.col("side") == side).filter(pl.Series(members[run]))


def sides(pair: PairTable, measure: Measure, members: Members) -> list[NDArray[np.float64]]:
    """Share of each side of a pair over `TAUS`, `[T]` each; NaN if it has no latents."""
    scores = (measures.scores(side_of(pair, side, members), measure) for side in "ab")
    return [measures.share_at(score, TAUS, strict=measure.strict) for score in scores]


def curve(pair: PairTable, measure: Measure, members: Members) -> Any:
    """Share of a pair over `TAUS`, the mean of its sides, `[T]`; NaN if a side has no latents."""
    return np.mean(sides(pair, measure, members), axis=0)


def members_of_run(members: Members) -> float:
    """How many latents of a run belong, mean over runs; at least 1."""
    return max(1.0, float(np.mean([of_run.sum() for of_run in members.values()])))


def share_of(pair: PairTable, measure: Measure, members: Members, tau: float) -> float:
    """Share of a pair at the nearest of `TAUS`."""
    return float(curve(pair, measure, members)[int(np.abs(TAUS - tau).argmin())])


def mean_score(pair: PairTable, measure: Measure, members: Members) -> float:
    """Mean score of a pair, of its two sides; for measures without a threshold."""
    means: list[float] = []
    for side in "ab":
        score = measures.scores(side_of(pair, side, members), measure).drop_nulls()
        means.append(float(score.mean()) if len(score) else float("nan"))  # pyright: ignore[reportArgumentType]
    return float(np.mean(means))


def among(pair: PairTable, members: Members) -> PairTable:
    """The pair where a counterpart counts only if it belongs, as it does in the stratum's null."""
    if all(members[run].all() for run in pair.pair):
        return pair
    frames: list[pl.DataFrame] = []
    for side, other in (("a", pair.pair[1]), ("b", pair.pair[0])):
        rows = pair.table.filter(pl.col("side") == side)
        belongs = pl.Series(members[other])
        for view in Views._fields:
            for partner, cosine in (("match", "cos"), ("nearest", "max_cos")):
                there = belongs.gather(rows[f"{view}_{partner}"]).fill_null(value=False)
                rows = rows.with_columns(
                    pl.when(there).then(f"{view}_{partner}").alias(f"{view}_{partner}"),
                    pl.when(there)
                    .then(f"{view}_{cosine}")
                    .otherwise(measures.LOWEST)
                    .alias(f"{view}_{cosine}"),
                )
        frames.append(rows)
    return PairTable(pair.pair, pl.concat(frames))


class Chance(NamedTuple):
    """What a stratum of a group gives when there is nothing to find."""

    draws: Sequence[PairTable]
    """random dictionaries in place of those of each pair, matched in the same way"""
    decoys: Mapping[Pair, Decoys]
    """what random latents reach at best, for each pair"""
    kinds: Sequence[str] = ()
    """how the random dictionaries were made, of `reseed.stability.decoys`"""


def draw_nulls(
    pair: Pair,
    nulls: Mapping[str, CovarianceNull],
    draws: int,
    kind: str = GAUSSIAN,
    *,
    key: Sequence[int | str] | None = None,
    show: Callable[[float], None] | None = None,
) -> list[PairTable]:
    """Random dictionaries in place of the two of a pair, matched in the same way.

    `key` is that of the generators, the pair if left out.
    """
    a, b = (nulls[run] for run in pair)
    makers = in_place(kind, a, b), in_place(kind, b, a)
    out: list[PairTable] = []
    with few_threads(max(a.count, b.count)):
        for draw in range(draws):
            first, second = (
                maker.draw(*(key or pair), side, draw)
                for side, maker in zip("ab", makers, strict=True)
            )
            out.append(PairTable(pair, compare(first, second, show).table))
    return out


def everyone(pair: PairTable) -> dict[str, NDArray[np.bool_]]:
    """All latents of both runs of a pair."""
    sizes = {side: int((pair.table["side"] == side).sum()) for side in "ab"}
    return {
        run: np.ones(sizes[side], dtype=bool) for side, run in zip("ab", pair.pair, strict=True)
    }


def null_curves(draws: Sequence[PairTable], measure: Measure) -> NDArray[np.float64]:
    """Shares of every draw over `TAUS`, `[draws, T]`."""
    return np.stack([curve(draw, measure, everyone(draw)) for draw in draws])


def null_means(draws: Sequence[PairTable], measure: Measure) -> NDArray[np.float64]:
    """Mean scores of every draw, `[draws]`."""
    return np.array([mean_score(draw, measure, everyone(draw)) for draw in draws])


def null_range(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and range of a number over draws."""
    return {"mean": float(values.mean()), "lo": float(values.min()), "hi": float(values.max())}


def share_table(
    tables: Sequence[PairTable],
    untrained: Sequence[PairTable],
    nulls: Mapping[str, Chance],
    strata: Strata,
    design: Design | None = None,
) -> pl.DataFrame:
    """Every thresholded measure over `TAUS`, on every stratum, with interval and nulls.

    Strata by firing rate are given for the measure `shared` only; a stratum without draws has no
    null. `untrained` are the tables of the same pairs at the start of training.

    Returns:
        measure, stratum, tau, share, lo, hi, null, null_lo, null_hi (range of draws), untrained.
    """
    pairs = [t.pair for t in tables]
    frames: list[pl.DataFrame] = []
    for stratum, members in strata.items():
        by_rate = stratum.startswith("rate")
        within = strata[base_of(stratum)]
        after = [among(t, within) for t in tables]
        start = [among(t, within) for t in untrained]
        for measure in (measures.SHARED,) if by_rate else measures.THRESHOLDED:
            shares = np.stack([curve(t, measure, members) for t in after])
            mean, low, high = mean_over_pairs(pairs, shares, design, members_of_run(members))
            columns = {"tau": TAUS, "share": mean, "lo": low, "hi": high}
            columns |= null_columns(nulls[stratum].draws if stratum in nulls else (), measure)
            before = [curve(t, measure, members) for t in start]
            columns["untrained"] = np.mean(before, axis=0)
            head = [pl.lit(measure.id).alias("measure"), pl.lit(stratum).alias("stratum")]
            frames.append(pl.DataFrame(columns).select(*head, pl.all()))
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None))


def null_columns(draws: Sequence[PairTable], measure: Measure) -> dict[str, NDArray[np.float64]]:
    """null, null_lo, null_hi over `TAUS`: mean and range of draws; NaN without any."""
    if not draws:
        return dict.fromkeys(("null", "null_lo", "null_hi"), np.full(len(TAUS), np.nan))
    chance = null_curves(draws, measure)
    return {
        "null": chance.mean(axis=0),
        "null_lo": chance.min(axis=0),
        "null_hi": chance.max(axis=0),
    }


def histogram(kind: str, tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Matched cosines counted in the bins of `HISTOGRAM`, averaged over tables, one side each.

    Returns:
        kind, view, bin (lower edge), latents (mean count).
    """
    frames: list[pl.DataFrame] = []
    for view in Views._fields:
        values = [
            t.filter(pl.col("side") == "a")[f"{view}_cos"].drop_nulls().to_numpy() for t in tables
        ]
        inside = [np.histogram(v.clip(HISTOGRAM[0], 0.9999999), HISTOGRAM)[0] for v in values]
        counts = np.mean(inside, axis=0)
        frames.append(
            pl.DataFrame({"bin": HISTOGRAM[:-1], "latents": counts}).select(
                pl.lit(kind).alias("kind"), pl.lit(view).alias("view"), pl.all()
            )
        )
    return pl.concat(frames)
