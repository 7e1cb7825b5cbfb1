"""Rows of the SAEs of a study, read from their files without reading all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from reseed.errors import StoreError
from reseed.records import Floats
from reseed.runs import run_name
from reseed.store import Store

_DENSE = 64
"""Dimensions up to which all principal components are computed."""

_ROWS = 8192
"""Rows that are in memory at once while nearest ones are looked for."""


class Matrix:
    """A matrix `[F, D]` of float32 in a safetensors file, read by rows.

    The file's checksum is not computed, since a few rows are wanted of what may be gigabytes; a
    header that does not fit its file is refused.

    Raises:
        StoreError: if the file is missing or damaged.
    """

    def __init__(self, store: Store, run: str, name: str) -> None:
        path = store.path(run_name(run)) / "sae.safetensors"
        try:
            self._open(path, name)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}); delete its folder and `reseed run` trains the "
                "run again."
            ) from error

    def _open(self, path: Path, name: str) -> None:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            about = json.loads(handle.read(length))[name]
        if about["dtype"] != "F32" or len(about["shape"]) != 2:
            raise ValueError(f"{name} is {about['dtype']} {about['shape']}")
        start = 8 + length + about["data_offsets"][0]
        self.shape: tuple[int, int] = tuple(about["shape"])
        self._map = np.memmap(path, np.float32, "r", offset=start, shape=self.shape)

    def unit_rows(self, latents: Sequence[int] | slice | NDArray[np.int64]) -> Floats:
        """Rows of length 1; rows of zeros stay."""
        rows: Floats = np.array(self._map[latents], np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1).astype(np.float32)

    def cosines(self, latents: slice, row: Floats) -> Floats:
        """Cosines of rows with a row `[D]` of length 1; 0 for rows of zeros."""
        rows = self._map[latents]
        squared = np.einsum("nd,nd->n", rows, rows)
        return (rows @ row) / np.sqrt(np.where(squared > 0, squared, 1)).astype(np.float32)


def cosines_of(store: Store, members: Sequence[tuple[str, int]], name: str) -> Floats:
    """Cosines `[n, n]` of rows of `name` (`W_dec`, `W_enc`) of latents, each `(run, latent)`."""
    rows = [Matrix(store, run, name).unit_rows([latent])[0] for run, latent in members]
    if len({len(row) for row in rows}) > 1:
        raise StoreError("these runs have different dimensions, so their rows have no cosine")
    stacked = np.stack(rows)
    return stacked @ stacked.T


def nearest_of(
    store: Store, latent: tuple[str, int], run: str, count: int
) -> list[tuple[int, float]]:
    """The latents of a run whose decoder rows are most similar to that of a latent, itself not.

    Returns:
        latent and cosine, best first.
    """
    row = Matrix(store, latent[0], "W_dec").unit_rows([latent[1]])[0]
    matrix = Matrix(store, run, "W_dec")
    if matrix.shape[1] != len(row):
        return []
    best: list[tuple[float, int]] = []
    for first in range(0, matrix.shape[0], _ROWS):
        cosines = matrix.cosines(slice(first, first + _ROWS), row)
        if latent[0] == run and first <= latent[1] < first + _ROWS:
            cosines[latent[1] - first] = -2.0
        few = np.argpartition(-cosines, min(count, len(cosines) - 1))[:count]
        best += [(float(cosines[at]), first + int(at)) for at in few if cosines[at] > -2]
        best = sorted(best, reverse=True)[:count]
    return [(place, cosine) for cosine, place in best]


def plane_of(store: Store, samples: Sequence[tuple[str, NDArray[np.int64]]]) -> dict[str, Any]:
    """The first two principal components of decoder rows of length 1.

    Args:
        store: of the study.
        samples: runs with the latents that are drawn.

    Returns:
        `x` and `y` `[N]` in the order given, and `shares`, the part of the variance of each.
    """
    rows = np.concatenate([Matrix(store, run, "W_dec").unit_rows(some) for run, some in samples])
    centred = rows - rows.mean(axis=0)
    if min(centred.shape) > _DENSE:
        start = np.ones(min(centred.shape), np.float32)
        _, values, first = svds(centred, k=2, v0=start, solver="arpack")
        values, first = values[::-1], first[::-1]
    else:
        _, values, first = np.linalg.svd(centred, full_matrices=False)
    # which of two opposite directions is taken is fixed by the largest weight
    first = first[:2] * np.sign([row[np.abs(row).argmax()] or 1.0 for row in first[:2]])[:, None]
    places = centred @ first.T
    total = float(np.square(centred).sum()) or 1.0
    return {
        "x": places[:, 0],
        "y": places[:, 1] if places.shape[1] > 1 else np.zeros(len(places)),
        "shares": [float(value) ** 2 / total for value in values[:2]],
    }
