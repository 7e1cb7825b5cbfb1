"""The weights that a training starts from.

`linear` and `orthogonal` are functions of the init seed and the shape alone. `data` and `kmeans`
choose, by the init seed, among the rows of the first batch; that batch is a function of the
activations and the data seed, so those starts depend on both seeds.

F latents, D dimensions, B rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from reseed.errors import SpecError
from reseed.records import Floats
from reseed.seeds import digest, generator

_LENGTH = 3.0**-0.5
"""Of a row uniform in ±1/sqrt(D): the root of its mean square, whatever D."""


def encoder_rows(latents: int, dimensions: int, init_seed: int) -> Floats:
    """Encoder rows uniform in ±1/sqrt(D), the default of a linear layer (recipe of 2501.16615).

    Args:
        latents: F.
        dimensions: D.
        init_seed: the only source of randomness.

    Returns:
        float32 `[F, D]`.
    """
    bound = 1.0 / np.sqrt(dimensions)
    numbers = generator("encoder-init", init_seed).random((latents, dimensions), dtype=np.float32)
    return (2.0 * bound * numbers - bound).astype(np.float32)


def starting_rows(
    kind: Literal["linear", "orthogonal", "data", "kmeans"],
    latents: int,
    init_seed: int,
    x: Floats,
    centre: Floats,
) -> Floats:
    """Encoder rows of each kind of start, of about the same length in all of them.

    Args:
        kind: as `ArchitectureSpec.init`.
        latents: F.
        init_seed: decides the rows, or which rows of x they are.
        x: `[B, D]` the first batch.
        centre: `[D]` taken out of rows of x.

    Returns:
        float32 `[F, D]`.

    Raises:
        SpecError: if x has fewer than F different rows.
    """
    if kind == "linear":
        return encoder_rows(latents, x.shape[1], init_seed)
    if kind == "orthogonal":
        return orthogonal_rows(latents, x.shape[1], init_seed)
    rows = _different(x, centre)
    if len(rows) < latents:
        raise SpecError(
            f'init = "{kind}" needs {latents:,} different rows in the first batch, which has '
            f"{len(rows):,} (rows at the centre left out); raise the batch or lower latents"
        )
    if kind == "data":
        chosen = generator("data-init", init_seed).choice(len(rows), latents, replace=False)
        return _scaled(rows[chosen])
    return _scaled(spread_rows(rows, latents, init_seed))


def orthogonal_rows(latents: int, dimensions: int, init_seed: int) -> Floats:
    """A uniformly random semi-orthogonal matrix: orthogonal columns, or rows where F <= D.

    Args:
        latents: F.
        dimensions: D.
        init_seed: the only source of randomness.

    Returns:
        float32 `[F, D]`; the mean squared length of rows is 1/3, as of `encoder_rows`.
    """
    tall = max(latents, dimensions), min(latents, dimensions)
    drawn = generator("orthogonal-init", init_seed).standard_normal(tall)
    q, r = np.linalg.qr(drawn)
    q = q * np.sign(np.diag(r))  # without it the factorisation's signs are not uniform
    rows = q if latents >= dimensions else q.T
    return (rows * _LENGTH * np.sqrt(latents / tall[1])).astype(np.float32)


def spread_rows(rows: Floats, latents: int, init_seed: int) -> Floats:
    """Rows chosen by k-means++: each with probability by its squared distance to those before.

    Args:
        rows: `[N, D]`, N >= F.
        latents: F.
        init_seed: the only source of randomness.

    Returns:
        `[F, D]`.
    """
    from sklearn.cluster import kmeans_plusplus  # pyright: ignore[reportUnknownVariableType]

    seed = int(generator("kmeans-init", init_seed).integers(2**32))
    centres, _ = kmeans_plusplus(rows, latents, random_state=seed)
    return np.asarray(centres, np.float32)


def independent_rows(shape: tuple[int, ...], init_seed: int) -> Floats:
    """Directions of an untied decoder: uniform on the sphere, by the init seed alone.

    Args:
        shape: `[..., D]`.
        init_seed: the only source of randomness.

    Returns:
        float32 of that shape, rows of length 1.
    """
    drawn = generator("decoder-init", init_seed).standard_normal(shape).astype(np.float32)
    return unit_rows(drawn.reshape(-1, shape[-1])).reshape(shape)


def restarted(init_seed: int, restarts: int) -> int:
    """The seed of a training that started again: a function of both numbers; 0 changes nothing."""
    if not restarts:
        return init_seed
    return int(digest(["restart", init_seed, restarts], 15), 16)


def unit_rows(rows: Floats) -> Floats:
    """Rows scaled to length 1; zero rows stay zero.

    Args:
        rows: `[F, D]`.
    """
    norms = np.sqrt(np.einsum("fd,fd->f", rows, rows, dtype=np.float64))
    return (rows / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)


def _different(x: Floats, centre: Floats) -> Floats:
    """Rows without the centre, each once, in their order; none of length 0."""
    first = np.sort(np.unique(x, axis=0, return_index=True)[1])
    rows = (x[first] - centre).astype(np.float32)
    return rows[np.einsum("nd,nd->n", rows, rows) > 0]


def _scaled(rows: Floats) -> Floats:
    return (unit_rows(rows) * np.float32(_LENGTH)).astype(np.float32)
