"""Dictionaries that scikit-learn finds from rows at once.

N rows, D dimensions, n components.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.sae.architecture import Batches
from reseed.seeds import digest, generator


class Centroids(NamedTuple):
    """What k-means found."""

    centroids: Floats
    """[n, D]"""
    converged: bool


def rows_of(batches: Batches, rows: int) -> Floats:
    """The first rows of a training, `[at most rows, D]`."""
    parts = [batch.x.numpy() for batch in batches.first(rows)]
    return np.concatenate(parts)[:rows]


def check_rows(rows: Floats, least: int, name: str, setting: str) -> None:
    """Refuse too few rows.

    Raises:
        SpecError: with both numbers.
    """
    if len(rows) < least:
        raise SpecError(
            f"{name}: {least:,} {setting} cannot be found from {len(rows):,} rows; raise fit_rows "
            f"or the tokens of the training, or ask for fewer {setting}"
        )


def centroids(rows: Floats, count: int, rounds: int, key: int | None = None) -> Centroids:
    """k-means++ and Lloyd's iteration.

    Args:
        rows: `[N, D]`.
        count: n.
        rounds: iterations at the most.
        key: decides the start; left out, the rows themselves do.

    Raises:
        SpecError: if there are fewer different rows than centroids.
    """
    from sklearn.cluster import KMeans  # a second to import, and few need it

    check_rows(rows, count, "k-means", "centroids")
    if key is None:  # equal data give equal centroids, whatever the init seed
        key = int(digest([float(rows.sum(dtype=np.float64)), *rows.shape], 8), 16)
    maker: Any = KMeans  # its annotations take strings only
    found = maker(count, n_init=1, max_iter=rounds, random_state=state("k-means", key))
    with _quiet():
        found.fit(rows)
    return Centroids(np.asarray(found.cluster_centers_, np.float32), found.n_iter_ < rounds)


def state(purpose: str, key: int) -> int:
    """A number that scikit-learn takes as a seed."""
    return int(generator(purpose, key).integers(2**31))


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Whether an iteration converged is reported with the result."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def principal(rows: Floats, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first n principal directions `[n, D]`, of length 1, and the mean `[D]`."""
    from sklearn.decomposition import PCA

    found: Any = PCA(count, svd_solver="full").fit(rows)
    return found.components_, found.mean_


class Sources(NamedTuple):
    """What FastICA found: s = (x - mean) @ unmixing.T, x = s @ mixing.T + mean."""

    unmixing: NDArray[Any]
    """[n, D]"""
    mixing: NDArray[Any]
    """[D, n]"""
    mean: NDArray[Any]
    """[D]"""
    converged: bool


def independent(rows: Floats, count: int, rounds: int, key: int) -> Sources:
    """Independent components by parallel FastICA with log cosh, started from the key."""
    from sklearn.decomposition import FastICA

    begin = generator("ica", key).standard_normal((count, count))
    found = FastICA(count, whiten="unit-variance", max_iter=rounds, w_init=begin)
    with _quiet():
        found.fit(rows)
    return Sources(found.components_, found.mixing_, found.mean_, found.n_iter_ < rounds)


def factors(rows: Floats, count: int, rounds: int, key: int) -> tuple[NDArray[Any], bool]:
    """Non-negative factors `[n, D]` by coordinate descent from a random start, and if it converged.

    Args:
        rows: `[N, D]`, non-negative.
        count: n.
        rounds: iterations at the most.
        key: decides the start.
    """
    from sklearn.decomposition import NMF

    maker: Any = NMF  # its annotations take strings only
    found = maker(count, init="random", max_iter=rounds, random_state=state("nmf", key))
    with _quiet():
        found.fit(rows)
    return found.components_, found.n_iter_ < rounds
