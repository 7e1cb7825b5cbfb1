"""The pickle in a file of `torch.save`, in which only dicts, plain values and tensors are built.

A pickle can name any function to be called; whatever else it names is refused. No size is believed
before the file confirms it.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from reseed.errors import StoreError
from reseed.formats.containers.arrays import (
    Array,
    ArrayOnDisk,
    Arrays,
    check_sizes,
    decoded,
    disk_dtype,
)

ReadBytes: TypeAlias = "Callable[[int], bytes]"
"""From how many bytes are wanted, the first so many of a storage."""

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip

_DTYPES = frozenset(
    {*STORAGES.values(), "half", "float", "double", "short", "int", "long", "uint16", "uint32"}
    | {"uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "strided"}
)
"""Names of types and of the layout, which settings hold; they become text."""

_DEEPEST = 16

DAMAGE = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, RuntimeError, NotImplementedError, zipfile.BadZipFile,
)  # fmt: skip
"""What a damaged file can raise while it is read."""


class TensorPickle(pickle.Unpickler):
    """Builds dicts, plain values and `ArrayOnDisk` arrays; everything else is refused.

    Args:
        path: of the file, for messages.
        stream: where the pickle begins.
        storage: from a key, a type and how many there are, what reads the bytes of that storage;
            ValueError if the file does not have as many.
    """

    def __init__(
        self, path: Path, stream: io.BytesIO, storage: Callable[[str, str, int], ReadBytes]
    ) -> None:
        super().__init__(stream)
        self._path, self._storage = path, storage

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
        """What stands for a name; UnpicklingError for all but tensors and plain values."""
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return f"torch.{name}"
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only tensors, dicts, numbers and text are read"
            )
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """A storage, checked to be there."""
        kind, dtype, key, _, count, *view = pid
        known = kind == "storage" and dtype in STORAGES.values() and type(key) is str
        if not known or view not in ([], [None]):
            raise ValueError("it refers to something that is no tensor")
        check_sizes((count,))
        return self._storage(key, dtype, count), dtype, count

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> ArrayOnDisk:
        read, dtype, count = storage
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
                data = bytearray(read(count * itemsize))
                flat = np.frombuffer(data, disk_dtype(dtype), count)[offset:]
            except DAMAGE as error:
                raise StoreError(f"{path} cannot be read: {error}; get it again") from error
            view = np.lib.stride_tricks.as_strided(
                flat, shape, [s * itemsize for s in strides], writeable=False
            )
            return decoded(np.ascontiguousarray(view), dtype, tuple(shape))

        return ArrayOnDisk(shape=tuple(shape), dtype=dtype, fetch=fetch)


def plain_values(path: Path, value: dict[Any, Any]) -> Arrays:
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
