"""Files of `torch.save` before torch 1.6 (2020), or with its old serialization asked for.

Five pickles follow each other: a number, the version of the format, facts of the machine, what was
saved, the keys of its storages in their order; behind them lie the storages, each with its length
in front. Nothing of it is run, as in `torch_pickle`.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from reseed.errors import SpecError
from reseed.formats.containers.arrays import disk_dtype
from reseed.formats.containers.opcodes import check_opcodes
from reseed.formats.containers.torch_pickle import ReadBytes, TensorPickle

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


class _Values(pickle.Unpickler):
    """Builds numbers, text, lists and dicts."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name} where numbers are to stand")


def read_stream(path: Path, first: bytes) -> Any:
    """What was saved, with `ArrayOnDisk` for its tensors.

    Args:
        path: of the file.
        first: its first bytes, in which all pickles lie.

    Raises:
        SpecError: if it is a pickle of something else.
        ValueError, pickle.UnpicklingError and others: if it is damaged, or asks for more.
    """
    stream = io.BytesIO(first)
    try:
        magic = _next(stream, first)
    except (pickle.UnpicklingError, ValueError, EOFError):
        magic = None
    if magic != _MAGIC:
        raise SpecError(
            f"{path} is a bare pickle that torch.save did not write, and a pickle can run anything "
            "when it is opened. If you trust it, open it where it came from and write its arrays: "
            "numpy.savez('sae.npz', W_enc=..., W_dec=...)."
        )
    if (version := _next(stream, first)) != _VERSION:
        raise ValueError(f"it is of version {version!r}, and {_VERSION} is known")
    machine = _next(stream, first)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine, which is not read")
    claimed: dict[str, tuple[str, int]] = {}
    starts: dict[str, int] = {}
    length = path.stat().st_size

    def storage(key: str, dtype: str, count: int) -> ReadBytes:
        if claimed.setdefault(key, (dtype, count)) != (dtype, count):
            raise ValueError(f"tensor storage {key} is claimed in two ways")
        if count * disk_dtype(dtype).itemsize > length:
            raise ValueError(f"tensor storage {key} claims {count} x {dtype}, more than the file")

        def read(size: int) -> bytes:
            with open(path, "rb") as handle:
                handle.seek(starts[key])
                return handle.read(size)

        return read

    check_opcodes(first[stream.tell() :])
    value = TensorPickle(path, stream, storage).load()
    keys = _next(stream, first)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(claimed):
        raise ValueError("the storages that it lists are not those that its tensors lie in")
    starts |= _places(path, [str(key) for key in keys], claimed, stream.tell(), length)
    return value


def _next(stream: io.BytesIO, first: bytes) -> Any:
    check_opcodes(first[stream.tell() :])
    return _Values(stream).load()


def _places(
    path: Path, keys: list[str], claimed: dict[str, tuple[str, int]], at: int, length: int
) -> dict[str, int]:
    """Where each storage begins, if its length is what was claimed and the file is as long."""
    out: dict[str, int] = {}
    with open(path, "rb") as handle:
        for key in keys:
            dtype, count = claimed[key]
            handle.seek(at)
            there = int.from_bytes(handle.read(8), "little", signed=True)
            if there != count:
                raise ValueError(f"tensor storage {key} claims {count} x {dtype}, but has {there}")
            out[key] = at + 8
            at += 8 + count * disk_dtype(dtype).itemsize
    if at > length:
        raise ValueError(f"its storages take {at:,} bytes of a file of {length:,}")
    return out
