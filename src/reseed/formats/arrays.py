"""Arrays in a file: looked up by name, read from the disk only when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import StoreError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One array in a file: its shape and how to read it. Its bytes were found to be there."""

    shape: tuple[int, ...]
    dtype: str
    """as NumPy names it, or `bfloat16`"""
    fetch: Callable[[], Array]
    """reads it; float16 and bfloat16 become float32"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays(Mapping[str, Any]):
    """What a file holds, by name; arrays are read when they are asked for, and not kept.

    Values are NumPy arrays, or for what PyTorch saved also numbers, strings, lists, and `Arrays`
    for the dicts inside. float16 and bfloat16 are given as float32.
    """

    path: Path
    held: Mapping[str, Any]
    """name to `Stored` or to a plain value"""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """of a safetensors file"""

    def __getitem__(self, name: str) -> Any:
        value = self.held[name]
        return value.fetch() if isinstance(value, Stored) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of an array without reading it; None if there is no array of that name."""
        value = self.held.get(name)
        return value.shape if isinstance(value, Stored) else None


def decoded(raw: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """Raw entries as read from a file, in their shape; half precision as float32."""
    if dtype == "bfloat16":
        raw = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif dtype == "float16":
        raw = raw.astype(np.float32)
    return raw.reshape(shape)


def disk_dtype(dtype: str) -> np.dtype[Any]:
    """What NumPy reads for a type; NumPy has no bfloat16, it is read as uint16."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")


def at(path: Path, start: int, shape: tuple[int, ...], dtype: str) -> Stored:
    """An array at a place of a file, stored row by row."""

    def fetch() -> Array:
        count = math.prod(shape)
        try:
            raw = np.fromfile(path, disk_dtype(dtype), count=count, offset=start)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if len(raw) != count:
            raise StoreError(f"{path} became shorter while it was read; is it being written?")
        return decoded(raw, dtype, shape)

    return Stored(shape=shape, dtype=dtype, fetch=fetch)
