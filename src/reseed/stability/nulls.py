"""What the same measurement gives when there is nothing to find: the nulls of a study.

Each answers another doubt, so a share is read beside several; docs/nulls.md has them all. Those
that need training are the control runs (`reseed.spec.training`); the frequency-matched permutation
(N8) is in `reseed.matching.activations`. F latents, D dimensions.

Lambda of matching with a reject option is a quantile of the *maximum statistic*: what a latent's
most similar counterpart scores when there is nothing to find. A pair above it is more alike than
all but a known share of latents find by chance among all candidates, which a single random pair
would understate: it takes the best of F.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.entries import largest
from reseed.matching.geometry import finite_rows, whitened
from reseed.matching.match import View, Views, geometry_of, views_of
from reseed.records import SAEArrays
from reseed.seeds import generator
from reseed.spec.training import Control

COVARIANCE = "N2 covariance-matched"

UNTRAINED = "N4 untrained pair"

CONTROLS: Mapping[Control, tuple[str, str]] = {
    "gaussian": ("N5a", "that fitting the covariance alone makes runs agree"),
    "shuffled": ("N5b", "that the distribution of each single dimension makes runs agree"),
    "random_subject": (
        "N6",
        "that the text and the architecture, not what was learned, make runs agree",
    ),
    "frozen_decoder": (
        "N7a",
        "that decoder rows need not be learned to reconstruct and agree so well",
    ),
    "soft_frozen_decoder": (
        "N7b",
        "that small turns of random decoder rows do to reconstruct and agree so well",
    ),
    "frozen_encoder": (
        "N7c",
        "that encoder rows need not be learned to reconstruct and agree so well",
    ),
}
"""Kind of control run to the id of its null and to what it rules out."""


class CovarianceNull:
    """Random latents with the anisotropy of real ones (null N2).

    Encoder and decoder rows of a latent are drawn together from one Gaussian with the joint mean
    and covariance of the real unit rows. Scaling a drawn row to length 1 flattens the spectrum, so
    the Gaussian is adjusted until its *unit* rows have the real second moments along the real
    principal directions of each view. Without that the null is too low: of independent
    dictionaries with amplitudes falling as 1/k it explains 65 % of an apparent share of 82 %, with
    it all (a test holds this).

    Args:
        views: rows `[F, D]` of one SAE; zero rows are left out.
    """

    def __init__(self, views: Views) -> None:
        encoder, decoder = (np.asarray(v, dtype=np.float64) for v in views)
        keep = _not_zero(encoder, decoder)
        rows = [_unit(encoder[keep]), _unit(decoder[keep])]
        self.count, self._split = int(keep.sum()), encoder.shape[1]
        both = np.concatenate(rows, axis=1)
        self._mean = both.mean(axis=0)
        self._root = _root(both - self._mean)
        self._adjust([view.T @ view / len(view) for view in rows])

    def draw(self, *key: int | str) -> Views:
        """As many random latents as there are real ones that are not zero.

        Args:
            key: of the generator, e.g. the pair, the side and the draw.
        """
        mix = generator("null-covariance", *key).standard_normal((self.count, len(self._root)))
        rows = mix @ self._root
        rows += self._mean
        # float32 as the weights they imitate, in half the memory
        parts = (rows[:, : self._split], rows[:, self._split :])
        return Views(*(part.astype(np.float32) for part in parts))

    def _adjust(self, moments: list[NDArray[np.float64]]) -> None:
        """Scale the principal directions of each view until unit rows have these moments."""
        size = max(2000, len(self._root))
        mix = generator("null-adjust").standard_normal((size, len(self._root)))
        bases = [np.linalg.eigh(moment) for moment in moments]
        parts = (slice(0, self._split), slice(self._split, None))
        for _ in range(_ROUNDS):
            rows, off = self._mean + mix @ self._root, 0.0
            for (wanted, basis), part in zip(bases, parts, strict=True):
                moment = ((_unit(rows[:, part]) @ basis) ** 2).mean(axis=0)
                real = wanted > wanted[-1] * 1e-9
                scale = np.sqrt(np.where(real, wanted, 1.0) / np.where(real, moment, 1.0))
                change = (basis * scale) @ basis.T
                self._root[:, part] = self._root[:, part] @ change
                self._mean[part] = self._mean[part] @ change
                off = max(off, float(np.abs(moment - wanted).sum()))
            if off < _CLOSE:
                return


_ROUNDS = 20

_CLOSE = 2e-3
"""Summed difference of the second moments, of a total of 1, at which the adjustment ends."""

_ZERO = 1e-12
"""Second moment of a direction in which there is nothing."""


def _root(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[rank, 2D]` R with RᵀR the covariance of the rows."""
    values, vectors = np.linalg.eigh(centred.T @ centred / max(len(centred) - 1, 1))
    keep = values > values[-1] * 1e-12
    return (vectors[:, keep] * np.sqrt(values[keep])).T


def covariance_null(sae: SAEArrays) -> CovarianceNull | None:
    """The null of the latents of an SAE; None where fewer than two have rows."""
    views = Views(sae.W_enc, sae.W_dec)
    return CovarianceNull(views) if _not_zero(*views).sum() > 1 else None


def _not_zero(encoder: NDArray[Any], decoder: NDArray[Any]) -> NDArray[np.bool_]:
    return (np.abs(encoder).sum(1) > 0) & (np.abs(decoder).sum(1) > 0)


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def chance_corrected(observed: float, null: float) -> float:
    """(observed - null) / (1 - null): 0 at chance, 1 when everything agrees."""
    return (observed - null) / (1.0 - null) if null < 1.0 else 0.0


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
    views = [_views(sae, view, covariance) for sae in (A, B)]
    if not all(_any_left(rows) for rows in views):
        return 0.0
    nulls = [CovarianceNull(rows) for rows in views]
    both = view if view in ("mean", "minimum") else "encoder"
    largest_of = [
        maximum_statistic(
            nulls[0].draw(seed, draw, "a"), nulls[1].draw(seed, draw, "b"), view=both, device=device
        )
        for draw in range(draws)
    ]
    return float(np.quantile(np.concatenate(largest_of), quantile))


def maximum_statistic(
    a: Views, b: Views, *, view: View, device: str = "cpu"
) -> NDArray[np.float64]:
    """`[F_a + F_b]` the largest similarity of each latent of each side to any of the other."""
    sides = largest(geometry_of(a, b, view=view, device=device), absolute=False)
    return np.concatenate([side.similarity for side in sides])


def _views(sae: Any, view: View, covariance: Any) -> Views:
    """The rows that are compared, as float64; a single kind of rows as `encoder`."""
    views = views_of(sae)
    if views is not None and view in ("mean", "minimum"):
        return Views(*(finite_rows(rows, "rows").astype(np.float64) for rows in views))
    if views is not None:
        sae = views.decoder if view == "decoder" else views.encoder
    rows = finite_rows(sae, "rows") if covariance is None else whitened(sae, covariance)
    # a decoder that is the same for all latents adds nothing to their joint covariance
    return Views(rows.astype(np.float64), np.ones((len(rows), 1)))


def _any_left(views: Views) -> bool:
    """Whether a latent has rows that are not zero."""
    return bool(np.logical_and(*(np.abs(rows).sum(axis=1) > 0 for rows in views)).any())
