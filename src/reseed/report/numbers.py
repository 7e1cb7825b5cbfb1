"""Numbers as people read them, and as short as the page can carry them. Nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from reseed.spec.statistics import Range

NONE = "–"
"""Stands where there is no number."""


def short(values: Iterable[Any]) -> list[float | int | None]:
    """Numbers with four significant digits, so that the page stays small; NaN becomes None."""
    return [_short(value) for value in values]


def columns(table: pl.DataFrame, *names: str) -> dict[str, list[float | int | None]]:
    """Columns of numbers for the page."""
    return {name: short(table[name].to_list()) for name in names}


def percent(value: float | None) -> str:
    """A share, e.g. `45.3%`; one that is not quite 0 or 1 never reads as 0 or 1."""
    if value is None:
        return NONE
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def rate(value: float) -> str:
    """A firing rate, which may be very small."""
    return f"{value:.1%}" if value >= 0.01 or value == 0 else f"{100 * value:.2g}%"


def percent_range(ends: Sequence[float | None] | None) -> str:
    """An interval of shares, e.g. `33.7–57.0%`."""
    if ends is None or ends[0] is None or ends[1] is None:
        return NONE
    return f"{percent(ends[0]).removesuffix('%')}–{percent(ends[1])}"


def decimals(value: float | None) -> str:
    """A cosine or a score, three decimals."""
    return NONE if value is None else f"{value:.3f}"


def decimals_range(ends: Sequence[float | None] | None) -> str:
    """An interval of cosines or scores."""
    return NONE if ends is None or None in ends else f"{decimals(ends[0])}–{decimals(ends[1])}"


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NONE if value is None else f"{value:,.0f}"


def span(values: Sequence[int]) -> str:
    """Counts of several runs, the least and the most, e.g. `120–128`."""
    low, high = min(values), max(values)
    return count(low) if low == high else f"{count(low)}–{count(high)}"


def mean_and_range(over_runs: Range | None) -> str:
    """A mean with its range, e.g. `0.274 (0.267–0.278)`."""
    if over_runs is None or over_runs.mean is None:
        return NONE
    mean, low, high = (f"{value:.3g}" for value in (over_runs.mean, over_runs.lo, over_runs.hi))
    return mean if low == high else f"{mean} ({low}–{high})"


def _short(value: Any) -> float | int | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int):
        return value
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded
