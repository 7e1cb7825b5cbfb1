"""Sets of latents of equal firing mass, drawn many times. Needs no torch.

The mass of a latent is its firing rate times its mean activation when it fires (times the length of
its decoder row): how much it adds to reconstructions. Dropping many rare latents or few frequent
ones is compared fairly only at equal mass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.seeds import generator

TOLERANCE = 0.02
"""Share of the wanted mass by which a set may miss it."""
_TRIES = 200


class Draw(NamedTuple):
    """One set of latents to drop."""

    name: str
    """of the set it was drawn from"""
    number: int
    latents: tuple[int, ...]
    mass: float


def equal_mass_draws(
    mass: NDArray[np.float64],
    sets: Mapping[str, Sequence[int]],
    *,
    draws: int,
    share: float = 0.5,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> list[Draw]:
    """Latents from each set with the same total mass.

    Latents are taken in an order by chance as long as they fit; an order that misses the mass by
    more than the tolerance is drawn again.

    Args:
        mass: `[F]`, at least 0; latents without mass are never drawn.
        sets: name to its latents.
        draws: from each set.
        share: of the mass of the lightest set that is dropped; near 1 all draws are alike.
        tolerance: share of that mass by which a draw may miss it.
        seed: of the draws.

    Returns:
        Draws of all sets; number n of one set goes with number n of the others.

    Raises:
        SpecError: if a set is empty or has no mass, or its latents are too heavy to reach the mass
            so closely.
    """
    if not sets or draws < 1 or not 0 < share <= 1 or tolerance <= 0:
        raise SpecError(
            f"{len(sets)} sets, draws = {draws}, share = {share}, tolerance = {tolerance}: it "
            "takes at least one set and one draw, a share up to 1 and a tolerance above 0"
        )
    heavy: dict[str, NDArray[np.int64]] = {}
    for name, latents in sets.items():
        given = np.unique(np.asarray(list(latents), dtype=np.int64))
        if len(given) and not 0 <= given[0] <= given[-1] < len(mass):
            raise SpecError(f"{name}: there are latents 0 to {len(mass) - 1}, not {given[-1]}")
        heavy[name] = given[mass[given] > 0]
        if not len(heavy[name]):
            raise SpecError(
                f"{name}: none of its {len(given)} latents fires, so there is nothing to drop"
            )
    wanted = share * min(float(mass[latents].sum()) for latents in heavy.values())
    return [
        _draw(name, number, latents, mass, wanted, tolerance, seed)
        for name, latents in heavy.items()
        for number in range(draws)
    ]


def _draw(
    name: str,
    number: int,
    latents: NDArray[np.int64],
    mass: NDArray[np.float64],
    wanted: float,
    tolerance: float,
    seed: int,
) -> Draw:
    rng = generator("equal-mass", seed, name, number)
    closest = 0.0
    for _ in range(_TRIES):
        chosen, total = _filled(latents[rng.permutation(len(latents))], mass, wanted, tolerance)
        if abs(total - wanted) <= tolerance * wanted:
            return Draw(name, number, tuple(sorted(chosen)), total)
        closest = max(closest, total)
    raise SpecError(
        f"{name}: no {_TRIES} orders of its {len(latents)} latents reach a mass of {wanted:.4g} "
        f"within {tolerance:.0%} (the closest is {closest:.4g}); its latents are too heavy. Raise "
        "the tolerance or the share."
    )


def _filled(
    order: NDArray[np.int64], mass: NDArray[np.float64], wanted: float, tolerance: float
) -> tuple[list[int], float]:
    """Latents in this order, each taken if it fits."""
    chosen: list[int] = []
    total = 0.0
    for latent in order.tolist():
        if total + mass[latent] <= wanted * (1 + tolerance):
            chosen.append(latent)
            total += float(mass[latent])
        if total >= wanted * (1 - tolerance):
            break
    return chosen, total
