"""Whether the neighbourhood of a latent spans the same directions in two dictionaries.

Single latents may not come back although the space they lie in does (arXiv 2606.12138). The
*neighbourhood* of a row in a dictionary is the span of the `rank` leading right singular vectors of
its `size` rows of largest |cosine| to it (in its own dictionary it is one of them). A span has no
sign, hence |cosine|, unlike everywhere else in matching.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reseed.matching.beyond.regress import rows_at_once, top, unit_part
from reseed.matching.entries import stretches
from reseed.matching.geometry import Floats, Integers, Rows, check_dimensions

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

    Args:
        a: n latents, e.g. those left over.
        b: m latents of the other dictionary.
        size: rows of a neighbourhood; all there are where they are fewer.
        rank: dimensions of its span.

    Returns:
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

    Args:
        overlap: of real latents.
        null: the same numbers of random latents in random dictionaries, with the same selection of
            neighbours; NaN are left out.

    Returns:
        `[n]`; NaN where `found` is, or where there is no null.
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
