"""What width, k, site and tokens do to agreement, over the groups of one study.

A *cell* is one group of runs at one snapshot: a combination of levels, with the values of its pairs
of runs. Everything here is linear in the means of cells, `L m`:

    effect of a factor     slope of m against log2 of its level, the other factors held as classes
    means of its levels    of the additive model, averaged over the levels of the others
    part of the spread     type II: what the additive model loses without the factor, as a part of
                           the sum of squares of m around its mean

The unit is the seed. A seed is left out of *all* cells at once: snapshots are of the same runs, and
groups share their seeds too (the data seed gives all the same stream, and the rows that a narrow
SAE starts from are the first rows of a wider one with the same init seed). Leaving whole seeds out
holds whether or not that makes groups alike; leaving out runs of single groups would not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reseed.spec.statistics import Estimate
from reseed.spec.summary import Decomposition, Effect, LevelEstimate, PartOfSpread, Spread
from reseed.stability.intervals import Design, seed_ends, seed_error
from reseed.stability.proportions import inside

Floats = NDArray[np.float64]

Level = float | int | str

DOUBLED = ("latents", "k", "tokens")
"""Factors with a slope for each doubling; the others have classes."""

TOGETHER = "not additive"

_ROUNDING = 1e-12
"""Parts of a mean; smaller differences between means are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A group at a snapshot, by one measure."""

    group: str
    levels: Mapping[str, Level]
    """factor to its level"""
    pairs: Sequence[tuple[str, str]]
    """names of the seeds of the two runs, equal in all groups"""
    values: Floats
    """`[pairs]`"""


def decompose(
    cells: Sequence[Cell], factors: Sequence[str], last: int | None, design: Design
) -> Decomposition | None:
    """Effects and parts of the spread of one measure; None where a cell has no value.

    Factors are keys of `Cell.levels`. `last` are the tokens of the end of training, where all
    effects but that of tokens are taken; None where cells have no `tokens`.
    """
    cells = [cell for cell in cells if len(cell.values)]
    if not cells or any(np.isnan(cell.values).any() for cell in cells):
        return None
    end = [cell for cell in cells if last is None or cell.levels["tokens"] == last]
    still = [factor for factor in factors if factor != "tokens"]
    effects = {factor: _effect(end, factor, still, design) for factor in still}
    if "tokens" in factors:
        effects["tokens"] = _effect(cells, "tokens", factors, design)
    return Decomposition(
        effects=effects,
        interaction=_interaction(end, still, design),
        spread=spread(cells, factors, design),
    )


def spread(cells: Sequence[Cell], factors: Sequence[str], design: Design) -> Spread:
    """How much of the sum of squares of the means of cells goes with each factor.

    Beside each part stands what other seeds alone would put there, by the jackknife; `not additive`
    is what the sum of all effects leaves, `seeds` the same of all cells together.
    """
    n = len(cells)
    means = _means(cells, set())
    assert means is not None
    centre = np.eye(n) - 1 / n
    # between equal means rounding leaves a little, of either sign, that no share can be taken of
    total = float(((centre @ means) ** 2).sum())
    total = 0.0 if total <= n * (_ROUNDING * float(np.abs(means).max())) ** 2 else total
    known = [f for f in factors if _told(cells, f, factors) is None]
    model = _hat(_columns(cells, factors))
    projectors = {f: model - _hat(_columns(cells, [g for g in factors if g != f])) for f in known}
    projectors[TOGETHER] = np.eye(n) - model

    def part(projector: Floats) -> PartOfSpread:
        share = max(float(means @ projector @ means), 0.0) / total if total else None
        error, _ = seed_error(lambda left: _apply(projector, cells, left), design)
        chance = None if error is None or not total else float((error**2).sum()) / total
        return PartOfSpread(share=share, by_seeds=chance)

    return Spread(
        cells=n,
        sd=float(np.sqrt(total / n)),
        parts={name: part(projector) for name, projector in projectors.items()},
        seeds=part(centre).by_seeds,
    )


def _effect(cells: Sequence[Cell], factor: str, factors: Sequence[str], design: Design) -> Effect:
    levels = _levels(cells, factor)
    changes_with = _told(cells, factor, factors)
    if changes_with is not None:
        unknown = [LevelEstimate(level=at, value=None, interval_95=None) for at in levels]
        return Effect(levels=unknown, doubling=None, changes_with=changes_with)
    others = [other for other in factors if other != factor]
    means = estimates(_marginal(cells, factor, factors), cells, design)
    slope = _slope(cells, _logs(cells, factor), others) if factor in DOUBLED else None
    return Effect(
        levels=[
            LevelEstimate(level=at, value=mean.value, interval_95=_of_share(mean, cells))
            for at, mean in zip(levels, means, strict=True)
        ],
        doubling=None if slope is None else estimates(slope[None], cells, design)[0],
        changes_with=None,
    )


def _of_share(mean: Estimate, cells: Sequence[Cell]) -> tuple[float, float] | None:
    """The interval of a mean of shares, no part of which lies outside [0, 1]."""
    shares = all(((cell.values >= 0) & (cell.values <= 1)).all() for cell in cells)
    if mean.interval_95 is None or mean.value is None or not shares or not 0 <= mean.value <= 1:
        return mean.interval_95
    low, high = map(float, inside(np.array(mean.interval_95)))
    return low, high


def _interaction(cells: Sequence[Cell], factors: Sequence[str], design: Design) -> Estimate | None:
    """How the effect of doubling the width changes with each doubling of k; None if untold."""
    if not {"latents", "k"} <= set(factors):
        return None
    width, k = (_logs(cells, factor) for factor in ("latents", "k"))
    slope = _slope(cells, (width - width.mean()) * (k - k.mean()), factors)
    return None if slope is None else estimates(slope[None], cells, design)[0]


def estimates(rows: Floats, cells: Sequence[Cell], design: Design) -> list[Estimate]:
    """Linear functions `[n, cells]` of the means of cells, with intervals by leaving out seeds."""
    value = _apply(rows, cells, set())
    assert value is not None
    ends = seed_ends(value, lambda left: _apply(rows, cells, left), design)
    return [
        Estimate(
            value=float(mean), interval_95=None if np.isnan(low) else (float(low), float(high))
        )
        for mean, low, high in zip(*ends, strict=True)
    ]


def _means(cells: Sequence[Cell], left: set[str]) -> Floats | None:
    """`[cells]` means over the pairs without some seeds; None if a cell has none left."""
    out: list[float] = []
    for cell in cells:
        kept = [not left & set(pair) for pair in cell.pairs]
        if not any(kept):
            return None
        out.append(float(cell.values[kept].mean()))
    return np.array(out)


def _apply(rows: Floats, cells: Sequence[Cell], left: set[str]) -> Floats | None:
    means = _means(cells, left)
    return None if means is None else rows @ means


def _levels(cells: Sequence[Cell], factor: str) -> list[Level]:
    levels = dict.fromkeys(cell.levels[factor] for cell in cells)
    return sorted(levels) if factor in DOUBLED else list(levels)  # pyright: ignore[reportArgumentType]


def _logs(cells: Sequence[Cell], factor: str) -> Floats:
    return np.log2([float(cell.levels[factor]) for cell in cells])


def _classes(cells: Sequence[Cell], factor: str) -> Floats:
    """`[cells, levels - 1]` indicators of all levels but the first."""
    at = [_levels(cells, factor).index(cell.levels[factor]) for cell in cells]
    return np.eye(max(at) + 1)[at][:, 1:]


def _columns(cells: Sequence[Cell], factors: Sequence[str]) -> Floats:
    """`[cells, ...]` of the additive model, its constant first."""
    return np.hstack([np.ones((len(cells), 1)), *(_classes(cells, factor) for factor in factors)])


def _rank(columns: Floats) -> int:
    return int(np.linalg.matrix_rank(columns))


def _hat(columns: Floats) -> Floats:
    """`[cells, cells]` projector onto the model."""
    return columns @ np.linalg.pinv(columns)


def _told(cells: Sequence[Cell], factor: str, factors: Sequence[str]) -> list[str] | None:
    """None if the effect can be told; else what changes with it, empty if it is constant."""
    if len(_levels(cells, factor)) < 2:
        return []
    others = [other for other in factors if other != factor]
    own = _classes(cells, factor).shape[1]
    if _rank(_columns(cells, factors)) == _rank(_columns(cells, others)) + own:
        return None
    with_it = [
        other
        for other in others
        if _rank(_columns(cells, [f for f in factors if f != other]))
        == _rank(_columns(cells, [f for f in others if f != other])) + own
    ]
    return with_it or [other for other in others if len(_levels(cells, other)) > 1]


def _slope(cells: Sequence[Cell], x: Floats, others: Sequence[str]) -> Floats | None:
    """`[cells]` weights that give the slope of the means against x beside classes of the others."""
    rest = _columns(cells, others)
    left = x - _hat(rest) @ x
    return left / (left @ left) if left @ left > 1e-9 * max(x @ x, 1.0) else None


def _marginal(cells: Sequence[Cell], factor: str, factors: Sequence[str]) -> Floats:
    """`[levels, cells]` weights of the means of the levels, the other factors averaged over."""
    columns = _columns(cells, factors)
    start = 1 + sum(
        _classes(cells, other).shape[1] for other in factors[: list(factors).index(factor)]
    )
    own = _classes(cells, factor).shape[1]
    rows: list[Floats] = []
    for level in range(own + 1):
        at = columns.copy()
        at[:, start : start + own] = np.eye(own + 1)[level, 1:]
        rows.append(at.mean(axis=0))
    return np.stack(rows) @ np.linalg.pinv(columns)
