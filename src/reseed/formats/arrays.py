"""Arrays in a file: looked up by name, read from the disk only when they are asked for."""

from __future__ import annotations

import ast
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

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


_MOST_COMPRESSED = 50
"""Times by which an `.npz` may grow when it is read; weights hardly shrink at all."""

_LARGEST_HEADER = 10_000

_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, RuntimeError,
    MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npy(path: Path) -> Array:
    """The array of an `.npy` file; float16 as float32.

    Raises:
        StoreError: if it is damaged, or holds anything but numbers.
    """
    try:
        with open(path, "rb") as handle:
            shape, fortran, dtype = _header(handle)
            start, length = handle.tell(), path.stat().st_size
        if math.prod(shape) * dtype.itemsize > length - start:
            raise ValueError(f"its header says shape {shape}, but it has {length - start:,} bytes")
        stored = at(path, start, shape[::-1] if fortran else shape, dtype.name)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return stored.fetch().T if fortran else stored.fetch()


def read_npz(path: Path) -> Arrays:
    """The arrays of an `.npz` file.

    Raises:
        StoreError: if it is damaged, or holds anything but numbers.
    """
    try:
        length = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            members = {one.filename: one for one in archive.infolist()}
            total = sum(one.file_size for one in members.values())
            if total > _MOST_COMPRESSED * length:
                raise ValueError(f"its {length:,} bytes would grow to {total:,}")
            held = {
                name.removesuffix(".npy"): _member(path, archive, one)
                for name, one in members.items()
                if name.endswith(".npy")
            }
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return Arrays(path=path, held=held)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Stored:
    with archive.open(info) as handle:
        shape, fortran, dtype = _header(handle)
        start = handle.tell()
    count = math.prod(shape)
    if count * dtype.itemsize > info.file_size - start:
        raise ValueError(f"{info.filename} says shape {shape}, but has {info.file_size:,} bytes")

    def fetch() -> Array:
        try:
            with zipfile.ZipFile(path) as again, again.open(info) as handle:
                handle.read(start)
                data = bytearray(handle.read(count * dtype.itemsize))
                raw = np.frombuffer(data, dtype.newbyteorder("<"), count)
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        raw = raw.astype(np.float32) if dtype.name == "float16" else raw
        return raw.reshape(shape, order="F" if fortran else "C")

    return Stored(shape=shape, dtype=dtype.name, fetch=fetch)


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type. NumPy's own reader evaluates less strictly."""
    magic, version = handle.read(6), handle.read(2)
    if magic != b"\x93NUMPY" or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not start as a file of NumPy does")
    size = int.from_bytes(handle.read(2 if version == b"\1\0" else 4), "little")
    if size > _LARGEST_HEADER:
        raise ValueError(f"its header claims {size:,} bytes")
    fields = ast.literal_eval(handle.read(size).decode("latin1").strip())
    if not isinstance(fields, dict) or not {"descr", "fortran_order", "shape"} <= fields.keys():
        raise ValueError("its header is not a table of descr, fortran_order and shape")
    descr, shape = fields["descr"], fields["shape"]
    if not isinstance(descr, str) or not re.fullmatch(r"[<|]([fiu][1248]|b1)", descr):
        raise ValueError(f"it holds {descr}; only plain numbers are read")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its shape {shape} is not made of whole numbers")
    return shape, bool(fields["fortran_order"]), np.dtype(descr)


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

_LARGEST_HEADER_safetensors_file = 100_000_000
"""Bytes; the limit of the format."""


def read_safetensors(path: Path) -> Arrays:
    """What a safetensors file holds.

    Raises:
        StoreError: if it is damaged: cut, or its header does not fit its length.
    """
    try:
        with open(path, "rb") as handle:
            length = path.stat().st_size
            size = int.from_bytes(handle.read(8), "little")
            if length < 8 or size > min(_LARGEST_HEADER_safetensors_file, length - 8):
                raise ValueError(f"its header of {size:,} bytes is longer than the file")
            header = json.loads(handle.read(size))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        metadata = header.pop("__metadata__", {})
        start = 8 + size
        held = {name: _entry(path, name, one, start, length) for name, one in header.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is not a whole safetensors file: {error}. It was cut while it was copied or "
            "written; get it again."
        ) from error
    return Arrays(path=path, held=held, metadata=metadata if isinstance(metadata, dict) else {})


def _entry(path: Path, name: str, one: Any, start: int, length: int) -> Stored:
    if not isinstance(one, dict) or not {"dtype", "shape", "data_offsets"} <= one.keys():
        raise ValueError(f"the entry of {name} is not as it should be")
    dtype = _DTYPES.get(str(one["dtype"]))
    if dtype is None:
        raise ValueError(f"{name} has type {one['dtype']!r}, which is not read")
    shape, offsets = one["shape"], one["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and len(shape) < 9):
        raise ValueError(f"the shape or place of {name} is not made of whole numbers")
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
