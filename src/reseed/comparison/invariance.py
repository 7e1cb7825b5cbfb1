"""Which latents see the same in two views of one place: paired views, with shuffles inside units.

N places, U units, F latents. Places are what the two views share (a crop that two sensors see, a
picture and its turned copy); a unit is what places are alike by (a scene, a recording). With a and
b the codes of one latent in both views, r is Pearson's correlation over all places. That scenes
differ makes a correlation too, so b is shuffled **inside** each unit: the means and deviations stay
and only sum(ab) changes, whose expectation is the sum over units of n_u mean_u(a) mean_u(b). So the
null's mean needs no draws; p does, (1 + draws at least as large) / (1 + draws), and no latent is
below chance by it (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585).

Intervals leave out one unit at a time (the delete-one jackknife over U): other places of the same
scenes are no new evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from reseed.errors import SpecError
from reseed.matching.codes import Codes, as_codes
from reseed.seeds import generator
from reseed.stability.intervals import Floats, jackknife_ends

LEVEL = 0.01
"""p up to which a latent counts: it is above the 99th percentile of its shuffles."""

_LEAST_DRAWS = 99
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Invariance:
    """How alike latents fire in two views of the same places.

    Means and the share are over the latents that fire in one of the views at least.
    """

    latents: pl.DataFrame
    """latent, fired_a and fired_b (places), r, r_lo and r_hi (95 %, units left out; null with fewer
    than three units), r_null (mean of the shuffles), p"""
    places: int
    units: int
    live: int
    """latents that fire in one of the views"""
    draws: int
    share: float
    """of live latents with p <= .01; by chance .01"""
    share_95: tuple[float, float] | None
    """leaving out one unit at a time"""
    r: float
    """mean over live latents"""
    r_null: float
    excess: float
    """mean of r - r_null"""
    excess_95: tuple[float, float] | None
    without: pl.DataFrame
    """unit, share, excess with that unit left out: which one carries them, and for differences of
    two SAEs on the same places"""

    def __repr__(self) -> str:
        return f"<paired: {self.says}>"

    @property
    def says(self) -> str:
        """The numbers in a sentence."""
        return (
            f"{self.live} of {len(self.latents)} latents fire in {self.places} places of "
            f"{self.units} units; {self.share:.1%}{_ends(self.share_95, '{:.1%}')} are above the "
            f"99th percentile of {self.draws} shuffles inside units (chance 1%); mean r "
            f"{self.r:.3f}, shuffled {self.r_null:.3f}, excess {self.excess:.3f}"
            f"{_ends(self.excess_95, '{:.3f}')}"
        )


class _Sums(NamedTuple):
    """Over the places of each unit, and so of any of them; `[..., F]` but for n."""

    n: Floats
    """`[..., 1]` places"""
    a: Floats
    b: Floats
    aa: Floats
    bb: Floats

    def correlation(self, ab: Floats) -> Floats:
        """`[..., F]` from sums of products; 0 where a latent does not vary in both views."""
        spread = [(self.n * s2 - s**2) for s2, s in ((self.aa, self.a), (self.bb, self.b))]
        sizes = (self.n * self.aa, self.n * self.bb)
        varies = [x > _ROUNDING * size for x, size in zip(spread, sizes, strict=True)]
        scale = np.sqrt(np.where(varies[0] & varies[1], spread[0] * spread[1], np.inf))
        return np.clip((self.n * ab - self.a * self.b) / scale, -1.0, 1.0)


def paired(
    codes_a: Any, codes_b: Any, units: Sequence[Any], *, draws: int = 499, seed: int = 0
) -> Invariance:
    """Test which latents fire alike in two views of the same places.

    Args:
        codes_a: `[N, F]` codes of the first view, >= 0; a NumPy array, torch tensor or SciPy sparse
            matrix. Row i of both is the same place.
        codes_b: `[N, F]` codes of the second view by the same SAE.
        units: `[N]` the unit of each place, numbers or names; at least two places each.
        draws: of shuffles inside units, 99 or more.
        seed: of the shuffles.

    Returns:
        Correlation, null, p and interval of each latent, and their means with intervals over units.

    Raises:
        SpecError: if codes are negative or NaN, of unequal shapes, if units do not fit or have one
            place, or if draws are fewer than 99.

    Example:
        >>> import numpy as np, reseed
        >>> a = np.random.default_rng(0).random((60, 4))
        >>> reseed.paired(a, a, [n // 20 for n in range(60)]).share
        1.0
    """
    a, b = as_codes(codes_a, "codes_a"), as_codes(codes_b, "codes_b")
    names, unit = _numbered(a, b, units)
    _check(np.bincount(unit), names, draws)
    of = csr_array((np.ones(len(unit)), (unit, np.arange(len(unit)))))  # [U, N]
    own = _Sums(of.sum(axis=1)[:, None], *(_dense(of @ x) for x in (a, b, a.power(2), b.power(2))))
    own_ab = _dense(of @ a.multiply(b))
    sums, ab = _Sums(*(_with_one_left_out(x) for x in own)), _with_one_left_out(own_ab)
    r = sums.correlation(ab)
    null = sums.correlation(_with_one_left_out(own.a * own.b / own.n))
    p = _p_values(a, b, of, unit, ab, draws, seed)
    live = (sums.a[0] > 0) | (sums.b[0] > 0)
    if not live.any():
        raise SpecError("no latent fires in either view, so there is nothing to compare")
    low, high = jackknife_ends(r[0], r[1:])
    table = pl.DataFrame(
        {
            "latent": np.arange(len(live)),
            "fired_a": np.bincount(a.indices, minlength=len(live)),
            "fired_b": np.bincount(b.indices, minlength=len(live)),
            "r": r[0],
            "r_lo": low.clip(-1, 1),
            "r_hi": high.clip(-1, 1),
            "r_null": null[0],
            "p": p[0],
        }
    ).with_columns(pl.col("r_lo", "r_hi").fill_nan(None))
    shares, over = (p <= LEVEL)[:, live].mean(axis=1), (r - null)[:, live].mean(axis=1)
    share, share_95 = _over_units(shares, 0.0, 1.0)
    excess, excess_95 = _over_units(over, -2.0, 2.0)
    return Invariance(
        latents=table, places=len(unit), units=len(names), live=int(live.sum()), draws=draws,
        share=share, share_95=share_95, r=float(r[0, live].mean()),
        r_null=float(null[0, live].mean()), excess=excess, excess_95=excess_95,
        without=pl.DataFrame({"unit": names, "share": shares[1:], "excess": over[1:]}),
    )  # fmt: skip


def _numbered(a: Codes, b: Codes, units: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The units in order, and `[N]` which of them each place is in."""
    if a.shape != b.shape:
        raise SpecError(
            f"codes_a are {list(a.shape)} and codes_b {list(b.shape)} (places, latents); the same "
            "SAE has to encode the same places in both views, row by row"
        )
    try:
        given = np.asarray(units)
        names, unit = np.unique(given, return_inverse=True)
    except (TypeError, ValueError) as error:  # None among names cannot be put in order
        raise SpecError(
            f"units cannot be told apart ({error}); give each place one, all numbers or all names"
        ) from error
    if given.shape != (a.shape[0],):
        raise SpecError(
            f"units have the shape {list(given.shape)}, but there are {a.shape[0]} places; give "
            "the unit of each place"
        )
    missing = int((given != given).sum())  # noqa: PLR0124  (NaN alone is not like itself)
    if missing or not len(given):
        raise SpecError(
            f"{missing} of {len(given)} places have no unit (NaN); give places that have one"
        )
    return names, unit


def _check(counts: NDArray[np.int64], names: NDArray[Any], draws: int) -> None:
    if counts.min() < 2:
        alone = names[counts.argmin()]
        raise SpecError(
            f"unit {alone!r} has one place, and inside it nothing can be shuffled; leave it out, "
            "or take larger units"
        )
    if draws < _LEAST_DRAWS:
        raise SpecError(f"draws = {draws}: p cannot reach .01 with fewer than {_LEAST_DRAWS}")


def _dense(sparse: Any) -> Floats:
    return np.asarray(sparse.toarray(), dtype=np.float64)


def _with_one_left_out(by_unit: Floats) -> Floats:
    """`[1 + U, ...]` sums over all units, then with each one left out, from those of each."""
    return np.concatenate([[by_unit.sum(axis=0)], by_unit.sum(axis=0) - by_unit])


def _p_values(
    a: Codes, b: Codes, of: Any, unit: NDArray[np.int64], ab: Floats, draws: int, seed: int
) -> Floats:
    """`[1 + U, F]`: a shuffle inside units changes no other sum, so products are compared."""
    rng = generator("paired-views", seed)
    in_order = np.argsort(unit, kind="stable")
    reached = np.zeros(ab.shape, np.int64)
    least = ab - _ROUNDING * np.abs(ab)
    to = np.empty(len(unit), np.int64)
    for _ in range(draws):
        # by unit, and inside it by chance: the places of a unit change among themselves
        to[in_order] = np.lexsort((rng.random(len(unit)), unit))
        reached += _with_one_left_out(_dense(of @ a.multiply(b[to]))) >= least
    return (1 + reached) / (1 + draws)


def _over_units(
    values: Floats, least: float, most: float
) -> tuple[float, tuple[float, float] | None]:
    """A statistic of all units and its interval, from that and those with one left out."""
    low, high = jackknife_ends(values[0], values[1:])
    if np.isnan(low):
        return float(values[0]), None
    return float(values[0]), (float(max(low, least)), float(min(high, most)))


def _ends(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f" ({form.format(ends[0])} to {form.format(ends[1])})"
