"""Fits of what is left of two dictionaries by each other, and what random rows give instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.matching.geometry import Rows, rows
from reseed.matching.labels import Bars, Fitted, fitted
from reseed.matching.regress import MOST, Fits, fits, joined, unit_part

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Show = Callable[[float], None]

_SAMPLE = 1_024
"""Rows for which chance is measured, evenly spread over those fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """From where on something counts."""

    tau: float = 0.7
    """cosine of a fit"""
    gain: float = 0.5
    """share of the squared residual that further partners must remove"""
    part: float = 0.3
    """weight from which a partner is a part"""
    chance: float = 0.99
    """quantile of the null that must be reached as well"""
    neighbours: int = 8
    """rows of a neighbourhood"""
    rank: int = 3
    """dimensions of its span"""


def pick(side: Rows, which: Integers) -> Rows:
    """Some rows of a dictionary."""
    return Rows(side.exact[which], side.scale[which], side.screen[which])


class Chance(NamedTuple):
    """What the same fits give on random rows, for a sample of the latents fitted."""

    fit: Floats
    """cosine by at most three"""
    nearest: Floats
    """cosine by one"""
    gain: Floats
    """share of what the nearest real one leaves that two random ones remove"""


def fit_both(
    sides: tuple[Rows, Rows],
    shared: tuple[Integers, Integers],
    null: Sequence[tuple[Rows, Rows]],
    settings: Settings,
    show: Show | None,
) -> list[tuple[Fitted, Chance | None]]:
    """Fit what is left of each side, and on the other side what these fits mention."""
    left = [np.flatnonzero((own < 0) & (r.scale > 0)) for own, r in zip(shared, sides, strict=True)]
    first = [fits(pick(sides[s], left[s]), sides[1 - s], show) for s in (0, 1)]
    out: list[tuple[Fitted, Chance | None]] = []
    for s in (0, 1):
        mentioned = np.union1d(first[1 - s].partners, first[1 - s].nearest)
        more = np.setdiff1d(mentioned[mentioned >= 0], left[s])
        second = fits(pick(sides[s], more), sides[1 - s], show)
        latents = np.concatenate([left[s], more]).astype(np.int64)
        both = joined(first[s], second)
        chance = None
        if null and len(latents):
            chance = _chance(sides[s], sides[1 - s], latents, both, null[0][1 - s])
        bars = _bars(chance, settings)
        out.append((fitted(shared[s], latents, both, bars, settings.part), chance))
    return out


def _chance(own: Rows, other: Rows, latents: Integers, found: Fits, null: Rows) -> Chance:
    step = np.linspace(0, len(latents) - 1, min(_SAMPLE, len(latents))).astype(np.int64)
    sample = pick(own, latents[step])
    alone = fits(sample, null)
    rest = unit_part(own, latents[step]) - found.weights[step, 0, :1] * unit_part(
        other, np.maximum(found.partners[step, 0, 0], 0)
    )
    gain = fits(rows(rest, "residual"), null).cosine[:, 1] ** 2
    return Chance(alone.cosine[:, MOST - 1], alone.nearest_cosine, gain)


def _bars(chance: Chance | None, settings: Settings) -> Bars:
    wanted = (settings.tau, settings.tau, settings.gain)
    if chance is None:
        return Bars(*wanted)
    by_chance = (float(np.quantile(values, settings.chance)) for values in chance)
    return Bars(*(max(pair) for pair in zip(wanted, by_chance, strict=True)))
