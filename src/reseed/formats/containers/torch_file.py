"""Reads what `torch.save` wrote (`.pt`, `.pth`, `.bin`) without torch, and runs nothing of it.

Such a file is a zip archive of raw tensors and a pickle that says which is where. A pickle can name
any function to be called. Here only dicts, plain values and tensors are built, whatever it names
else is refused, and no size is believed before the archive's directory confirms it. That is what
`torch.load(weights_only=True)` promises, with bounds on memory, and where torch is not installed.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError, installing
from reseed.formats.containers.arrays import (
    Array,
    ArrayOnDisk,
    Arrays,
    check_sizes,
    decoded,
    disk_dtype,
)
from reseed.formats.containers.opcodes import check_opcodes

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip

_DTYPES = frozenset(
    {*_STORAGES.values(), "half", "float", "double", "short", "int", "long", "uint16", "uint32"}
    | {"uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "strided"}
)
"""Names of types and of the layout, which settings hold; they become text."""

_LARGEST_PICKLE = 8 * 2**20

_DEEPEST = 16

_DAMAGE = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, RuntimeError, NotImplementedError, zipfile.BadZipFile,
)  # fmt: skip


def read_torch(path: Path) -> Arrays:
    """What a file of `torch.save` holds; the top must be a dict, or one tensor, named `tensor`.

    Tensors become NumPy arrays, float16 and bfloat16 as float32, dicts inside `Arrays`.

    Raises:
        SpecError: if it was saved in the way of before 2020 (torch < 1.6).
        StoreError: if it is damaged, or names anything but tensors, dicts and plain values.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise _not_a_zip(path)
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
        value = _Tensors(path, directory, root, content).load()
    except pickle.UnpicklingError as error:
        raise StoreError(
            f"{path} is refused: {error}. Nothing in it was run. If you trust it, open it with the "
            "library that wrote it and write its tensors alone: safetensors.torch.save_file("
            "sae.state_dict(), 'sae.safetensors')."
        ) from error
    except _DAMAGE as error:
        raise StoreError(
            f"{path} cannot be read: {error}. It was cut while it was copied or written; "
            "get it again."
        ) from error
    if isinstance(value, ArrayOnDisk):
        return Arrays(path=path, held={"tensor": value})
    if not isinstance(value, dict):
        raise StoreError(
            f"{path} holds a {type(value).__name__}, not a dict of tensors. Write the tensors of "
            "the SAE by name: torch.save({'W_enc': ..., 'W_dec': ...}, path)."
        )
    return _plain(path, value)


def _not_a_zip(path: Path) -> Exception:
    with open(path, "rb") as handle:
        first = handle.read(8)
    if first[:1] == b"\x80":
        return SpecError(
            f"{path} is a bare pickle, as torch wrote before version 1.6. Such files are not read. "
            "If you trust it: torch.save(torch.load(path, weights_only=True), path)."
        )
    if first[:2] != b"PK":
        return SpecError(
            f"{path} is no file of torch.save: it begins with {first!r}, neither a zip archive nor "
            "a pickle. Was another file, or a page that says why there is none, saved by this name?"
        )
    return ValueError("it is a zip archive without an end")


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


class _Tensors(pickle.Unpickler):
    """Builds dicts, plain values and `ArrayOnDisk` arrays; everything else is refused."""

    def __init__(
        self, path: Path, directory: Mapping[str, zipfile.ZipInfo], root: str, content: bytes
    ) -> None:
        super().__init__(io.BytesIO(content))
        self._path, self._directory, self._root = path, directory, root

        # made anew for each file: a pickle can set attributes of what it is given
        class Dict(dict[Any, Any]):
            pass

        def size(sizes: Any = ()) -> tuple[int, ...]:
            check_sizes(sizes)
            return tuple(sizes)

        def tensor(*arguments: Any) -> ArrayOnDisk:
            return self._tensor(*arguments[:4])

        def parameter(tensor: Any, *_: Any) -> Any:
            return tensor

        def subclass(rebuild: Any, _kind: Any, arguments: Any, *_: Any) -> Any:
            if rebuild not in (tensor, parameter):
                raise ValueError("a tensor is to be rebuilt by something that builds none")
            return rebuild(*arguments)

        def device(kind: Any = "cpu", *index: Any) -> str:
            return ":".join(str(part) for part in (kind, *index) if isinstance(part, str | int))

        def members(values: Any = ()) -> list[Any]:
            return list(values)

        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): Dict,
            ("collections", "Counter"): Dict,
            ("builtins", "complex"): complex,
            ("__builtin__", "complex"): complex,
            ("torch", "Size"): size,
            ("torch", "device"): device,
            ("torch", "Tensor"): "torch.Tensor",
            ("torch.nn.parameter", "Parameter"): "torch.nn.Parameter",
            ("torch._utils", "_rebuild_tensor"): tensor,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): subclass,
            ("builtins", "set"): members,
            ("__builtin__", "set"): members,
        }

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return f"torch.{name}"
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only tensors, dicts, numbers and text are read"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if not (kind == "storage" and dtype in _STORAGES.values() and type(key) is str):
            raise ValueError("it refers to something that is no tensor")
        info = self._directory[f"{self._root}data/{key}"]
        if type(count) is not int or count * disk_dtype(dtype).itemsize > info.file_size:
            raise ValueError(
                f"tensor storage {key} claims {count} x {dtype}, but has {info.file_size:,} bytes"
            )
        return info, dtype, count

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> ArrayOnDisk:
        info, dtype, count = storage
        check_sizes(shape)
        check_sizes((offset,))
        if len(strides) != len(shape) or not all(type(n) is int and n >= 0 for n in strides):
            raise ValueError("a tensor has strides that are not whole numbers")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if math.prod(shape) > count or (math.prod(shape) and last >= count):
            raise ValueError(f"a tensor of shape {tuple(shape)} is larger than its storage")
        path, itemsize = self._path, disk_dtype(dtype).itemsize

        def fetch() -> Array:
            try:
                with zipfile.ZipFile(path) as archive, archive.open(info) as handle:
                    data = bytearray(handle.read(count * itemsize))
                flat = np.frombuffer(data, disk_dtype(dtype), count)[offset:]
            except _DAMAGE as error:
                raise StoreError(f"{path} cannot be read: {error}; get it again") from error
            view = np.lib.stride_tricks.as_strided(
                flat, shape, [s * itemsize for s in strides], writeable=False
            )
            return decoded(np.ascontiguousarray(view), dtype, tuple(shape))

        return ArrayOnDisk(shape=tuple(shape), dtype=dtype, fetch=fetch)


def _plain(path: Path, value: dict[Any, Any]) -> Arrays:
    """Dicts in dicts as `Arrays`, each once however often it is referred to."""
    done: dict[int, Arrays] = {}
    under_way: set[int] = set()

    def plain(table: dict[Any, Any]) -> Arrays:
        if id(table) in done:
            return done[id(table)]
        if id(table) in under_way or len(under_way) > _DEEPEST:
            raise StoreError(f"{path} holds dicts in dicts without end")
        under_way.add(id(table))
        held: dict[str, Any] = {}
        for name, inner in dict.items(table):
            if not isinstance(name, str | int):
                raise StoreError(f"{path} holds a {type(name).__name__} where a name should be")
            held[str(name)] = plain(inner) if isinstance(inner, dict) else inner
        under_way.discard(id(table))
        done[id(table)] = Arrays(path=path, held=held)
        return done[id(table)]

    return plain(value)


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
