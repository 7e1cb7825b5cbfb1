"""Dictionaries that scikit-learn finds from rows at once, without steps, as SAEs.

PCA: latents 2 i and 2 i + 1 are W_enc = W_dec = ± v_i,  b_dec = mean,  z = relu(±(x - mean) · v_i)
    so that a reconstruction is that of PCA with latents / 2 components: of the two signs one is 0.
    It is a function of the rows: nothing is drawn, and init seeds differ in nothing. Rows with both
    signs make matching blind to the sign that PCA leaves open.
ICA (FastICA; Hyvärinen, 1999): sources s = U (x - mean),  x̂ = M s + mean;  latents 2 i and 2 i + 1
    are W_dec = ± M_i / ‖M_i‖,  W_enc = ± U_i ‖M_i‖. The init seed decides where the iteration
    starts. For both, with k the strongest k pass (TopK).
NMF (Lee and Seung, 1999): b_dec = the least value of each dimension over the fitted rows,
    x - b_dec ≈ z H,  z, H >= 0;  W_dec = rows of H of length 1,  W_enc = their pseudo-inverse,
    z = relu((x - b_dec) W_encᵀ). NMF itself finds the z of a row by an iteration; an SAE has to
    find them at once, and takes the least-squares ones cut at 0, which reconstruct worse. The init
    seed decides where the iteration starts.
k-means: W_enc = W_dec = c_i - mean,  b_dec = mean,  b_enc = -‖c_i - mean‖² / 2. The largest
    pre-activation is that of the nearest centroid, since ‖x - c‖² = ‖x - mean‖² - 2 p; it alone
    gets the code 1 (`one_hot`), and x̂ = c_i. Centroids are taken from the mean so that directions
    of decoder rows tell them apart. The init seed decides the k-means++ start.

N rows, D dimensions, F latents, n components.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.sae import Tensor, np, parts, torch
from reseed.sae.architecture import (
    Architecture,
    At,
    Batch,
    BatchSource,
    Objective,
    Parameters,
    Start,
)
from reseed.sae.model import SAE
from reseed.sae.settings import ArchitectureSpec
from reseed.seeds import digest, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE, _MINI_BATCH = 4096, 1024
"""Rows up to which NMF takes all in each iteration, and in a mini-batch where there are more."""


class Fitted(ArchitectureSpec):
    """A dictionary that is found from rows at once: it has nothing that steps could do."""

    without: ClassVar[frozenset[str]] = ArchitectureSpec.OPTIONAL | {"lr"}
    trains: ClassVar[frozenset[str]] = frozenset()

    fit_rows: Annotated[int, Field(ge=2)] = 65_536
    """Rows at the start of training on which it is found; fewer if training is shorter."""

    @property
    def unit_rows(self) -> bool:
        return False

    @property
    def count(self) -> int:
        """Components or centroids that are to be found."""
        return self.latents // 2 if isinstance(self, Signed) else self.latents

    def check_rows(self, rows: int) -> None:
        found = "centroids" if isinstance(self, KMeansSpec) else "components"
        enough_rows(min(rows, self.fit_rows), self.count, self.name, found)

    def check_width(self, dimensions: int) -> None:
        if self.count > dimensions and not isinstance(self, KMeansSpec):
            raise SpecError(
                f"latents = {self.latents} asks for {self.count} components, but the rows have "
                f"{dimensions} dimensions, and there are no more components than those; take at "
                f"most {self.latents // self.count * dimensions} latents"
            )

    def found_from(self, tokens: int) -> str:
        """For people who wait: before the first step nothing else can be shown."""
        rows = min(self.fit_rows, tokens)
        return f"{self.label} is found from {rows:,} rows before its first step; that takes a while"


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
        return self


class PCASpec(Signed):
    """The first latents / 2 principal components, each with both signs."""

    architecture: Literal["pca"] = "pca"


class ICASpec(Signed):
    """latents / 2 independent components by FastICA (Hyvärinen, 1999), each with both signs."""

    architecture: Literal["ica"] = "ica"
    fit_rows: Annotated[int, Field(ge=2)] = 16_384
    """Rows at the start of training on which it is found; few, since each iteration reads all."""
    rounds: Annotated[int, Field(ge=1)] = 200
    """Iterations at the most."""


class NMFSpec(Fitted):
    """Non-negative factors of rows less each dimension's smallest value (Lee and Seung, 1999)."""

    architecture: Literal["nmf"] = "nmf"
    fit_rows: Annotated[int, Field(ge=2)] = 16_384
    """Rows at the start of training on which it is found. Of more than 4,096, mini-batches of
    1,024 are taken (Lefevre, Bach and Févotte, 2011), which is many times as fast."""
    rounds: Annotated[int, Field(ge=1)] = 200
    """Iterations, or passes of mini-batches over the rows, at the most."""


class KMeansSpec(Fitted):
    """Each row is its nearest centroid (k-means++ start and Lloyd's iteration)."""

    architecture: Literal["kmeans"] = "kmeans"
    rounds: Annotated[int, Field(ge=1)] = 100
    """Iterations at the most."""


def initial(spec: Fitted, start: Start) -> Parameters:
    """The start of a training with this seed, which fitting replaces before the first step."""
    spec.check_width(start.rows.shape[1])
    return {**parts.autoencoder(start), "converged": torch.ones(())}


def rows_of(batches: BatchSource, rows: int) -> Floats:
    """The first rows of a training, `[at most rows, D]`."""
    return np.concatenate([batch.x.numpy() for batch in batches.first(rows)])[:rows]


def enough_rows(rows: int, least: int, name: str, found: str) -> None:
    """Refuse to look for so many components or centroids in fewer rows."""
    if rows < least:
        raise SpecError(
            f"{name}: {least:,} {found} cannot be found from {rows:,} rows; raise fit_rows or the "
            f"tokens of the training, or ask for fewer {found}"
        )


def _pca(p: Parameters, spec: PCASpec, init_seed: int, batches: BatchSource) -> Parameters:
    from sklearn.decomposition import PCA

    pca: Any = PCA(spec.count, svd_solver="full").fit(rows_of(batches, spec.fit_rows))
    W_enc, W_dec = signed(pca.components_, pca.components_)
    return _parameters(W_enc, W_dec, pca.mean_)


def _ica(p: Parameters, spec: ICASpec, init_seed: int, batches: BatchSource) -> Parameters:
    from sklearn.decomposition import FastICA

    rows, count = rows_of(batches, spec.fit_rows), spec.count
    begin = generator("ica", init_seed).standard_normal((count, count))
    ica = FastICA(count, whiten="unit-variance", max_iter=spec.rounds, w_init=begin)
    with _quiet():
        ica.fit(rows)
    W_enc, W_dec = signed(ica.components_, ica.mixing_.T)
    return _parameters(W_enc, W_dec, ica.mean_, converged=ica.n_iter_ < spec.rounds)


def _nmf(p: Parameters, spec: NMFSpec, init_seed: int, batches: BatchSource) -> Parameters:
    from sklearn.decomposition import NMF, MiniBatchNMF

    rows = rows_of(batches, spec.fit_rows)
    least = rows.min(axis=0)
    maker: Any = NMF if len(rows) <= _AT_ONCE else partial(MiniBatchNMF, batch_size=_MINI_BATCH)
    state = _state("nmf", init_seed)
    nmf = maker(spec.latents, init="random", max_iter=spec.rounds, random_state=state)
    with _quiet():
        nmf.fit(rows - least)
    length = np.linalg.norm(nmf.components_, axis=1, keepdims=True)
    W_dec = nmf.components_ / np.where(length > 0, length, 1.0)
    W_enc = np.linalg.pinv(W_dec.astype(np.float64)).T
    return _parameters(W_enc, W_dec, least, converged=nmf.n_iter_ < spec.rounds)


def _kmeans(p: Parameters, spec: KMeansSpec, init_seed: int, batches: BatchSource) -> Parameters:
    rows = rows_of(batches, spec.fit_rows)
    kmeans = centroids(rows, spec.latents, spec.rounds, key=init_seed)
    mean = rows.mean(axis=0, dtype="float64")
    away = kmeans.centroids - mean
    b_enc = -0.5 * (away**2).sum(axis=1)
    return _parameters(away, away, mean, b_enc=b_enc, converged=kmeans.converged)


class Centroids(NamedTuple):
    """What k-means found."""

    centroids: Floats
    """[n, D]"""
    converged: bool


def centroids(rows: Floats, count: int, rounds: int, key: int | None = None) -> Centroids:
    """k-means++ and Lloyd's iteration on rows `[N, D]`; `key`, or their shape, is the seed."""
    from sklearn.cluster import KMeans  # a second to import, and few need it

    enough_rows(len(rows), count, "k-means", "centroids")
    if key is None:  # equal data give equal centroids, whatever the init seed or their unit
        key = int(digest(list(rows.shape), 8), 16)
    maker: Any = KMeans  # its annotations take strings only
    kmeans = maker(count, n_init=1, max_iter=rounds, random_state=_state("k-means", key))
    with _quiet():
        kmeans.fit(rows)
    return Centroids(np.asarray(kmeans.cluster_centers_, np.float32), kmeans.n_iter_ < rounds)


def _state(purpose: str, key: int) -> int:
    """A number that scikit-learn takes as a seed."""
    return int(generator(purpose, key).integers(2**31))


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Whether an iteration converged is reported with the result."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def signed(W_enc: NDArray[Any], W_dec: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Components `[n, D]` with either sign, `[2 n, D]`: i becomes latents 2 i and 2 i + 1.

    Decoder rows get length 1, encoder rows what codes need for that.
    """
    length = np.linalg.norm(W_dec, axis=1, keepdims=True)
    length = np.where(length > 0, length, 1.0)
    both = (np.stack([part, -part], axis=1) for part in (W_enc * length, W_dec / length))
    enc, dec = (part.reshape(-1, W_enc.shape[1]) for part in both)
    return enc, dec


def _parameters(
    W_enc: NDArray[Any],
    W_dec: NDArray[Any],
    b_dec: NDArray[Any],
    b_enc: NDArray[Any] | None = None,
    converged: bool = True,
) -> Parameters:
    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    return {
        "W_enc": tensor(W_enc),
        "b_enc": torch.zeros(len(W_enc)) if b_enc is None else tensor(b_enc),
        "W_dec": tensor(W_dec),
        "b_dec": tensor(b_dec),
        "converged": torch.tensor(float(converged)),
    }


def objective(p: Parameters, batch: Batch, spec: Fitted, at: At) -> Objective:
    """How well it reconstructs a batch; there is nothing to train."""
    sae = freeze(p, spec, {})
    with torch.no_grad():
        codes = sae.encode(batch.x)
        error = sae.decode(codes) - batch.x
        fvu = error.square().sum() / parts.squared_variation(batch.x)
    return Objective(fvu, fvu, codes)


def freeze(p: Parameters, spec: Fitted, about: Mapping[str, Any]) -> SAE:
    """The SAE that these parameters are."""
    rule: dict[str, Any] = {"kind": "one_hot" if isinstance(spec, KMeansSpec) else "relu"}
    if isinstance(spec, Signed) and spec.k is not None:
        rule = {"kind": "topk", "k": spec.k}
    return parts.frozen(p, rule, {**about, "converged": bool(p["converged"])})


_ALL = frozenset({"W_enc", "b_enc", "W_dec", "b_dec", "converged"})
PCA = Architecture(PCASpec, initial, objective, freeze, buffers=_ALL, fit=_pca)
ICA = Architecture(ICASpec, initial, objective, freeze, buffers=_ALL, fit=_ica)
NMF = Architecture(NMFSpec, initial, objective, freeze, buffers=_ALL, fit=_nmf)
KMEANS = Architecture(KMeansSpec, initial, objective, freeze, buffers=_ALL, fit=_kmeans)
