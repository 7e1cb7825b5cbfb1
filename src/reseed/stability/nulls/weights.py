"""Nulls that are made of weights alone: seeded random dictionaries to match in place of real ones.

Each is made from the rows of one SAE and drawn as often as wanted; what each rules out stands in
`reseed.stability.nulls.names` and in docs/nulls.md. F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError, nearest
from reseed.matching.match import Views
from reseed.seeds import generator

BANDS = 1.5
"""Ratio of second moments inside a band of null N3b."""


class WeightNull(Protocol):
    """A way to draw dictionaries that have nothing in common but what the null keeps."""

    def draw(self, *key: int | str) -> Views:
        """Encoder and decoder rows; equal keys give equal rows, other keys independent ones.

        Args:
            key: of the generator, e.g. the pair, the side and the draw.
        """
        ...


def weight_null(name: str, views: Views) -> WeightNull:
    """The null of this id, made from the rows of one SAE.

    Args:
        name: `"N0"`, `"N1"`, `"N2"`, `"N3"` or `"N3b"` of `reseed.stability.nulls.names.NULLS`.
        views: rows `[F, D]`.

    Example:
        null = {run: weight_null("N3b", views) for run, views in saes.items()}
        compare(null["a"].draw("a", 0), null["b"].draw("b", 0))
    """
    makers: dict[str, Callable[[Views], WeightNull]] = {
        "N0": SameNull,
        "N1": lambda v: IsotropicNull(*np.shape(v.decoder)),
        "N2": CovarianceNull,
        "N3": RotationNull,
        "N3b": lambda v: RotationNull(v, BANDS),
    }
    if name not in makers:
        raise SpecError(f"null {name!r} is not made from weights; {nearest(name, makers)}")
    return makers[name](views)


class SameNull:
    """The rows themselves, whatever the key: what full agreement gives (null N0).

    Drawn for both sides it is an SAE against itself. For a rerun (the same run made twice, on
    another machine or another number of threads) make one of each and compare them: what is below
    1 then is the noise of the arithmetic.

    Args:
        views: rows `[F, D]` of one SAE.
    """

    def __init__(self, views: Views) -> None:
        self._views = views

    def draw(self, *key: int | str) -> Views:  # noqa: ARG002  (there is nothing to draw)
        """The rows."""
        return self._views


class IsotropicNull:
    """Independent unit vectors of uniform direction, as many as there are real rows (null N1).

    Encoder and decoder row of a latent are one vector, as where a training starts; independent
    ones would agree by both views even less often.

    Args:
        latents: F.
        dimensions: D.

    Raises:
        SpecError: if there is no latent or no dimension.
    """

    def __init__(self, latents: int, dimensions: int) -> None:
        if min(latents, dimensions) < 1:
            raise SpecError(f"{latents} latents in {dimensions} dimensions: nothing to draw")
        self._shape = (latents, dimensions)

    def draw(self, *key: int | str) -> Views:
        """Random latents; see `WeightNull.draw`."""
        rows = _unit(generator("null-isotropic", *key).standard_normal(self._shape))
        return Views(rows, rows)


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
                found = ((_unit(rows[:, part]) @ basis) ** 2).mean(axis=0)
                real = wanted > wanted[-1] * 1e-9
                scale = np.sqrt(np.where(real, wanted, 1.0) / np.where(real, found, 1.0))
                change = (basis * scale) @ basis.T
                self._root[:, part] = self._root[:, part] @ change
                self._mean[part] = self._mean[part] @ change
                off = max(off, float(np.abs(found - wanted).sum()))
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


class RotationNull:
    """The real dictionary, turned by a random rotation (null N3).

    Angles inside the dictionary, near-duplicates among its rows, and each latent's angle of encoder
    to decoder row stay as they are; where it lies in space is random. What two dictionaries still
    have in common then follows from their inner geometry.

    Without `bands` the rotation is uniform (Haar) over all D dimensions, and the anisotropy is lost
    with the position. With `bands` only directions of about equal second moment are turned into
    each other: the principal directions of the unit rows are cut where the second moment has fallen
    by this factor, and each band is rotated by itself. So the second moments are kept, exactly
    between bands and up to the factor inside. Both views are turned by the same rotation; bands are
    those of the mean of their second moments.

    Args:
        views: rows `[F, D]` of one SAE; zero rows are left out.
        bands: ratio of the largest to the least second moment of a band, at least 1; None for a
            rotation of everything. A band of one direction can only be mirrored.

    Raises:
        SpecError: if `bands` is below 1.
    """

    def __init__(self, views: Views, bands: float | None = None) -> None:
        if bands is not None and not bands >= 1.0:
            raise SpecError(f"bands = {bands:g} is a ratio of second moments and at least 1")
        encoder, decoder = (np.asarray(v, dtype=np.float64) for v in views)
        keep = _not_zero(encoder, decoder)
        self._views = Views(encoder[keep], decoder[keep])
        dimensions = encoder.shape[1]
        if bands is None:
            self._basis, self.bands = np.eye(dimensions), [(0, dimensions)]
        else:
            units = [_unit(view) for view in self._views]
            moments = sum((u.T @ u / len(u) for u in units), np.zeros((dimensions,) * 2))
            values, vectors = np.linalg.eigh(moments)
            self._basis = np.ascontiguousarray(vectors[:, ::-1])
            self.bands = _bands(values[::-1], bands)

    def draw(self, *key: int | str) -> Views:
        """The rows, turned; see `WeightNull.draw`."""
        numbers = generator("null-rotation", *key)
        turned = self._basis.copy()
        for first, last in self.bands:
            turned[:, first:last] = turned[:, first:last] @ _haar(last - first, numbers)
        rotation = turned @ self._basis.T
        return Views(self._views.encoder @ rotation, self._views.decoder @ rotation)


def _bands(values: NDArray[np.float64], ratio: float) -> list[tuple[int, int]]:
    """Ranges of descending values in which none is below the first one by more than the ratio."""
    out: list[tuple[int, int]] = []
    first = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[first] > ratio * max(values[place], 0.0) + _ZERO:
            out.append((first, place))
            first = place
    return out


def _haar(size: int, numbers: np.random.Generator) -> NDArray[np.float64]:
    """A rotation (or mirror image) of uniform distribution, `[size, size]`.

    The signs make the factor unique, without which QR is not uniform (arXiv math-ph/0609050).
    """
    q, r = np.linalg.qr(numbers.standard_normal((size, size)))
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)


def _not_zero(encoder: NDArray[Any], decoder: NDArray[Any]) -> NDArray[np.bool_]:
    return (np.abs(encoder).sum(1) > 0) & (np.abs(decoder).sum(1) > 0)


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
