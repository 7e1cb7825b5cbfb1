"""Shares over all tau, on strata of the latents, each beside its nulls.

A *stratum* is a set of latents of each run (all; live; dense). A share is taken among the latents
of one side of a pair that belong to the stratum, and averaged over the two sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching import measures
from reseed.matching.measures import Measure
from reseed.matching.pairs import Views, compare
from reseed.stability.intervals import mean_over_pairs
from reseed.stability.weight_nulls import WeightNull

TAUS: NDArray[np.float64] = np.round(np.linspace(0.0, 1.0, 101), 2)
HISTOGRAM: NDArray[np.float64] = np.round(np.linspace(-0.5, 1.0, 76), 2)
"""Edges of the bins in which matched cosines are counted."""

Pair = tuple[str, str]
Strata = Mapping[str, Mapping[str, NDArray[np.bool_]]]
"""stratum to run to which of its latents belong, `[F]`"""


class PairTable(NamedTuple):
    """The table of `reseed.matching.pairs` of two runs."""

    pair: Pair
    table: pl.DataFrame


def curve(one: PairTable, measure: Measure, members: Mapping[str, NDArray[np.bool_]]) -> Any:
    """Share of a pair over `TAUS`, the mean of its sides, `[T]`; NaN if a side has no latents."""
    sides: list[NDArray[np.float64]] = []
    for side, run in zip("ab", one.pair, strict=True):
        mine = one.table.filter(pl.col("side") == side).filter(pl.Series(members[run]))
        score = measures.scores(mine, measure)
        sides.append(measures.share_at(score, TAUS, strict=measure.strict))
    return np.mean(sides, axis=0)


def mean_score(one: PairTable, measure: Measure, members: Mapping[str, NDArray[np.bool_]]) -> float:
    """Mean score of a pair, of its two sides; for measures without a threshold."""
    sides: list[float] = []
    for side, run in zip("ab", one.pair, strict=True):
        mine = one.table.filter(pl.col("side") == side).filter(pl.Series(members[run]))
        score = measures.scores(mine, measure).drop_nulls()
        sides.append(float(score.mean()) if len(score) else float("nan"))  # pyright: ignore[reportArgumentType]
    return float(np.mean(sides))


def draw_nulls(pair: Pair, nulls: Mapping[str, WeightNull], draws: int) -> list[PairTable]:
    """Random dictionaries in place of the two of a pair, matched in the same way.

    Args:
        pair: two runs.
        nulls: of each run.
        draws: how many.
    """
    out: list[PairTable] = []
    for draw in range(draws):
        a, b = (nulls[run].draw(*pair, side, draw) for side, run in zip("ab", pair, strict=True))
        out.append(PairTable(pair, compare(a, b).table))
    return out


def everyone(one: PairTable) -> dict[str, NDArray[np.bool_]]:
    """All latents of both runs of a pair."""
    sizes = {side: int((one.table["side"] == side).sum()) for side in "ab"}
    return {run: np.ones(sizes[s], dtype=bool) for s, run in zip("ab", one.pair, strict=True)}


def null_curves(draws: Sequence[PairTable], measure: Measure) -> NDArray[np.float64]:
    """Shares of every draw over `TAUS`, `[draws, T]`."""
    return np.stack([curve(draw, measure, everyone(draw)) for draw in draws])


def null_means(draws: Sequence[PairTable], measure: Measure) -> NDArray[np.float64]:
    """Mean scores of every draw, `[draws]`."""
    return np.array([mean_score(draw, measure, everyone(draw)) for draw in draws])


def share_table(
    tables: Sequence[PairTable],
    untrained: Sequence[PairTable],
    nulls: Mapping[str, Sequence[PairTable]],
    strata: Strata,
) -> pl.DataFrame:
    """Every thresholded measure over `TAUS`, on every stratum, with interval and nulls.

    Args:
        tables: of the pairs of a group at the end of training.
        untrained: of the same pairs at the start.
        nulls: draws for each stratum; a stratum without draws has no null.
        strata: which latents belong.

    Returns:
        measure, stratum, tau, share, lo, hi, null, null_lo, null_hi (range of draws), untrained.
    """
    pairs = [t.pair for t in tables]
    frames: list[pl.DataFrame] = []
    for stratum, members in strata.items():
        for measure in measures.THRESHOLDED:
            shares = np.stack([curve(t, measure, members) for t in tables])
            mean, low, high = mean_over_pairs(pairs, shares)
            columns = {"tau": TAUS, "share": mean, "lo": low.clip(0, 1), "hi": high.clip(0, 1)}
            if nulls.get(stratum):
                chance = null_curves(nulls[stratum], measure)
                columns |= {
                    "null": chance.mean(axis=0),
                    "null_lo": chance.min(axis=0),
                    "null_hi": chance.max(axis=0),
                }
            else:
                columns |= dict.fromkeys(("null", "null_lo", "null_hi"), np.full(len(TAUS), np.nan))
            before = [curve(t, measure, members) for t in untrained]
            columns["untrained"] = np.mean(before, axis=0)
            head = [pl.lit(measure.id).alias("measure"), pl.lit(stratum).alias("stratum")]
            frames.append(pl.DataFrame(columns).select(*head, pl.all()))
    return pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None))


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
