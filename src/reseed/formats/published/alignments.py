"""The alignments published with arXiv 2501.16615 (repository sae_overlap): index arrays in pickles.

Layout: a list of dicts, each from a layer number or a name ("SAE 2") to (row_ind, col_ind), as
SciPy's `linear_sum_assignment` returns them. They hold no cosines. A pickle can run any code when
it is read; here nothing is allowed but what a NumPy index array is made of.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import StoreError

Integers = NDArray[np.int64]

Key = int | str

_ALLOWED = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in (
        (f"{core}.multiarray", "_reconstruct"),
        (f"{core}.multiarray", "scalar"),
        (f"{core}.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    )
}


class _IndicesOnly(pickle.Unpickler):
    """Reads NumPy arrays in plain containers, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        # files of NumPy 1 name a module that NumPy 2 has moved
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_alignments(path: Path) -> list[dict[Key, Integers]]:
    """Read a file of alignments.

    Returns:
        The dicts of the file; for each key `[F]`, the column of each row.

    Raises:
        StoreError: if the file holds anything but such alignments.
    """
    try:
        content = _IndicesOnly(io.BytesIO(path.read_bytes())).load()
        return [
            {key: _alignment(*pair) for key, pair in _checked(one).items()} for one in list(content)
        ]
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError) as error:
        raise StoreError(
            f"{path} is not a file of published alignments ({error}); nothing in it was run"
        ) from error


def _checked(one: Any) -> Mapping[Key, Any]:
    if not isinstance(one, dict) or not all(isinstance(key, int | str) for key in one):
        raise TypeError("not a list of dicts of layers")
    return one


def _alignment(rows: Any, columns: Any) -> Integers:
    """Column of each row; both must be permutations of the same indices."""
    for indices in (rows, columns):
        if not isinstance(indices, np.ndarray) or indices.dtype.kind not in "iu":
            raise TypeError("not index arrays")
        if not np.array_equal(np.sort(indices), np.arange(len(indices))):
            raise ValueError("not a one-to-one alignment")
    if len(rows) != len(columns):
        raise ValueError("rows and columns of different number")
    out = np.empty(len(rows), np.int64)
    out[rows] = columns
    return out
