"""Lambda of matching with a reject option, from a null.

Lambda is a quantile of the *maximum statistic*: what a latent's most similar counterpart scores
when there is nothing to find. A pair above it is then more alike than all but a known share of
latents find by chance among all candidates, which a single random pair would understate: it takes
the best of F.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.nearest import largest
from reseed.matching.similarity import finite_rows
from reseed.matching.views import View, Views, geometry_of, views_of, whitened
from reseed.stability.weight_nulls import CovarianceNull


def reject_threshold(
    A: Any,
    B: Any,
    *,
    view: View = "decoder",
    covariance: Any = None,
    quantile: float = 0.99,
    draws: int = 3,
    seed: int | str = 0,
    device: str = "cpu",
) -> float:
    """A reject threshold for `reseed.match` from the covariance-matched null (N2).

    Both dictionaries are replaced by random ones with the second moments of their own unit rows,
    `draws` times. Each null latent of either side then has a largest similarity over all latents of
    the other null dictionary; the threshold is a quantile of those.

    Args:
        A: as in `reseed.match`: `[F_a, D]` rows, an SAE, `SAEArrays` or `Views`. A zero row is left
            out, as it is like nothing.
        B: the same, of F_b latents.
        view: which rows, as they will be matched.
        covariance: `[D, D]` of the SAEs' input, for `"whitened"` only.
        quantile: share of the null latents whose best counterpart is at or below the threshold.
        draws: null pairs of dictionaries.
        seed: of the null.
        device: where products are made.

    Returns:
        The threshold, a cosine. Near 1 it says that the rows lie along so few directions that
        cosines cannot tell shared latents from random ones.

    Raises:
        SpecError: if an argument is out of range, or as `reseed.match`.

    Example:
        lam = reseed.reject_threshold(A, B)
        reseed.match(A, B, reject=lam)
    """
    if not (0 <= quantile <= 1 and draws >= 1):
        raise SpecError(f"quantile={quantile} must be within 0..1 and draws={draws} at least 1")
    # refuses what match would refuse, before anything is drawn
    geometry_of(A, B, view=view, covariance=covariance)
    views = [_views(given, view, covariance) for given in (A, B)]
    if not all(_any_left(one) for one in views):
        return 0.0
    nulls = [CovarianceNull(one) for one in views]
    both = view if view in ("mean", "minimum") else "encoder"
    found = [
        maximum_statistic(
            nulls[0].draw(seed, draw, "a"), nulls[1].draw(seed, draw, "b"), view=both, device=device
        )
        for draw in range(draws)
    ]
    return float(np.quantile(np.concatenate(found), quantile))


def maximum_statistic(
    a: Views, b: Views, *, view: View, device: str = "cpu"
) -> NDArray[np.float64]:
    """`[F_a + F_b]` the largest similarity of each latent of each side to any of the other."""
    sides = largest(geometry_of(a, b, view=view, device=device), absolute=False)
    return np.concatenate([side.similarity for side in sides])


def _views(given: Any, view: View, covariance: Any) -> Views:
    """The rows that are compared, as float64; a single kind of rows as `encoder`."""
    views = views_of(given)
    if views is not None and view in ("mean", "minimum"):
        return Views(*(finite_rows(rows, "rows").astype(np.float64) for rows in views))
    if views is not None:
        given = views.decoder if view == "decoder" else views.encoder
    rows = finite_rows(given, "rows") if covariance is None else whitened(given, covariance)
    # a decoder that is the same for all latents adds nothing to their joint covariance
    return Views(rows.astype(np.float64), np.ones((len(rows), 1)))


def _any_left(views: Views) -> bool:
    """Whether a latent has rows that are not zero."""
    return bool(np.logical_and(*(np.abs(rows).sum(axis=1) > 0 for rows in views)).any())
