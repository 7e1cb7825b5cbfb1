"""Reads safetensors files, bfloat16 included, with every size checked before memory is taken."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from reseed.errors import StoreError
from reseed.formats.arrays import Arrays, Stored, at, disk_dtype

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_LARGEST_HEADER = 100_000_000
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
            if length < 8 or size > min(_LARGEST_HEADER, length - 8):
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
