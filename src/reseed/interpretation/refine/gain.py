"""What refining brings for its calls: on the examples of the search, and on those of the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.interpretation.records import Failure, Interval, Score
from reseed.interpretation.refine.records import Refined
from reseed.seeds import generator

_POINTS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean gain over latents, with 95 % intervals by bootstrap over latents."""

    curve: pl.DataFrame
    """calls (of one latent's search, at most), search, search_lo, search_hi, judge, judge_lo,
    judge_hi: mean gain of the best so far over the start"""
    latents: int
    """in the means"""
    left_out: int
    """latents without a search, or on which the judge failed"""
    search: float | None
    search_interval: Interval | None
    judge: float | None
    judge_interval: Interval | None
    calls: float
    """of a search, mean"""
    judge_calls: float
    says: str


def gain(results: Sequence[Refined | Failure], *, seed: int = 0, draws: int = 2000) -> Gain:
    """Gains over many latents.

    Args:
        results: of `refine_all`.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    whole = [one for one in results if isinstance(one, Refined) and _judged(one)]
    left_out = len(results) - len(whole)
    if not whole:
        empty = pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.Float64))
        return Gain(
            curve=empty,
            latents=0,
            left_out=left_out,
            search=None,
            search_interval=None,
            judge=None,
            judge_interval=None,
            calls=0.0,
            judge_calls=0.0,
            says="no latent was refined and judged",
        )
    every = np.unique([node.calls for one in whole for node in one.nodes])
    places = np.unique(np.linspace(0, len(every) - 1, _POINTS).round().astype(np.int64))
    grid = every[places]
    values = np.stack([_gains(one, grid) for one in whole])
    low, high = _ends(values, seed, draws)
    means = values.mean(axis=0)
    curve = pl.DataFrame(
        np.column_stack([grid, *(a[:, side] for side in (0, 1) for a in (means, low, high))]),
        schema=list(_COLUMNS),
    ).with_columns(pl.col("calls").cast(pl.Int64))
    ends = [(float(low[-1, side]), float(high[-1, side])) for side in (0, 1)]
    known = len(whole) > 1
    return Gain(
        curve=curve,
        latents=len(whole),
        left_out=left_out,
        search=float(means[-1, 0]),
        search_interval=ends[0] if known else None,
        judge=float(means[-1, 1]),
        judge_interval=ends[1] if known else None,
        calls=float(np.mean([one.calls for one in whole])),
        judge_calls=float(np.mean([one.judge_calls for one in whole])),
        says=_sentence(whole, means[-1], ends if known else None),
    )


_COLUMNS = ("calls", "search", "search_lo", "search_hi", "judge", "judge_lo", "judge_hi")


def _judged(one: Refined) -> bool:
    return all(isinstance(score, Score) for score in one.judged.values())


def _gains(one: Refined, grid: NDArray[np.int64]) -> NDArray[np.float64]:
    """[calls, 2] gain of the best so far, on the search's examples and on the judge's."""
    judged = {n: s.value for n, s in one.judged.items() if isinstance(s, Score)}
    path = [node for node in one.nodes if node.number in judged]
    steps = np.array([node.calls for node in path])
    place = np.searchsorted(steps, grid, side="right").clip(min=1) - 1
    values = np.array([(node.value, judged[node.number]) for node in path])
    return (values - values[0])[place]


def _ends(
    values: NDArray[np.float64], seed: int, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = len(values)
    rng = generator("refine-gain", seed)
    counts = rng.multinomial(size, np.full(size, 1 / size), size=draws)
    means = np.tensordot(counts / size, values, axes=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def _sentence(
    whole: Sequence[Refined], means: NDArray[np.float64], ends: list[Interval] | None
) -> str:
    def shown(side: int) -> str:
        if ends is None:
            return f"{means[side]:+.3f}"
        return f"{means[side]:+.3f} [{ends[side][0]:+.3f}, {ends[side][1]:+.3f}]"

    calls = np.mean([one.calls for one in whole])
    changed = sum(one.best.number != 0 for one in whole)
    return (
        f"refining {len(whole)} explanations, {calls:.0f} calls each: {shown(0)} on the examples "
        f"of the search, {shown(1)} on examples that it did not see; {changed} changed"
    )
