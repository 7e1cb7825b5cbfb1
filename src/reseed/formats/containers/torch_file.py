"""Reads what `torch.save` wrote (`.pt`, `.pth`, `.bin`) without torch, and runs nothing of it.

Such a file is a zip archive of raw tensors and a pickle that says which is where (`torch_pickle`);
before torch 1.6 it was a stream of pickles with the tensors behind (`torch_stream`). What is read
is what `torch.load(weights_only=True)` promises, with bounds on memory, and where torch is not
installed.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError, installing
from reseed.formats.containers.arrays import ArrayOnDisk, Arrays, disk_dtype
from reseed.formats.containers.opcodes import check_opcodes
from reseed.formats.containers.torch_pickle import (
    DAMAGE,
    ReadBytes,
    TensorPickle,
    plain_values,
)
from reseed.formats.containers.torch_stream import read_stream

_LARGEST_PICKLE = 8 * 2**20


def read_torch(path: Path) -> Arrays:
    """What a file of `torch.save` holds; the top must be a dict, or one tensor, named `tensor`.

    Tensors become NumPy arrays, float16 and bfloat16 as float32, dicts inside `Arrays`.

    Raises:
        SpecError: if it is no file of torch.
        StoreError: if it is damaged, or names anything but tensors, dicts and plain values.
    """
    try:
        if not zipfile.is_zipfile(path):
            return _told(path, read_stream(path, _beginning(path)))
        with zipfile.ZipFile(path) as archive:
            directory = _directory(path, archive)
            top = next((n for n in directory if n.endswith("/data.pkl")), None)
            if top is None or directory[top].file_size > _LARGEST_PICKLE:
                raise ValueError("it has no data.pkl of a possible size")
            root = top.removesuffix("data.pkl")
            if f"{root}byteorder" in directory and archive.read(f"{root}byteorder") != b"little":
                raise ValueError("it was written on a big-endian machine, which is not read")
            content = archive.read(top)
        check_opcodes(content)
        value = TensorPickle(path, io.BytesIO(content), _storages(path, directory, root)).load()
    except pickle.UnpicklingError as error:
        raise StoreError(
            f"{path} is refused: {error}. Nothing in it was run. If you trust it, open it with the "
            "library that wrote it and write its tensors alone: safetensors.torch.save_file("
            "sae.state_dict(), 'sae.safetensors')."
        ) from error
    except DAMAGE as error:
        raise StoreError(
            f"{path} cannot be read: {error}. It was cut while it was copied or written; "
            "get it again."
        ) from error
    return _told(path, value)


def _told(path: Path, value: Any) -> Arrays:
    if isinstance(value, ArrayOnDisk):
        return Arrays(path=path, held={"tensor": value})
    if not isinstance(value, dict):
        raise StoreError(
            f"{path} holds a {type(value).__name__}, not a dict of tensors. Write the tensors of "
            "the SAE by name: torch.save({'W_enc': ..., 'W_dec': ...}, path)."
        )
    return plain_values(path, value)


def _beginning(path: Path) -> bytes:
    """The first bytes of a file that is no zip archive, as far as pickles may lie in it."""
    with open(path, "rb") as handle:
        first = handle.read(_LARGEST_PICKLE)
    if first[:2] == b"PK":
        raise ValueError("it is a zip archive without an end")
    if first[:1] != b"\x80":
        raise SpecError(
            f"{path} is no file of torch.save: it begins with {first[:8]!r}, neither a zip archive "
            "nor a pickle. Was another file, or a page that says why there is none, saved by this "
            "name?"
        )
    return first


_LOCKED = 0x1 | 0x20 | 0x40
"""Flags of a member: encrypted, patched, strongly encrypted."""


def _directory(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by name; none compressed, so that none is larger than the file."""
    members = archive.infolist()
    if any(info.flag_bits & _LOCKED for info in members):
        raise ValueError("it has encrypted or patched members, which torch.save does not write")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise ValueError("it has compressed members, which torch.save does not write")
    total, length = sum(info.file_size for info in members), path.stat().st_size
    if total > length:
        raise ValueError(f"its members claim {total:,} bytes of a file of {length:,}")
    return {info.filename: info for info in members}


def _storages(
    path: Path, directory: Mapping[str, zipfile.ZipInfo], root: str
) -> Callable[[str, str, int], ReadBytes]:
    """What finds a storage among the members of an archive."""

    def storage(key: str, dtype: str, count: int) -> ReadBytes:
        info = directory[f"{root}data/{key}"]
        if count * disk_dtype(dtype).itemsize > info.file_size:
            raise ValueError(
                f"tensor storage {key} claims {count} x {dtype}, but has {info.file_size:,} bytes"
            )

        def read(size: int) -> bytes:
            with zipfile.ZipFile(path) as archive, archive.open(info) as handle:
                return handle.read(size)

        return read

    return storage


def torch_bytes(arrays: Mapping[str, Any]) -> bytes:
    """A state dict as `torch.save` writes it; entries that are no numbers stay as they are.

    Raises:
        SpecError: if torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise SpecError(
            "this format is a file of torch.save; to write it torch is needed: "
            f"{installing('train')}"
        ) from None
    values = {
        name: torch.from_numpy(np.array(value, order="C"))
        if isinstance(value, np.ndarray | np.generic)
        else value
        for name, value in arrays.items()
    }
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()
