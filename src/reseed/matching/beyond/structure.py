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
    See `Overlap` and `p_values`; null where they cannot be told.

The formulas are in docs/structure.md.

Single latents may not come back although the space they lie in does (arXiv 2606.12138). The
*neighbourhood* of a row is the span of the `rank` leading right singular vectors of a dictionary's
`size` rows of largest |cosine| to it (in its own it is one); a span has no sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

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
from reseed.matching.beyond.regress import MOST, rows_at_once, top, unit_part
from reseed.matching.geometry import Floats, Integers, Rows, check_dimensions, rows, stretches

_NULL_LATENTS = 4_000  # random latents that are enough for the null of the subspaces


class Side(NamedTuple):
    """One dictionary, its decoder `[F, D]`."""

    decoder: Any
    shared: Integers
    """[F] its counterpart on the other side, -1 for those left over"""


class Structure(NamedTuple):
    """What became of what is left; the table is described above."""

    table: pl.DataFrame
    about: dict[str, Any]
    """`a` and `b`: latents left over, labels, bars, what chance gives"""


def structure(
    a: Side,
    b: Side,
    nulls: Sequence[tuple[Any, Any]],
    settings: Settings | None = None,
    show: Show | None = None,
    others: Sequence[Sequence[tuple[Any, Any]]] = (),
) -> Structure:
    """Explain what is left of each side by the other.

    The nulls are random decoders in place of A's and B's, `[F, D]`, of the same covariance: the
    first pair for the fits, all for the subspaces. Without any there are no p-values. `others` are
    made in other ways, a list each, and a subspace counts by the heaviest.
    """
    settings = settings or Settings()
    sides = (rows(a.decoder, "A's decoder"), rows(b.decoder, "B's decoder"))
    shared = (np.asarray(a.shared), np.asarray(b.shared))
    drawn = [(rows(x, "null of A"), rows(y, "null of B")) for x, y in nulls]
    both = fit_both(sides, shared, drawn[:1], settings, show)
    ways = [[(rows(x, "null of A"), rows(y, "null of B")) for x, y in way] for way in others]
    spans = _spans(sides, shared, [drawn, *ways], settings)
    frames: list[pl.DataFrame] = []
    about: dict[str, Any] = {}
    for side, name in enumerate("ab"):
        fitted, chance = both[side]
        frame = _table(name, fitted, both[1 - side][0], spans[side])
        frames.append(frame.with_columns(pl.col("side").cast(pl.Categorical)))
        about[name] = _about(fitted, chance, frame, spans[side], settings)
    return Structure(pl.concat(frames), about)


class _Spans(NamedTuple):
    """Neighbourhoods of the latents of one side that are left over, `[left]` each."""

    latents: Integers
    overlap: Overlap
    null: Overlap
    p: Floats


def _spans(
    sides: tuple[Rows, Rows],
    shared: tuple[Integers, Integers],
    ways: Sequence[Sequence[tuple[Rows, Rows]]],
    settings: Settings,
) -> list[_Spans]:
    left = [np.flatnonzero(own < 0) for own in shared]
    size = {"size": settings.neighbours, "rank": settings.rank}
    out: list[_Spans] = []
    for s in (0, 1):
        pools = [pick(sides[t], left[t]) for t in (s, 1 - s)]
        overlap = overlaps(*pools, **size)
        nulls: list[Overlap] = []
        for way in ways:
            chance = [overlaps(*pair, **size) for pair in _random_pools(pools, way, s)]
            joined = zip(*chance, strict=True) if chance else [(np.zeros(0),)] * len(overlap)
            nulls.append(Overlap(*map(np.concatenate, joined)))
        p = np.max([p_values(overlap, null) for null in nulls], axis=0)
        highest = max(nulls, key=lambda null: np.nansum(null.mean) / max(len(null.mean), 1))
        out.append(_Spans(left[s], overlap, highest, p))
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
            first, second = (
                pick(dictionary, np.arange(cut * size, (cut + 1) * size))
                for dictionary, size in zip(both, sizes, strict=True)
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
        "subspace_overlap": spans.overlap.mean,
        "subspace_rest": spans.overlap.rest,
        "subspace_inside": spans.overlap.inside,
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
    by_chance = chance and {
        name: float((values >= (settings.gain if name == "gain" else settings.tau)).mean())
        for name, values in chance._asdict().items()
    }
    return {
        "latents": len(own.shared),
        "left_over": len(spans.latents),
        "labels": {name: int((frame["label"] == name).sum()) for name in LABELS},
        "bars": own.bars._asdict(),
        "by_chance": by_chance,
        "subspaces": {
            "tested": len(p),
            "stable": int((p <= 1.0 - settings.chance + 1e-12).sum()),
            "by_chance": (1.0 - settings.chance) * len(p),
            "null_mean": float(null.mean()) if len(null) else None,
            "null_high": float(np.quantile(null, settings.chance)) if len(null) else None,
        },
    }


_FLAT = 1e-9
"""Squared singular value, of unit rows, below which a direction is not there."""


class Overlap(NamedTuple):
    """How far the neighbourhoods of each of n latents of A agree between A and B."""

    mean: Floats
    """[n] mean squared cosine of the principal angles; a direction that one of the two lacks
    counts 0"""
    rest: Floats
    """[n] the same without the smallest angle: what agrees beside the latent's best direction; the
    mean itself at rank 1"""
    inside: Floats
    """[n] share of the latent's squared length that lies in the neighbourhood in B"""


def overlaps(a: Rows, b: Rows, *, size: int, rank: int) -> Overlap:
    """Compare the neighbourhood of each row of A among the rows of A with that among the rows of B.

    NaN for zero rows, and for all rows where A or B has fewer than `rank` rows: then no
    neighbourhood of that rank can be told.
    """
    check_dimensions(a.screen.shape[1], b.screen.shape[1])
    n = len(a.scale)
    out = Overlap(*(np.full(n, np.nan) for _ in Overlap._fields))
    a_there, b_there = (np.flatnonzero(side.scale > 0) for side in (a, b))
    if min(len(a_there), len(b_there)) < rank:
        return out
    for part in stretches(len(a_there), rows_at_once(max(n, len(b.scale)), 256)):
        which = a_there[part]
        own = _basis(a, which, a, a_there, size, rank)
        other = _basis(a, which, b, b_there, size, rank)
        cosines = np.linalg.svd(own.transpose(0, 2, 1) @ other, compute_uv=False).clip(0.0, 1.0)
        energy = cosines**2
        inside = (np.einsum("kd,kdr->kr", unit_part(a, which), other) ** 2).sum(axis=1)
        out.mean[which] = energy.mean(axis=1)
        out.rest[which] = energy[:, 1:].mean(axis=1) if rank > 1 else energy[:, 0]
        out.inside[which] = inside.clip(0.0, 1.0)
    return out


def _basis(
    centres: Rows, which: Integers, pool: Rows, there: Integers, size: int, rank: int
) -> Floats:
    """Orthonormal bases `[k, D, rank]` of neighbourhoods; missing directions are zero."""
    similar = np.abs(centres.screen[which] @ pool.screen[there].T)
    if pool is centres:
        # products of equal rows are 1 only up to rounding, and duplicates are as near
        similar[np.arange(len(which)), np.searchsorted(there, which)] = 2.0
    near = there[top(similar, size)]
    rows = unit_part(pool, near.ravel()).reshape(*near.shape, -1)
    values, vectors = np.linalg.eigh(rows @ rows.transpose(0, 2, 1))
    values, vectors = values[:, -rank:], vectors[:, :, -rank:]
    scale = np.where(values > _FLAT, 1.0 / np.sqrt(np.where(values > _FLAT, values, 1.0)), 0.0)
    return rows.transpose(0, 2, 1) @ (vectors * scale[:, None, :])


def p_values(overlap: Overlap, null: Overlap) -> Floats:
    """One p-value for each latent: the largest of those of its three numbers.

    Each is the share of null latents at least as high, (1 + count) / (1 + N). The largest is small
    only if all three are beyond chance: the spans agree, not only in one direction, and the latent
    lies in what they share. So the test is conservative (an intersection-union test).

    The null are random latents in random dictionaries, with the same selection of neighbours; NaN
    are left out of it. NaN where `overlap` is, or where there is no null.
    """
    worst = np.full(len(overlap.mean), np.nan)
    for values, chance in zip(overlap, null, strict=True):
        ordered = np.sort(chance[~np.isnan(chance)])
        if not len(ordered):
            return np.full(len(values), np.nan)
        # equal neighbourhoods agree up to rounding
        at_least = len(ordered) - np.searchsorted(ordered, values - 1e-12, side="left")
        worst = np.fmax(worst, (1.0 + at_least) / (1.0 + len(ordered)))
    return np.where(np.isnan(overlap.mean), np.nan, worst)
