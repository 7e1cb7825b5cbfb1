"""The header of a GGUF file, checked before a reader believes its counts.

A file of 49 bytes can claim an array of 2^60 entries, or a model of 10^9 layers; readers make room
for what is claimed. Format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from reseed.errors import SubjectError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value to its bytes."""

_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
"""Type of an integer to how it is read."""

_TEXT, _ARRAY = 8, 9
_LEAST_TENSOR = 32
"""Bytes that say what a tensor is, at the least: a name of no letters, one dimension."""

_NOT_ZERO = (".attention.head_count", ".attention.head_count_kv", ".embedding_length")
_DEEPEST = 4


def check_header(path: Path) -> None:
    """Refuse a file that is shorter than its header says, or whose sizes cannot be.

    Raises:
        SubjectError: with the number that is wrong.
    """
    if path.stat().st_size < 24:
        raise _damaged(path, f"has {path.stat().st_size} bytes")
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = _Walk(path, data)
        if data[:4] != b"GGUF":
            raise _damaged(path, "does not begin with GGUF")
        if struct.unpack_from("<I", data, 4)[0] not in (2, 3):
            return  # another byte order or version: the reader has a word for it
        tensors, keys = struct.unpack_from("<QQ", data, 8)
        walk.at = 24
        walk.claims(keys, 8 + 4 + 1, "settings")
        integers = walk.settings(keys)
        walk.claims(tensors, _LEAST_TENSOR, "tensors")
    for key, value in integers.items():
        if key.endswith(_NOT_ZERO) and value <= 0:
            raise _damaged(path, f"says {key} = {value}")
        if key.endswith(".block_count") and value > tensors:
            raise _damaged(path, f"says {key} = {value:,} and has {tensors:,} tensors")


class _Walk:
    """Goes over the values of a header; what would end behind the file is refused."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self.at = path, data, 0

    def claims(self, count: int, size: int, what: str) -> None:
        """Refuse a count of things that have this size at the least."""
        left = len(self._data) - self.at
        if count * size > left:
            raise _damaged(self._path, f"claims {count:,} {what} in {left:,} bytes")

    def settings(self, count: int) -> dict[str, int]:
        """Integers by key; everything else is stepped over."""
        integers: dict[str, int] = {}
        for _ in range(count):
            key = self._text().decode("utf-8", "replace")
            kind = self._number("<I")
            value = self._value(kind, 0)
            if value is not None:
                integers[key] = value
        return integers

    def _value(self, kind: int, depth: int) -> int | None:
        if kind in _INTEGERS:
            return self._number(_INTEGERS[kind])
        if kind in _SIZES:
            self._step(_SIZES[kind])
        elif kind == _TEXT:
            self._text()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("<I"), self._number("<Q")
            self.claims(count, _SIZES.get(inner, 8), "entries of an array")
            if inner in _SIZES:
                self._step(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self._value(inner, depth + 1)
        else:
            raise _damaged(self._path, f"has a setting of the unknown type {kind}")
        return None

    def _text(self) -> bytes:
        size = self._number("<Q")
        first = self._step(size)
        return self._data[first : first + size]

    def _number(self, form: str) -> int:
        first = self._step(struct.calcsize(form))
        return struct.unpack_from(form, self._data, first)[0]

    def _step(self, size: int) -> int:
        self.claims(size, 1, "bytes of a setting")
        first, self.at = self.at, self.at + size
        return first


def _damaged(path: Path, what: str) -> SubjectError:
    return SubjectError(
        f"{path} cannot be converted: it {what}. It is no GGUF file, or is damaged or cut short; "
        "fetch it again."
    )
