"""Activations in the columns of tables: Parquet and Arrow files, as other libraries write them.

A table has a column for each dimension (BioNeMo's `dim_0`, `dim_1`, ...), a column of lists `[D]`,
or one of lists of lists `[L, D]` (SAELens' cached activations: a row is a text of L tokens).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from reseed.errors import SpecError, SubjectError, nearest
from reseed.subjects.stored.files import StoredArray

_IPC_FILE = b"ARROW1"

_WINDOW = 16_384
"""Rows of a Parquet file that are unpacked together."""


def open_table(site: str, path: Path, key: str) -> StoredArray:
    """A Parquet file, of which only what is asked for is read, or an Arrow file, read whole.

    Raises:
        SpecError: if it is not clear which column is meant.
        SubjectError: if the file cannot be read or holds no floats.
    """
    try:
        return _opened(site, path, key)
    except pl.exceptions.PolarsError as error:
        raise SubjectError(
            f"site {site!r}: {path} cannot be read as a table ({str(error)[:200]}); write it again"
        ) from error


def _opened(site: str, path: Path, key: str) -> StoredArray:
    parquet = path.suffix == ".parquet"
    held = pl.read_parquet_schema(path) if parquet else _whole(path).schema
    schema = {name: _storage(kind) for name, kind in held.items()}
    columns = _columns(site, path, schema, key)
    height = _height(path) if parquet else len(_whole(path))

    def read(start: int, stop: int, step: int = _WINDOW) -> pl.DataFrame:
        if not parquet:
            return _whole(path).select(columns).slice(start, stop - start)
        firsts = range(start - start % step, stop, step)
        parts = [_window(path, tuple(columns), first, step) for first in firsts]
        return pl.concat(parts).slice(start - firsts[0], stop - start)

    if height == 0:
        raise SubjectError(f"site {site!r}: {path} has no rows")
    if len(columns) > 1 or not schema[columns[0]].is_nested():
        return StoredArray((height, len(columns)), lambda a, b: _tensor(read(a, b)))
    one = _column(read(0, 1, 1))
    lengths = list[int]()
    while one.dtype.is_nested():
        lengths.append(0 if one[0] is None else len(one[0]))
        one = one.explode()
    if 0 in lengths or len(lengths) > 2:
        raise SubjectError(f"site {site!r}: row 0 of {path} is no list of [D] or [L, D] numbers")
    length, d = (1, lengths[0]) if len(lengths) == 1 else (lengths[0], lengths[1])

    def rows(start: int, stop: int) -> Tensor:
        first, last = start // length, -(-stop // length)
        flat = _column(read(first, last, max(1, _WINDOW // length)))
        while flat.dtype.is_nested():
            flat = flat.explode()
        if len(flat) != (last - first) * length * d:
            raise SubjectError(
                f"site {site!r}: rows {first} to {last} of {path} are not all lists of {length} x "
                f"{d} numbers, as the first is"
            )
        there = _tensor(flat.to_frame()).reshape(-1, d)
        return there[start - first * length : stop - first * length]

    return StoredArray((height * length, d), rows)


def _columns(site: str, path: Path, schema: dict[str, Any], key: str) -> list[str]:
    """The columns that hold the dimensions, in their order; one, if it holds lists."""
    if key:
        if key not in schema:
            raise SpecError(f"site {site!r}: {path} has no column {key!r}; {nearest(key, schema)}")
        return [key]
    lists = [name for name, kind in schema.items() if _inner(kind).is_float() and kind.is_nested()]
    if len(lists) == 1:
        return lists
    floats = [name for name, kind in schema.items() if kind.is_float()]
    numbered = [name for name in floats if re.fullmatch(r"dim_\d+", name)] or floats
    if lists or not numbered:
        raise SpecError(
            f"site {site!r}: {path} has {len(lists)} columns of lists of floats and {len(floats)} "
            f"of floats ({', '.join(list(schema)[:6])}); name the one that is meant after `#`, "
            "e.g. acts#blocks.5.hook_mlp_out"
        )
    return sorted(numbered, key=in_order)


def in_order(name: str) -> list[tuple[int, str]]:
    """For sorting: numbers in a name count as numbers, so that shard 10 comes after shard 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _storage(kind: Any) -> Any:
    """What a column is stored as; `datasets` has types of its own around lists of lists."""
    stored = getattr(kind, "ext_storage", None)
    return stored() if callable(stored) else kind


def _column(frame: pl.DataFrame) -> pl.Series:
    series: Any = frame.to_series()
    return series.ext.storage() if hasattr(series.dtype, "ext_storage") else series


def _inner(kind: Any) -> Any:
    while kind.is_nested() and getattr(kind, "inner", None) is not None:
        kind = kind.inner
    return kind


def _height(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


@lru_cache(maxsize=2)
def _window(path: Path, columns: tuple[str, ...], first: int, step: int) -> pl.DataFrame:
    """Some rows of a Parquet file, the last two of them kept: groups of rows are unpacked whole."""
    return pl.scan_parquet(path).select(columns).slice(first, step).collect()


@lru_cache(maxsize=2)
def _whole(path: Path) -> pl.DataFrame:
    """An Arrow file; the last two stay in memory, since neighbouring blocks are read together."""
    with open(path, "rb") as file:
        stream = file.read(len(_IPC_FILE)) != _IPC_FILE
    return pl.read_ipc_stream(path) if stream else pl.read_ipc(path)


def _tensor(frame: pl.DataFrame) -> Tensor:
    array = frame.cast(pl.Float32).to_numpy()
    return torch.from_numpy(np.array(array, np.float32, order="C"))
