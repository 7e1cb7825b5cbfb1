"""Beyond one-to-one: what became of the latents of two dictionaries that have no counterpart.

Arrays in, a table out. One row for each latent without a counterpart, of both sides:

side, latent
    `"a"` or `"b"`, and its number.
label
    One of `reseed.matching.beyond.labels.LABELS`; null for a zero row.
nearest, nearest_cos
    The most similar latent of the other side, and its signed cosine.
explained_2, explained_3
    Cosine of the best fit found by at most two, at most three latents of the other side.
partners, cos, residual
    How many partners earn their place; cosine of the fit by so many, and length of what it leaves.
partner_1 to partner_3, weight_1 to weight_3
    That fit, by falling weight; null for none.
going_back
    How many of its parts point back to it.
into
    The latent that it merged or was absorbed into.
subspace_overlap, subspace_rest, subspace_inside, subspace_p
    See `reseed.matching.beyond.subspaces`; null where they cannot be told.

The formulas are in docs/structure.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from reseed.errors import SpecError
from reseed.matching.beyond.labels import (
    LABELS,
    Chance,
    Fitted,
    Settings,
    Show,
    fit_both,
    label,
    pick,
)
from reseed.matching.beyond.regress import MOST
from reseed.matching.beyond.subspaces import Overlap, overlaps, p_values
from reseed.matching.geometry import Floats, Integers, Rows, rows

_NULL_LATENTS = 4_000
"""Random latents that are enough for the null of the subspaces."""


class Side(NamedTuple):
    """One dictionary."""

    decoder: Any
    """[F, D]"""
    shared: Integers
    """[F] its counterpart on the other side, -1 for those left over"""


class Structure(NamedTuple):
    """What became of what is left."""

    table: pl.DataFrame
    """as said at the top of this file"""
    about: dict[str, Any]
    """`a` and `b`: latents left over, labels, bars, what chance gives"""


def structure(
    a: Side,
    b: Side,
    nulls: Sequence[tuple[Any, Any]],
    settings: Settings | None = None,
    show: Show | None = None,
) -> Structure:
    """Explain what is left of each side by the other.

    Args:
        a: one dictionary.
        b: the other.
        nulls: random dictionaries in place of the decoders of A and of B, of the same covariance
            each, `[F, D]`; the first pair is the null of the fits, all are that of the subspaces.
            Without any the bars are the settings alone and subspaces have no p-value.
        settings: from where on something counts.
        show: told how many similarities were computed, as they are.

    Raises:
        SpecError: if a matrix has NaN, dimensions differ, or counterparts do not go both ways.
    """
    settings = settings or Settings()
    sides = (rows(a.decoder, "A's decoder"), rows(b.decoder, "B's decoder"))
    shared = (np.asarray(a.shared), np.asarray(b.shared))
    _check(sides, shared)
    drawn = [(rows(x, "null of A"), rows(y, "null of B")) for x, y in nulls]
    both = fit_both(sides, shared, drawn[:1], settings, show)
    spans = _spans(sides, shared, drawn, settings)
    frames: list[pl.DataFrame] = []
    about: dict[str, Any] = {}
    for side, name in enumerate("ab"):
        fitted, chance = both[side]
        frame = _table(name, fitted, both[1 - side][0], spans[side])
        frames.append(frame.with_columns(pl.col("side").cast(pl.Categorical)))
        about[name] = _about(fitted, chance, frame, spans[side], settings)
    return Structure(pl.concat(frames), about)


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


class _Spans(NamedTuple):
    """Neighbourhoods of the latents of one side that are left over, `[left]` each."""

    latents: Integers
    found: Overlap
    null: Overlap
    p: Floats


def _spans(
    sides: tuple[Rows, Rows],
    shared: tuple[Integers, Integers],
    nulls: Sequence[tuple[Rows, Rows]],
    settings: Settings,
) -> list[_Spans]:
    left = [np.flatnonzero(own < 0) for own in shared]
    size = {"size": settings.neighbours, "rank": settings.rank}
    out: list[_Spans] = []
    for s in (0, 1):
        pools = [pick(sides[t], left[t]) for t in (s, 1 - s)]
        overlap = overlaps(*pools, **size)
        chance = [overlaps(*pair, **size) for pair in _random_pools(pools, nulls, s)]
        empty = Overlap(*(np.zeros(0) for _ in overlap))
        null = Overlap(*(np.concatenate(parts) for parts in zip(empty, *chance, strict=True)))
        out.append(_Spans(left[s], overlap, null, p_values(overlap, null)))
    return out


def _random_pools(
    pools: Sequence[Rows], nulls: Sequence[tuple[Rows, Rows]], side: int
) -> Iterator[tuple[Rows, Rows]]:
    """Random pools as large as the real ones, so that neighbours are as near by chance.

    A random dictionary is cut into as many of them as it gives and as are needed.
    """
    sizes = [int((pool.scale > 0).sum()) for pool in pools]
    if not all(sizes):
        return
    latents = 0
    for pair in nulls:
        both = [pair[t] for t in (side, 1 - side)]
        cuts = min(
            len(dictionary.scale) // size for dictionary, size in zip(both, sizes, strict=True)
        )
        for cut in range(cuts):
            if latents >= _NULL_LATENTS:
                return
            parts = (np.arange(cut * size, (cut + 1) * size) for size in sizes)
            first, second = (
                pick(dictionary, part) for dictionary, part in zip(both, parts, strict=True)
            )
            yield first, second
            latents += sizes[0]


def _table(name: str, own: Fitted, other: Fitted, spans: _Spans) -> pl.DataFrame:
    labelled = label(own, other)
    keep = np.flatnonzero(own.left)
    chosen = keep, own.partners[keep] - 1
    partners, weights = own.fits.partners[chosen], own.fits.weights[chosen]
    fit: dict[str, Any] = {
        "latent": own.latents[keep],
        "label": labelled.label[keep],
        "nearest": own.fits.nearest[keep],
        "nearest_cos": own.fits.nearest_cosine[keep],
        "explained_2": own.fits.cosine[keep, 1],
        "explained_3": own.fits.cosine[keep, 2],
        "partners": own.partners[keep],
        "cos": own.cosine[keep],
        "residual": np.sqrt((1.0 - own.cosine[keep] ** 2).clip(0.0)),
        **{f"partner_{i + 1}": partners[:, i] for i in range(MOST)},
        **{f"weight_{i + 1}": weights[:, i] for i in range(MOST)},
        "going_back": labelled.back[keep],
        "into": labelled.into[keep],
    }
    span = {
        "latent": spans.latents,
        "subspace_overlap": spans.found.mean,
        "subspace_rest": spans.found.rest,
        "subspace_inside": spans.found.inside,
        "subspace_p": spans.p,
    }
    none = [pl.col(f"partner_{i + 1}") for i in range(MOST)] + [pl.col("into")]
    return (
        pl.DataFrame(span)
        .join(pl.DataFrame(fit), on="latent", how="left", maintain_order="left")
        .with_columns(pl.when(c >= 0).then(c) for c in none)
        .with_columns(pl.selectors.float().fill_nan(None))
        .select(pl.lit(name).alias("side"), *fit, *list(span)[1:])
    )


def _about(
    own: Fitted, chance: Chance | None, frame: pl.DataFrame, spans: _Spans, settings: Settings
) -> dict[str, Any]:
    p = frame["subspace_p"].drop_nulls()
    null = spans.null.mean[~np.isnan(spans.null.mean)]
    return {
        "latents": len(own.shared),
        "left_over": len(spans.latents),
        "labels": {name: int((frame["label"] == name).sum()) for name in LABELS},
        "bars": own.bars._asdict(),
        "by_chance": None
        if chance is None
        else {
            "fit": float((chance.fit >= settings.tau).mean()),
            "nearest": float((chance.nearest >= settings.tau).mean()),
            "gain": float((chance.gain >= settings.gain).mean()),
        },
        "subspaces": {
            "tested": len(p),
            "stable": int((p <= 1.0 - settings.chance + 1e-12).sum()),
            "by_chance": (1.0 - settings.chance) * len(p),
            "null_mean": float(null.mean()) if len(null) else None,
            "null_high": float(np.quantile(null, settings.chance)) if len(null) else None,
        },
    }
