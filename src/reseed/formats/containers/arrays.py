"""Arrays in a file: looked up by name, read from the disk only when they are asked for."""

from __future__ import annotations

import json
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from reseed.errors import SpecError, StoreError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayOnDisk:
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
    """name to `ArrayOnDisk` or to a plain value"""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """of a safetensors file"""
    beside: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """what lay beside the dict of arrays, e.g. settings of the training"""

    def __getitem__(self, name: str) -> Any:
        value = self.held[name]
        return value.fetch() if isinstance(value, ArrayOnDisk) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def __contains__(self, name: object) -> bool:
        return name in self.held

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of an array without reading it; None if there is no array of that name."""
        value = self.held.get(name)
        return value.shape if isinstance(value, ArrayOnDisk) else None


_LARGEST_SIZE = 2**40

MOST_DIMENSIONS = 8


def check_sizes(shape: Sequence[Any]) -> None:
    """Refuse a shape that no array can have, before anything is computed from it; ValueError.

    An empty array can claim [0, 2^62], of which not even NumPy can make a view.
    """
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a shape of {len(shape):,} dimensions is none of an SAE")
    if not all(type(n) is int and 0 <= n <= _LARGEST_SIZE for n in shape):
        raise ValueError("a shape has sizes that are no whole numbers, or that no memory holds")
    if math.prod(n for n in shape if n) > _LARGEST_SIZE:
        raise ValueError(f"a shape of {list(shape)} is larger than any memory")


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


def at(path: Path, start: int, shape: tuple[int, ...], dtype: str) -> ArrayOnDisk:
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

    return ArrayOnDisk(shape=shape, dtype=dtype, fetch=fetch)


_MOST_COMPRESSED = 50
"""Times by which an `.npz` may grow when it is read; weights hardly shrink at all."""

_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, RuntimeError,
    MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error, tokenize.TokenError, Warning,
)  # fmt: skip


def read_npy(path: Path) -> Array:
    """The array of an `.npy` file; float16 as float32. Anything but numbers is damage."""
    try:
        with open(path, "rb") as handle:
            _checked_header(handle, path.stat().st_size)
        return _single(np.load(path, allow_pickle=False))
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def read_npz(path: Path) -> Arrays:
    """The arrays of an `.npz` file. Anything but numbers is damage."""
    try:
        length = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            total = sum(info.file_size for info in members.values())
            if total > _MOST_COMPRESSED * length:
                raise ValueError(f"its {length:,} bytes would grow to {total:,}")
            held = {
                name.removesuffix(".npy"): _member(path, archive, info)
                for name, info in members.items()
                if name.endswith(".npy")
            }
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return Arrays(path=path, held=held)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayOnDisk:
    with archive.open(info) as handle:
        shape, dtype = _checked_header(handle, info.file_size)

    def fetch() -> Array:
        try:
            with np.load(path, allow_pickle=False) as again:
                return _single(again[info.filename])
        except _DAMAGE as error:
            raise _damaged(path, error) from error

    return ArrayOnDisk(shape=shape, dtype=dtype.name, fetch=fetch)


def _checked_header(handle: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type, if they are of numbers and fit into so many bytes.

    NumPy takes the memory that a header asks for before it looks at the length of the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a header that NumPy has to repair is a damaged one
        version = npy.read_magic(handle)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format is not read")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(handle)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise ValueError(f"it holds {dtype}; only plain numbers are read")
    check_sizes(shape)
    if math.prod(shape) * dtype.itemsize > size - handle.tell():
        raise ValueError(f"its header says shape {shape}, but it has {size:,} bytes")
    return shape, dtype


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _damaged(path: Path, error: BaseException) -> StoreError:
    return StoreError(
        f"{path} cannot be read: {error}. It was cut while it was copied or written, or holds "
        "pickled objects, which are never read; get it again."
    )


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

_LARGEST_HEADER = 4 * 2**20
"""Bytes; some 30,000 arrays. The format allows 100 MB, which takes a minute to look through."""


def read_safetensors(path: Path) -> Arrays:
    """What a safetensors file holds; one that is cut, or has a header too long, is damaged."""
    try:
        with open(path, "rb") as handle:
            length = path.stat().st_size
            size = int.from_bytes(handle.read(8), "little")
            if length < 8 or size > length - 8:
                raise ValueError(f"its header of {size:,} bytes is longer than the file")
            if size > _LARGEST_HEADER:
                raise SpecError(
                    f"{path} has a header of {size:,} bytes. That is room for more than 30,000 "
                    "arrays, and an SAE has ten: is it the checkpoint of a whole model? Write the "
                    "arrays of the SAE into a file of their own."
                )
            header = json.loads(handle.read(size))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        metadata = header.pop("__metadata__", {})
        start = 8 + size
        held = {name: _entry(path, name, entry, start, length) for name, entry in header.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is not a whole safetensors file: {error}. It was cut while it was copied or "
            "written; get it again."
        ) from error
    return Arrays(path=path, held=held, metadata=metadata if isinstance(metadata, dict) else {})


def _entry(path: Path, name: str, entry: Any, start: int, length: int) -> ArrayOnDisk:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"the entry of {name} is not as it should be")
    dtype = _DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise ValueError(f"{name} has type {entry['dtype']!r}, which is not read")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise ValueError(f"the shape or place of {name} is not made of whole numbers")
    check_sizes(shape)
    size = math.prod(shape) * disk_dtype(dtype).itemsize
    begin, end = offsets
    if end - begin != size or start + end > length:
        raise ValueError(
            f"{name} of shape {shape} in {dtype} takes {size:,} bytes, the header gives it "
            f"{begin:,} to {end:,} and the file has {length - start:,} bytes of data"
        )
    return at(path, start + begin, tuple(shape), dtype)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
