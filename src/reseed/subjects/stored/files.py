"""One file of activations: how many rows it has, and some of them as float32.

N rows, D dimensions.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reseed.errors import SpecError, SubjectError, nearest

_NUMPY_KINDS = ("float16", "float32", "float64")
_SAFETENSORS_KINDS = ("F16", "F32", "F64", "BF16")
_TORCH_KINDS = (torch.float16, torch.float32, torch.float64, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of any origin: its shape, and how to get some of its rows as float32."""

    shape: tuple[int, ...]
    rows: Callable[[int, int], Tensor]


def open_npy(site: str, path: Path) -> StoredArray:
    """A `.npy` file, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SubjectError(
            f"site {site!r}: {path} cannot be read as a plain array ({error}). Arrays of Python "
            "objects are refused, since reading them runs code; save float32 with numpy.save."
        ) from error
    return in_memory(site, array, f"{path} ")


def in_memory(site: str, array: Tensor | NDArray[Any], where: str = "") -> StoredArray:
    """An array in memory, or mapped into it."""
    known = _TORCH_KINDS if isinstance(array, Tensor) else _NUMPY_KINDS
    kind = array.dtype if isinstance(array, Tensor) else array.dtype.name
    if kind not in known:
        raise wrong_kind(site, where, kind)

    def rows(start: int, stop: int) -> Tensor:
        if isinstance(array, Tensor):
            return array[start:stop].detach().to("cpu", torch.float32)
        # A value that is too large for float32 becomes infinite and is reported by the reader.
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.array(array[start:stop], np.float32))

    return StoredArray(tuple(array.shape), rows)


def open_safetensors(site: str, path: Path, key: str) -> StoredArray:
    """An array of a safetensors file, read row by row."""
    try:
        handle: Any = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise SubjectError(
            f"site {site!r}: {path} is not a whole safetensors file ({error}). Write it again."
        ) from error
    keys = list(handle.keys())
    if key not in keys:
        raise SpecError(
            f"site {site!r}: {path} has no array {key!r}; {nearest(key, keys)}. "
            "Name it after `#`, e.g. acts.safetensors#layer6."
        )
    piece = handle.get_slice(key)
    if piece.get_dtype() not in _SAFETENSORS_KINDS:
        raise wrong_kind(site, f"{path}#{key} ", piece.get_dtype())

    def rows(start: int, stop: int) -> Tensor:
        return piece[start:stop].to(torch.float32)

    return StoredArray(tuple(piece.get_shape()), rows)


def wrong_kind(site: str, where: str, kind: object) -> SubjectError:
    """What to say of numbers that are no floats."""
    return SubjectError(
        f"site {site!r}: {where}holds {kind}; float16, float32, float64 or bfloat16 are read. "
        "Convert it before."
    )


_STATES = "states"
"""Key of a megabatch of activault."""


def open_pt(site: str, path: Path, key: str) -> StoredArray:
    """A file of `torch.save`: a tensor `[..., D]`, or a dict with one; memory-mapped, no code run.

    Of several tensors `key` names one; activault's megabatches have `states` beside `input_ids`.
    """
    try:
        held: object = _loaded(path)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SubjectError(
            f"site {site!r}: {path} cannot be read as tensors ({reason}). Files that would run "
            "code are refused; save a tensor, or a dict of tensors, with torch.save."
        ) from error
    if isinstance(held, Mapping):
        named = cast(Mapping[str, object], held)
        floats = [
            str(k) for k, v in named.items() if isinstance(v, Tensor) and v.dtype.is_floating_point
        ]
        key = key or (_STATES if _STATES in floats else floats[0] if len(floats) == 1 else "")
        if key not in floats:
            raise SpecError(
                f"site {site!r}: {path} has no tensor of floats {key!r}; {nearest(key, floats)}. "
                "Name it after `#`, e.g. acts#states."
            )
        held = named[key]
    if not isinstance(held, Tensor) or held.ndim < 2:
        shape = list(held.shape) if isinstance(held, Tensor) else type(held).__name__
        raise SubjectError(f"site {site!r}: {path} holds {shape}; a tensor [..., D] is needed")
    return in_memory(site, held.reshape(-1, held.shape[-1]), f"{path} ")


def _loaded(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
    return torch.load(path, map_location="cpu", weights_only=True)
