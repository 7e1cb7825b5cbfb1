"""Reads `.npy` and `.npz` without pickles, with every size checked before memory is taken."""

from __future__ import annotations

import ast
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from reseed.errors import StoreError
from reseed.formats.arrays import Array, Arrays, Stored, at

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
