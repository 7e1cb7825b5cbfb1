"""Sets of latents of equal firing mass, drawn many times. Needs no torch.

The mass of a latent is its firing rate times its mean activation when it fires (times the length of
its decoder row): how much it adds to reconstructions. An ablation of many rare latents and one of
few frequent ones are compared fairly only at equal mass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.seeds import generator

Floats = NDArray[np.float64]

TOLERANCE = 0.02
"""Share of the wanted mass by which a set may miss it."""

_TRIES = 200
_BOOTSTRAP = 2000


class Draw(NamedTuple):
    """One set of latents to ablate."""

    name: str
    """of the set it was drawn from"""
    number: int
    latents: tuple[int, ...]
    mass: float


def equal_mass_draws(
    mass: Floats,
    sets: Mapping[str, Sequence[int]],
    *,
    draws: int,
    share: float = 0.5,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> list[Draw]:
    """Latents from each set with the same total mass, a `share` of that of the lightest set.

    Latents are taken in an order by chance as long as they fit; an order that misses the mass by
    more than the tolerance is drawn again. Number n of one set goes with number n of the others.
    """
    if not sets or draws < 1 or not 0 < share <= 1 or tolerance <= 0:
        raise SpecError(
            f"{len(sets)} sets, draws = {draws}, share = {share}, tolerance = {tolerance}: it "
            "takes at least one set and one draw, a share up to 1 and a tolerance above 0"
        )
    heavy: dict[str, NDArray[np.int64]] = {}
    for name, latents in sets.items():
        members = np.unique(np.asarray(list(latents), dtype=np.int64))
        if len(members) and not 0 <= members[0] <= members[-1] < len(mass):
            wrong = members[0 if members[0] < 0 else -1]
            raise SpecError(f"{name}: there are latents 0 to {len(mass) - 1}, not {wrong}")
        heavy[name] = members[mass[members] > 0]
        if not len(heavy[name]):
            raise SpecError(
                f"{name}: none of its {len(members)} latents fires, so there is nothing to ablate"
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
    mass: Floats,
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
    order: NDArray[np.int64], mass: Floats, wanted: float, tolerance: float
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionalValue:
    """What the ablation of sets of latents costs, at equal firing mass."""

    draws: pl.DataFrame
    """set, draw, latents (ablated), mass, energy, fvu, fvu_rise, ce, ce_rise (null if not measured)

    `energy` is Σ rate (mean activation x length of decoder row)² of the ablated latents: what FVU
    would rise by, up to a factor, if they added at right angles. Equal mass does not make it equal.
    """
    sets: pl.DataFrame
    """set, latents (mean number ablated), mass, energy, fvu_rise, fvu_rise_lo, fvu_rise_hi,
    ce_rise, ce_rise_lo, ce_rise_hi: means over draws with 95 % intervals"""
    differences: pl.DataFrame
    """contrast (`a - b`) and the difference of the rises, with the same endings"""
    fvu: float
    """with all latents"""
    ce: float | None
    says: str


def functional_result(
    drawn: Sequence[Draw],
    energy: Floats,
    errors: Floats,
    scale: Floats,
    entropies: Floats | None,
    names: Sequence[str],
    seed: int,
) -> FunctionalValue:
    """Put together what was measured.

    `errors` `[1 + draws, blocks]` are squared, those with all latents first; `scale` `[blocks]` is
    the sum of squared distances to the mean row; `entropies` `[1 + draws]` are in nats.
    """
    fvu, ce = float(errors[0].sum() / scale.sum()), None
    fvus, ces, ce_rises = errors[1:].sum(axis=1) / scale.sum(), None, None
    if entropies is not None:
        ce, ces, ce_rises = float(entropies[0]), entropies[1:], entropies[1:] - entropies[0]
    columns = {
        "set": [draw.name for draw in drawn],
        "draw": [draw.number for draw in drawn],
        "latents": [len(draw.latents) for draw in drawn],
        "mass": [draw.mass for draw in drawn],
        "energy": [float(energy[list(draw.latents)].sum()) for draw in drawn],
        "fvu": fvus,
        "fvu_rise": fvus - fvu,
        "ce": ces,
        "ce_rise": ce_rises,
    }
    table = pl.DataFrame(columns, schema_overrides={"ce": pl.Float64, "ce_rise": pl.Float64})
    of, rises = np.array([draw.name for draw in drawn]), errors[1:] - errors[0]
    by_blocks = {n: _resampled(rises[of == n], scale, seed) for n in names}
    by_draws: dict[str, Floats] = {}
    if ce_rises is not None:
        by_draws = {n: _over_draws(ce_rises[of == n], seed) for n in names}
    sets = [
        {"set": n, **_means(table.filter(pl.col("set") == n))}
        | _ends("fvu_rise", by_blocks[n])
        | _ends("ce_rise", by_draws.get(n))
        for n in names
    ]
    differences = [
        {"contrast": f"{a} - {b}"}
        | _ends("fvu_rise", by_blocks[a] - by_blocks[b])
        | _ends("ce_rise", by_draws[a] - by_draws[b] if by_draws else None)
        for a, b in combinations(names, 2)
    ]
    of_sets = pl.DataFrame(sets, schema_overrides=_FLOATS)
    of_pairs = pl.DataFrame(differences, schema={"contrast": pl.String, **_FLOATS})
    return FunctionalValue(
        draws=table,
        sets=of_sets,
        differences=of_pairs,
        fvu=fvu,
        ce=ce,
        says=_sentence(fvu, ce, of_sets, of_pairs),
    )


_FLOATS: dict[str, type[pl.DataType]] = dict.fromkeys(
    (f"{name}{end}" for name in ("fvu_rise", "ce_rise") for end in ("", "_lo", "_hi")), pl.Float64
)


def _resampled(rise: Floats, scale: Floats, seed: int) -> Floats:
    """[1 + bootstrap] mean rise of FVU over draws: as it is, then over resampled draws and blocks.

    Every set is resampled with the same blocks, so that differences are paired in them.
    """
    draws, blocks = rise.shape
    texts = generator("functional-blocks", seed)
    sets = generator("functional-draws", seed, draws)
    n = texts.multinomial(blocks, np.full(blocks, 1 / blocks), size=_BOOTSTRAP)
    m = sets.multinomial(draws, np.full(draws, 1 / draws), size=_BOOTSTRAP) / draws
    again = np.einsum("sd,db,sb->s", m, rise, n, optimize=True) / (n @ scale).clip(min=1e-300)
    return np.concatenate([[rise.mean(axis=0).sum() / scale.sum()], again])


def _over_draws(rises: Floats, seed: int) -> Floats:
    draws = len(rises)
    m = generator("functional-entropy", seed, draws).multinomial(
        draws, np.full(draws, 1 / draws), size=_BOOTSTRAP
    )
    return np.concatenate([[rises.mean()], m @ rises / draws])


def _ends(name: str, samples: Floats | None) -> dict[str, float | None]:
    if samples is None:
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    low, high = np.quantile(samples[1:], [0.025, 0.975])
    return {name: float(samples[0]), f"{name}_lo": float(low), f"{name}_hi": float(high)}


def _means(rows: pl.DataFrame) -> dict[str, float]:
    return {name: float(rows[name].to_numpy().mean()) for name in ("latents", "mass", "energy")}


def _sentence(fvu: float, ce: float | None, sets: pl.DataFrame, differences: pl.DataFrame) -> str:
    rises = _rises("fvu_rise", sets, differences)
    text = f"FVU {fvu:.4f}; without latents of equal firing mass: {rises}"
    if ce is not None:
        text += f". Cross-entropy {ce:.4f} nats: {_rises('ce_rise', sets, differences)}"
    return text


def _rises(name: str, sets: pl.DataFrame, differences: pl.DataFrame) -> str:
    def interval(row: dict[str, float]) -> str:
        return f"{row[name]:+.4f} [{row[f'{name}_lo']:+.4f}, {row[f'{name}_hi']:+.4f}]"

    each = ", ".join(
        f"{row['set']} {interval(row)} ({row['latents']:.0f} latents)"
        for row in sets.iter_rows(named=True)
    )
    apart = [f"{row['contrast']} {interval(row)}" for row in differences.iter_rows(named=True)]
    return "; ".join([each, *apart])
