"""What became of latents without a counterpart: rules on fits by at most three of the other side.

The rules are in docs/structure.md. All follow from two facts about a fit: how well it does, and
whether more partners than one *earn their place* by removing a large part of what fewer leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.beyond.regress import MOST, Fits, fits, joined, unit_part
from reseed.matching.geometry import Floats, Integers, Rows, rows

Booleans = NDArray[np.bool_]

SPLIT, MERGED, ABSORBED = "split", "merged", "absorbed"

DECODER_ONLY, COMPOSED, NOVEL = "decoder_only", "composed", "novel"

LABELS = (SPLIT, MERGED, ABSORBED, DECODER_ONLY, COMPOSED, NOVEL)

_EXPLAINED = 0.02
"""Squared residual at or below which nothing is left to explain (cosine .99)."""


class Bars(NamedTuple):
    """What a fit must reach: the setting, or what random rows reach where that is more."""

    fit: float
    """cosine of a fit by several"""
    nearest: float
    """cosine of a fit by one"""
    gain: float
    """share of the squared residual that more partners must remove"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Fits of some latents of one side by the other side, and what counts of them."""

    shared: Integers
    """[F] counterpart of each latent of this side, -1 for those left over"""
    latents: Integers
    """[n] those that were fitted"""
    at: Integers
    """[F] their place in the arrays below, -1 for those not fitted"""
    fits: Fits
    partners: Integers
    """[n] how many partners earn their place"""
    cosine: Floats
    """[n] of the fit with so many"""
    parts: Integers
    """[n, 3] its partners that weigh enough, else -1"""
    bars: Bars

    @property
    def several(self) -> Booleans:
        """`[n]` whether two or three of the other side explain it well, and one does not."""
        return (self.partners > 1) & (self.cosine >= self.bars.fit)

    @property
    def left(self) -> Booleans:
        """`[n]` whether it has no counterpart."""
        return self.shared[self.latents] < 0


def fitted(shared: Integers, latents: Integers, fits: Fits, bars: Bars, part: float) -> Fitted:
    """Decide how many partners of each fit count; a partner of weight `part` or more is a part."""
    at = np.full(len(shared), -1)
    at[latents] = np.arange(len(latents))
    partners = earning(fits.cosine, bars.gain)
    rows = np.arange(len(latents))
    heavy = fits.weights[rows, partners - 1] >= part
    return Fitted(
        shared=shared,
        latents=latents,
        at=at,
        fits=fits,
        partners=partners,
        cosine=fits.cosine[rows, partners - 1],
        parts=np.where(heavy, fits.partners[rows, partners - 1], -1),
        bars=bars,
    )


def earning(cosine: Floats, gain: float) -> Integers:
    """How many partners earn their place: `[n]`, 1 to 3.

    More partners do if they remove at least `gain` of the squared residual that fewer leave, and
    that residual is not next to nothing. `cosine` is `[n, 3]`, of at most 1, 2, 3 partners.
    """
    residual = 1.0 - cosine**2
    count = np.ones(len(cosine), np.int64)
    for more in range(1, MOST):
        before = residual[np.arange(len(cosine)), count - 1]
        earned = (residual[:, more] <= (1.0 - gain) * before) & (before > _EXPLAINED)
        count = np.where(earned, more + 1, count)
    return count


def going_back(own: Fitted, other: Fitted) -> Booleans:
    """`[n, 3]` which parts of each latent point back to it.

    A part does if the latent is its nearest on this side, or one of its own parts.
    """
    there = (own.parts >= 0) & (other.at[own.parts] >= 0)
    place = np.where(there, other.at[own.parts], 0)
    if not len(other.latents):
        return there
    latent = own.latents[:, None]
    nearest = other.fits.nearest[place] == latent
    return there & (nearest | (other.parts[place] == latent[:, :, None]).any(axis=2))


class Labelled(NamedTuple):
    """What became of each fitted latent."""

    label: NDArray[Any]
    """[n] one of `LABELS`; "" for latents that have a counterpart"""
    into: Integers
    """[n] the latent of the other side that it merged or was absorbed into, or its nearest where
    only the decoder agrees; -1 for none"""
    back: Integers
    """[n] how many of its parts point back to it"""


def label(own: Fitted, other: Fitted) -> Labelled:
    """Label the latents of one side by the first rule that holds (docs/structure.md)."""
    back = going_back(own, other)
    names = np.where(own.left, NOVEL, "").astype("<U12")
    into = np.full(len(own.latents), -1)
    nearest = own.fits.nearest
    near = own.fits.nearest_cosine >= own.bars.nearest
    taken = other.shared[nearest] >= 0
    none = np.full_like(into, -1)
    # from the last rule to the first; a later line overrules
    _set(names, into, near & ~taken, DECODER_ONLY, nearest)
    _set(names, into, near & taken, MERGED, nearest)
    _set(names, into, own.several, COMPOSED, none)
    for name, parts in ((ABSORBED, _absorbers(other)), (MERGED, _wholes(other, own))):
        target = _into(own, other, parts)
        _set(names, into, target >= 0, name, target)
    split = own.several & (back.sum(axis=1) > 1)
    _set(names, into, split, SPLIT, none)
    return Labelled(names, into, back.sum(axis=1))


def _set(names: NDArray[Any], into: Integers, holds: Booleans, name: str, target: Integers) -> None:
    holds = holds & (names != "")
    into[holds] = target[holds]
    names[holds] = name


def _wholes(other: Fitted, own: Fitted) -> Booleans:
    """`[n, 3]` parts of latents of the other side that are left over and split into this side."""
    back = going_back(other, own)
    splits = other.left & other.several & (back.sum(axis=1) > 1)
    return back & splits[:, None]


def _absorbers(other: Fitted) -> Booleans:
    """`[n, 3]` parts, but its counterpart, of latents that carry their counterpart and more."""
    counterpart = other.parts == other.shared[other.latents][:, None]
    carries = ~other.left & other.several & counterpart.any(axis=1)
    return carries[:, None] & ~counterpart & (other.parts >= 0)


def _into(own: Fitted, other: Fitted, which: Booleans) -> Integers:
    """`[n]` for each own latent the other's latent of which it is such a part; -1 for none."""
    out = np.full(len(own.latents), -1)
    if not which.any():
        return out
    of, slot = np.nonzero(which)
    weight = other.fits.weights[of, other.partners[of] - 1, slot]
    part = own.at[other.parts[of, slot]]
    # the whole in which it weighs most is written last
    order = np.lexsort((-of, weight))
    order = order[part[order] >= 0]
    out[part[order]] = other.latents[of[order]]
    return out


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
    return Rows(side.exact[which], side.scale[which])


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
    _check(sides, shared)
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


def _check(sides: tuple[Rows, Rows], shared: tuple[Integers, Integers]) -> None:
    for side, name in enumerate("AB"):
        own, other = shared[side], shared[1 - side]
        if len(own) != len(sides[side].scale):
            raise SpecError(
                f"{name} has {len(sides[side].scale)} latents, but {len(own)} counterparts "
                "are given"
            )
        has = np.flatnonzero(own >= 0)
        if (own >= len(other)).any() or (other[own[has]] != has).any():
            raise SpecError(
                f"the counterparts of {name} do not go both ways; give those of one assignment"
            )


def _chance(own: Rows, other: Rows, latents: Integers, fit: Fits, null: Rows) -> Chance:
    step = np.linspace(0, len(latents) - 1, min(_SAMPLE, len(latents))).astype(np.int64)
    sample = pick(own, latents[step])
    alone = fits(sample, null)
    rest = unit_part(own, latents[step]) - fit.weights[step, 0, :1] * unit_part(
        other, np.maximum(fit.partners[step, 0, 0], 0)
    )
    gain = fits(rows(rest, "residual"), null).cosine[:, 1] ** 2
    return Chance(alone.cosine[:, MOST - 1], alone.nearest_cosine, gain)


def _bars(chance: Chance | None, settings: Settings) -> Bars:
    wanted = (settings.tau, settings.tau, settings.gain)
    if chance is None:
        return Bars(*wanted)
    by_chance = (float(np.quantile(values, settings.chance)) for values in chance)
    return Bars(*(max(pair) for pair in zip(wanted, by_chance, strict=True)))
