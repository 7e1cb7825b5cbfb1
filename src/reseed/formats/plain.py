"""The plain door: matrices without settings, of whatever was trained by whatever code.

A decoder `[F, E]`, with an encoder `[F, D]` or without, rows are latents; as `.npy` (one matrix, or
a folder with `W_dec.npy` and `W_enc.npy`), `.npz`, `.safetensors`, `.pt`, NumPy arrays or torch
tensors. That is enough to match two dictionaries, and no more: biases and the activation rule are
not known, so nothing can be encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import about, closed, shown
from reseed.formats.containers.arrays import Array
from reseed.formats.files import Files
from reseed.records import Floats

NAME = "plain"
_DECODERS = ("W_dec", "w_dec", "decoder", "dictionary", "arr_0", "tensor")
_ENCODERS = ("W_enc", "w_enc", "encoder")
_KNOWN = frozenset(_DECODERS + _ENCODERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dictionary:
    """The directions of an SAE of which nothing else is known: F latents, D input, E output."""

    W_dec: Floats
    """[F, E]"""
    W_enc: Floats | None = None
    """[F, D]"""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """where it comes from; free-form JSON"""


def recognise(files: Files) -> bool:
    """Whether there are matrices by these names, and nothing else."""
    if files.is_file:
        if files.path.suffix == ".npy":
            return True
        keys = files.keys(files.path.name)
        return bool(keys) and keys <= _KNOWN and bool(keys & set(_DECODERS))
    return any(files.has(f"{name}.npy") for name in _DECODERS)


def read(files: Files, **which: Any) -> Dictionary:
    """Read matrices.

    Args:
        files: a file, or a folder of `.npy` files.
        which: `decoder` and `encoder`, names of the arrays in the file if they are others than
            `W_dec` and `W_enc`; `rows`, what the rows are: `"latents"` or, for matrices that lie
            the other way round, `"dimensions"`.

    Raises:
        SpecError: if it is not clear which array is meant, or the shapes do not fit each other.
        StoreError: if a file is damaged.
    """
    closed(which, ("decoder", "encoder", "rows"), NAME)
    held = _held(files)
    decoder = _name(held, which.get("decoder"), _DECODERS, files.path)
    encoder = _name(held, which.get("encoder"), _ENCODERS, files.path)
    if decoder is None:
        raise SpecError(
            f"{files.path} holds {shown(held)}: which is the decoder? Give its name as `decoder`."
        )
    matrices = [held[name] if name else None for name in (decoder, encoder)]
    return dictionary(*matrices, rows=which.get("rows", "latents"), where=str(files.path))


def dictionary(
    W_dec: Any, W_enc: Any = None, *, rows: str = "latents", where: str = "the matrix given"
) -> Dictionary:
    """A dictionary from matrices in memory.

    Args:
        W_dec: `[F, E]`; anything that NumPy takes, or a torch tensor.
        W_enc: `[F, D]` or None.
        rows: what the rows are: `"latents"` or `"dimensions"`.
        where: names them in messages.

    Raises:
        SpecError: if they are no matrices, or of different numbers of latents.
        StoreError: if they hold NaN or infinity.
    """
    if rows not in ("latents", "dimensions"):
        raise SpecError(f"rows are 'latents' or 'dimensions', not {rows!r}")
    decoder = _matrix(W_dec, rows, f"{where}: the decoder")
    encoder = None if W_enc is None else _matrix(W_enc, rows, f"{where}: the encoder")
    if encoder is not None and len(encoder) != len(decoder):
        shapes = f"{list(decoder.shape)} and {list(encoder.shape)}"
        raise SpecError(
            f"{where}: decoder and encoder are {shapes}, and should have as many rows, one a "
            "latent. If one of them lies the other way round, transpose it."
        )
    folded = ["matrices transposed"] if rows == "dimensions" else []
    return Dictionary(W_dec=decoder, W_enc=encoder, about={"format": NAME, **about(folded, [], {})})


def _matrix(value: Any, rows: str, what: str) -> Floats:
    if hasattr(value, "detach"):  # a torch tensor; NumPy has no bfloat16
        value = value.detach().cpu().float().numpy()
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "fiub" or not array.size:
        raise SpecError(
            f"{what} should be a matrix of numbers, latents by dimensions; it has shape "
            f"{list(array.shape)} and type {array.dtype}"
        )
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(array.T if rows == "dimensions" else array, np.float32)
    if not np.isfinite(out).all():
        raise StoreError(f"{what} has NaN or infinity")
    return out


def _held(files: Files) -> Mapping[str, Any]:
    if not files.is_file:
        names = [name for name in _KNOWN if files.has(f"{name}.npy")]
        return {name: files.npy(f"{name}.npy") for name in names}
    name, ending = files.path.name, files.path.suffix
    if ending == ".npy":
        return {"decoder": files.npy(name)}
    held = files.arrays(name)
    if held is None:
        raise SpecError(f"{files.path}: matrices are read from .npy, .npz, .safetensors and .pt")
    return held


def _name(held: Mapping[str, Array], chosen: Any, known: tuple[str, ...], path: Path) -> str | None:
    if chosen is not None:
        if chosen not in held:
            raise SpecError(f"{path} has no {chosen!r}; it has {shown(held)}")
        return str(chosen)
    fits = [name for name in known if name in held]
    if len(fits) > 1:
        raise SpecError(f"{path} holds {' and '.join(fits)}; say which one is meant")
    return fits[0] if fits else None
