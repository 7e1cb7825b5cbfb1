"""Codes of an SAE as a sparse matrix: a row for each token, a column for each latent."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from reseed.errors import SpecError

Codes = Any
"""`csr_array` `[N, F]` of float64: entries above 0 only, columns ascending in each row."""

_SMALLEST, _LARGEST = 1e-100, 1e100
"""Codes up to the first count as silent, those from the second on as infinite: products of codes
between them, summed over any number of tokens, neither vanish nor overflow."""


def as_codes(given: Any, name: str) -> Codes:
    """Codes of N tokens, checked.

    Args:
        given: `[N, F]`; NumPy array, torch tensor or SciPy sparse matrix.
        name: how to call them in messages.

    Raises:
        SpecError: if it is not a matrix of finite numbers, none below 0.
    """
    sparse = cast("Any", given) if issparse(given) else None
    array = _array(given) if sparse is None else sparse
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise SpecError(
            f"{name} must be codes [tokens, latents] of numbers, not an array of shape "
            f"{array.shape} and type {array.dtype}"
        )
    if sparse is not None:
        entries = csr_array(sparse).tocoo()
        return _checked(entries.data, entries.row, entries.col, sparse.shape, name)
    rows, columns = np.nonzero(array)
    return _checked(array[rows, columns], rows, columns, array.shape, name)


def from_entries(values: Any, latents: Any, width: int, name: str) -> Codes:
    """Codes given as K entries for each token; entries of value 0 are silent.

    Args:
        values: `[N, K]`, >= 0.
        latents: `[N, K]` integers below F; no latent fires twice in a row.
        width: F.
        name: how to call them in messages.

    Raises:
        SpecError: as `as_codes`; or if a latent is outside the width or fires twice.
    """
    value, latent = _array(values), _array(latents)
    if value.ndim != 2 or value.shape != latent.shape or latent.dtype.kind not in "iu":
        raise SpecError(
            f"{name} must be values [tokens, K] with as many latent numbers, not {value.shape} of "
            f"type {value.dtype} with {latent.shape} of type {latent.dtype}"
        )
    rows, at = np.nonzero(value)  # silent entries pad a row and may repeat or lie outside
    columns = latent[rows, at]
    if len(columns) and not 0 <= columns.min() <= columns.max() < width:
        wrong = columns.min() if columns.min() < 0 else columns.max()
        raise SpecError(f"{name}: latent {wrong} fires, but there are {width}, numbered from 0")
    codes = _checked(value[rows, at], rows, columns, (len(value), width), name)
    if codes.nnz < (value > _SMALLEST).sum():
        raise SpecError(f"{name}: a latent has two entries in one row")
    return codes


def _checked(
    values: NDArray[Any],
    rows: NDArray[Any],
    columns: NDArray[Any],
    shape: tuple[int, int],
    name: str,
) -> Codes:
    if not shape[1]:
        raise SpecError(f"{name}: codes of shape {shape} have no latents")
    value = values.astype(np.float64)
    wrong = ~((value >= 0) & (value < _LARGEST))
    if wrong.any():
        first = np.flatnonzero(wrong)[0]
        raise SpecError(
            f"{name}: {wrong.sum()} codes are negative, NaN or infinite (first: {values[first]} of "
            f"latent {columns[first]} at token {rows[first]}); codes are >= 0, 0 where a latent is "
            "silent"
        )
    fires = value > _SMALLEST
    codes = csr_array((value[fires], (rows[fires], columns[fires])), shape=shape)
    codes.sum_duplicates()
    return codes


def _array(given: Any) -> NDArray[Any]:
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
    return np.asarray(given)
