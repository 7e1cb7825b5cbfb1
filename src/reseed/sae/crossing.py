"""Which latents of a crosscoder several sites share, and which belong to one. Without torch.

F latents, M parts (sites), D_m dimensions of a part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.records import Floats

EXCLUSIVE = 0.1
"""A part with less than this share of what a row weighs counts as not used by the latent."""


def part_norms(
    W_dec: Floats, parts: Sequence[int], scales: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """The length of each part of each decoder row.

    Args:
        W_dec: `[F, D]`, D the sum of the parts.
        parts: widths of the sites, in their order.
        scales: of each part, `about["scales"]`; without them a site of larger activations seems to
            have more of every latent.

    Returns:
        `[F, M]`.

    Raises:
        SpecError: if the widths do not add up, or there is not one scale a part.
    """
    scales = [1.0] * len(parts) if scales is None else scales
    if sum(parts) != W_dec.shape[1] or len(scales) != len(parts):
        raise SpecError(
            f"parts = {list(parts)} with {len(scales)} scales do not fit decoder rows of "
            f"{W_dec.shape[1]} dimensions; `about` of the crosscoder has parts and scales"
        )
    pieces = np.split(W_dec.astype(np.float64), np.cumsum(parts)[:-1], axis=1)
    return np.stack(
        [np.linalg.norm(p, axis=1) * c for p, c in zip(pieces, scales, strict=True)], axis=1
    )


def relative_norms(
    W_dec: Floats, parts: Sequence[int], scales: Sequence[float] | None = None
) -> pl.DataFrame:
    """How much of each latent belongs to which site (transformer-circuits, October 2024).

    Args:
        W_dec: `[F, D]`, D the sum of the parts.
        parts: widths of the sites, in their order.
        scales: as for `part_norms`.

    Returns:
        latent; share_0 to share_M-1, each part's share of the summed norms, NaN for a zero row;
        kind: `"shared"` if every part has at least `EXCLUSIVE`, `"exclusive"` if one part only has,
        `"partly"` if some but not all have, `"zero"` for a zero row; part, the strongest part.

    Raises:
        SpecError: as `part_norms`.
    """
    norms = part_norms(W_dec, parts, scales)
    total = norms.sum(axis=1, keepdims=True)
    shares = np.divide(norms, total, out=np.full_like(norms, np.nan), where=total > 0)
    used = (shares >= EXCLUSIVE).sum(axis=1)
    kind = np.select(
        [total[:, 0] == 0, used == len(parts), used == 1], ["zero", "shared", "exclusive"], "partly"
    )
    columns = {f"share_{m}": shares[:, m] for m in range(len(parts))}
    strongest = norms.argmax(axis=1)
    return pl.DataFrame(
        {"latent": np.arange(len(norms)), **columns, "kind": kind, "part": strongest}
    )
