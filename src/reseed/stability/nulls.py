"""What the same measurement gives when there is nothing to find: the nulls of a study.

Each answers another doubt, so a share is read beside several; docs/nulls.md has them all. Those
that need training are the control runs (`reseed.spec.training`); the frequency-matched permutation
(N8) is in `reseed.matching.activations`. F latents, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.matching.blocks.multiplier import few_threads
from reseed.matching.geometry import Floats32, Integers, stretches
from reseed.matching.match import Views
from reseed.records import SAEArrays
from reseed.seeds import generator
from reseed.spec.training import Control

COVARIANCE = "N2 covariance-matched"

UNTRAINED = "N4 untrained pair"

GAUSSIAN, RAW, AXES = "gaussian", "mirrored, raw", "mirrored, axes"
"""How random dictionaries are made: `CovarianceNull`, `Mirrored` as rows are or along axes."""

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
        views: rows `[F, D]` of one SAE; zero rows are left out. Where encoder and decoder are the
            same array, so are those of the random latents.

    Attributes:
        count: latents.
        rows: their unit rows, float32, by kind; one array where encoder and decoder are the same.
    """

    def __init__(self, views: Views) -> None:
        encoder, decoder = (np.asarray(v, dtype=np.float64) for v in views)
        keep = _not_zero(encoder, decoder)
        kinds = [decoder] if views.encoder is views.decoder else [encoder, decoder]
        rows = [_unit(kind[keep]) for kind in kinds]
        self.rows = [kind.astype(np.float32) for kind in rows]
        self.count, widths = int(keep.sum()), [kind.shape[1] for kind in kinds]
        self._parts = [slice(sum(widths[:at]), sum(widths[: at + 1])) for at in range(len(widths))]
        both = np.concatenate(rows, axis=1)
        self._mean = both.mean(axis=0)
        both -= self._mean
        with few_threads(max(both.shape)):
            self._root = _root(both)
            self._adjust([view.T @ view / len(view) for view in rows])

    def draw(self, *key: int | str, rows: int | None = None) -> Views:
        """Random latents.

        Args:
            key: of the generator, e.g. the pair, the side and the draw.
            rows: how many; left out, as many as there are real ones that are not zero.
        """
        numbers = generator("null-covariance", *key)
        rows = self.count if rows is None else rows
        # float32 as the weights they imitate
        kinds = [np.empty((rows, part.stop - part.start), np.float32) for part in self._parts]
        for some in stretches(rows, _AT_A_TIME):
            drawn = numbers.standard_normal((some.stop - some.start, len(self._root))) @ self._root
            drawn += self._mean
            for kind, part in zip(kinds, self._parts, strict=True):
                kind[some] = drawn[:, part]
        return Views(kinds[0], kinds[-1])

    @cached_property
    def moments(self) -> list[Floats32]:
        """`[D, D]` summed squares and products of the unit rows of each kind."""
        return [kind.T @ kind for kind in self.rows]

    def _adjust(self, moments: list[NDArray[np.float64]]) -> None:
        """Scale the principal directions of each view until unit rows have these moments."""
        size = max(2000, len(self._root))
        mix = generator("null-adjust").standard_normal((size, len(self._root)))
        bases = [_eigh(moment) for moment in moments]
        for _ in range(_ROUNDS):
            rows, off = self._mean + mix @ self._root, 0.0
            for (wanted, basis), part in zip(bases, self._parts, strict=True):
                moment = ((_unit(rows[:, part]) @ basis) ** 2).mean(axis=0)
                real = wanted > wanted[-1] * 1e-9
                scale = np.sqrt(np.where(real, wanted, 1.0) / np.where(real, moment, 1.0))
                change = (basis * scale) @ basis.T
                self._root[:, part] = self._root[:, part] @ change
                self._mean[part] = self._mean[part] @ change
                off = max(off, float(np.abs(moment - wanted).sum()))
            if off < _CLOSE:
                return


_AT_A_TIME = 4_096
"""Random latents that are drawn at a time."""

_ROUNDS = 20

_CLOSE = 2e-3
"""Summed difference of the second moments, of a total of 1, at which the adjustment ends."""

_ZERO = 1e-12
"""Second moment of a direction in which there is nothing."""


def _root(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[rank, 2D]` R with RᵀR the covariance of the rows."""
    values, vectors = _eigh(centred.T @ centred / max(len(centred) - 1, 1))
    keep = values > values[-1] * 1e-12
    return (vectors[:, keep] * np.sqrt(values[keep])).T


def _eigh(moments: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    with few_threads(len(moments)):
        return np.linalg.eigh(moments)


def covariance_null(sae: SAEArrays) -> CovarianceNull | None:
    """The null of the latents of an SAE; None where fewer than two have rows."""
    views = Views(sae.W_enc, sae.W_dec)
    return CovarianceNull(views) if rows_left(views) > 1 else None


def rows_left(views: Views) -> int:
    """Latents whose rows are not zero."""
    return int(_not_zero(*(np.asarray(rows) for rows in views)).sum())


def _not_zero(encoder: NDArray[Any], decoder: NDArray[Any]) -> NDArray[np.bool_]:
    return (np.abs(encoder).sum(1) > 0) & (np.abs(decoder).sum(1) > 0)


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def chance_corrected(observed: float, null: float) -> float:
    """(observed - null) / (1 - null): 0 at chance, 1 when everything agrees."""
    return (observed - null) / (1.0 - null) if null < 1.0 else 0.0


def principal_axes(nulls: Sequence[CovarianceNull]) -> list[Floats32]:
    """Of all rows of some dictionaries, `[D, D]` in columns, for each kind of row.

    One for both where encoder and decoder rows are as wide.
    """
    kinds = max(len(null.rows) for null in nulls)
    each = [(null.moments * 2)[:kinds] for null in nulls]
    moments = [np.sum(kind, axis=0) for kind in zip(*each, strict=True)]
    if len({len(moment) for moment in moments}) == 1:
        moments = [np.sum(moments, axis=0)]
    axes = [_eigh(moment)[1].astype(np.float32) for moment in moments]
    return axes * (kinds // len(axes))


class Mirrored:
    """Rows of one dictionary, each coordinate with the sign that it has in a random row.

    What a row has in which coordinate stays, so tails, sparsity and a common direction do, if the
    coordinates are those in which they show. Nothing else of what joins two rows stays.

    Args:
        null: of the dictionary, with its unit rows.
        axes: `principal_axes`, the coordinates; None takes the coordinates as they are. Axes of the
            rows' own dictionary would be fitted to them, which makes rows too alike where there are
            not many more rows than dimensions.
    """

    def __init__(self, null: CovarianceNull, axes: Sequence[Floats32] | None = None) -> None:
        # of both kinds the same, where one of the two has encoder and decoder in one
        self._axes = None if axes is None else [*axes, *axes][: len(null.rows)]
        # cosines are the same along any orthonormal axes, so rows stay in these
        self.rows = null.rows
        if self._axes is not None:
            self.rows = [rows @ axes for rows, axes in zip(null.rows, self._axes, strict=True)]

    def take(self, which: Integers, rng: np.random.Generator) -> list[Floats32]:
        """These latents, mirrored, `[n, D]` by kind of row, along the axes."""
        # encoder and decoder turn together: what ties them is part of a latent
        together = len({rows.shape[1] for rows in self.rows}) == 1
        signs: Floats32 | None = None
        out: list[Floats32] = []
        for rows in self.rows[::-1]:
            if signs is None or not together:
                negative = rows < 0
                share = negative.mean(axis=0, dtype=np.float32)
                turn = (rng.random((len(which), len(share)), np.float32) < share) ^ negative[which]
                signs = np.where(turn, np.float32(-1), np.float32(1))
            out.append(rows[which] * signs)
        return out[::-1]

    def draw(self, *key: int | str) -> Views:
        """All latents, mirrored, in the coordinates of the dictionary."""
        rows = self.take(np.arange(len(self.rows[0])), generator("null-mirrored", *key))
        if self._axes is not None:
            rows = [kind @ axes.T for kind, axes in zip(rows, self._axes, strict=True)]
        return Views(rows[0], rows[-1])


def in_place(kind: str, own: CovarianceNull, other: CovarianceNull) -> CovarianceNull | Mirrored:
    """What draws random dictionaries of a kind in place of one that is matched with another."""
    if kind == GAUSSIAN:
        return own
    return Mirrored(own, axes_beside(own, [other]) if kind == AXES else None)


def axes_beside(own: CovarianceNull, others: Sequence[CovarianceNull]) -> list[Floats32]:
    """What to mirror along: few rows do not show where a common direction lies.

    Turned out of it, the heaviest rows of the wider dictionary would be too little alike: of pairs
    of 64 and 1,024 latents of log-normal size along one direction a fifth had false discoveries.
    """
    return principal_axes([own] if own.count > sum(other.count for other in others) else others)
