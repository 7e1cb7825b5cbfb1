"""Settings of dictionaries that are found without training.

What the architectures that are fitted and not trained have in common.

F latents, D dimensions.

Dictionaries that scikit-learn finds from rows at once.

N rows, D dimensions, n components.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.sae.architecture import Batch, Batches, Objective, Parameters, Start, squared_variation
from reseed.sae.lazy import torch
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec, check_k
from reseed.sae.start import unit_rows
from reseed.seeds import digest, generator

if TYPE_CHECKING:
    from torch import Tensor


_STEPS = frozenset(
    {
        "aligned",
        "end_to_end",
        "init",
        "k_start",
        "lr_schedule",
        "mutual",
        "optimizer",
        "tied_init",
        "weight_l2",
    }
)


class Fitted(ArchitectureSpec):
    """A dictionary that is found from rows at once, without steps."""

    fit_rows: Annotated[int, Field(ge=2)] = 65_536
    """Rows at the start of training on which it is found; fewer if training is shorter."""

    @property
    def without(self) -> frozenset[str]:
        """See `ArchitectureSpec`: what is not trained by steps has nothing that steps could do."""
        return _STEPS


class Signed(Fitted):
    """Components of either sign: each is two latents."""

    k: Annotated[int, Field(ge=1)] | None = None
    """Latents that may fire at a time, the strongest; left out, all that are positive."""

    @model_validator(mode="after")
    def _possible(self) -> Signed:
        if self.latents % 2:
            raise ValueError(
                f"latents = {self.latents} is odd; each component is two latents, one a sign"
            )
        if self.k is not None:
            check_k(self.k, self.latents)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """See `ArchitectureSpec`."""
        return {} if self.k is None else {"k": self.k}


BUFFERS = frozenset({"W_enc", "b_enc", "W_dec", "b_dec", "converged"})
"""All that such an architecture has; no gradient trains any of it."""


def initial(start: Start) -> Parameters:
    """The start of a training with this seed, so that what fitting adds can be told from it."""
    return {
        "W_enc": torch.from_numpy(start.rows.copy()),
        "b_enc": torch.zeros(len(start.rows)),
        "W_dec": torch.from_numpy(unit_rows(start.rows)),
        "b_dec": torch.from_numpy(start.x_centre.copy()),
        "converged": torch.ones(()),
    }


def check_width(count: int, start: Start) -> None:
    """Refuse more components than there are dimensions.

    Raises:
        SpecError: with both numbers.
    """
    dimensions = start.rows.shape[1]
    if count > dimensions:
        raise SpecError(
            f"latents = {len(start.rows)} asks for {count} components, but the rows have "
            f"{dimensions} dimensions, and there are no more components than those; take at most "
            f"{len(start.rows) // count * dimensions} latents"
        )


def rule(k: int | None) -> dict[str, Any]:
    """All that are positive, or the k strongest of them."""
    return {"kind": "relu"} if k is None else {"kind": "topk", "k": k}


def parameters(
    W_enc: NDArray[Any],
    W_dec: NDArray[Any],
    b_dec: NDArray[Any],
    b_enc: NDArray[Any] | None = None,
    converged: bool = True,
) -> Parameters:
    """What was fitted, as parameters."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    return {
        "W_enc": tensor(W_enc),
        "b_enc": torch.zeros(len(W_enc)) if b_enc is None else tensor(b_enc),
        "W_dec": tensor(W_dec),
        "b_dec": tensor(b_dec),
        "converged": torch.tensor(float(converged)),
    }


def signed(W_enc: NDArray[Any], W_dec: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Components with either sign: i becomes latents 2 i and 2 i + 1.

    Decoder rows get length 1, encoder rows what codes need for that.

    Args:
        W_enc: `[n, D]`.
        W_dec: `[n, D]`.

    Returns:
        Both `[2 n, D]`.
    """
    length = np.linalg.norm(W_dec, axis=1, keepdims=True)
    length = np.where(length > 0, length, 1.0)
    both = (np.stack([part, -part], axis=1) for part in (W_enc * length, W_dec / length))
    enc, dec = (part.reshape(-1, W_enc.shape[1]) for part in both)
    return enc, dec


def evaluate(sae: SAE, batch: Batch) -> Objective:
    """How well it reconstructs a batch."""
    with torch.no_grad():
        codes = sae.encode(batch.x)
        error = sae.decode(codes) - batch.x
        fvu = error.square().sum() / squared_variation(batch.x)
    return Objective(fvu, fvu, codes)


def freeze(p: Parameters, activation: Mapping[str, Any], about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    return SAE(
        W_enc=p["W_enc"].clone(),
        W_dec=p["W_dec"].clone(),
        b_enc=p["b_enc"].clone(),
        b_dec=p["b_dec"].clone(),
        activation=activation,
        about={**about, "converged": bool(p["converged"])},
    )


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
