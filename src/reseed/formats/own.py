"""Our own format: a folder with `cfg.json` and `sae.safetensors`.

`sae.safetensors` holds float32 `W_enc [F, D]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, and where
they are used `threshold [F]` and `W_skip [E, D]`; `cfg.json` holds `format`, `version`,
`activation`, `centred`, `normalised` and `about`. What they mean is said at
`reseed.records.SAEArrays`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from reseed.errors import SpecError, StoreError
from reseed.files import json_bytes, read_json, safetensors_bytes, write_bytes
from reseed.records import SAEArrays
from reseed.store import Store

NAME, VERSION = "reseed", 1
_SHAPES = {"W_enc": "FD", "W_dec": "FE", "b_enc": "F", "b_dec": "E"}
_OPTIONAL = {"threshold": "F", "W_skip": "ED"}


def write(folder: Path, sae: SAEArrays) -> None:
    """Write an SAE into a folder.

    Raises:
        StoreError: if the disk is full or the folder read-only.
    """
    every = {name: getattr(sae, name) for name in _SHAPES | _OPTIONAL}
    arrays = {name: array for name, array in every.items() if array is not None}
    write_bytes(folder / "sae.safetensors", safetensors_bytes(arrays))
    cfg = {
        "format": NAME,
        "version": VERSION,
        "activation": dict(sae.activation),
        "centred": sae.centred,
        "normalised": sae.normalised,
        "about": dict(sae.about),
    }
    write_bytes(folder / "cfg.json", json_bytes(cfg))


def read_piece(store: Store, piece: str, inner: str = ".") -> SAEArrays:
    """Read an SAE from a piece of a store, or from a folder in it, checked against its checksums.

    Raises:
        StoreError: if the piece is missing or damaged.
    """
    for file in ("cfg.json", "sae.safetensors"):
        store.checked(piece, (Path(inner) / file).as_posix())
    return read(store.path(piece) / inner)


def read(folder: Path) -> SAEArrays:
    """Read an SAE from a folder.

    Raises:
        SpecError: if the folder is not in this format.
        StoreError: if a file is missing, damaged, holds NaN, or shapes do not fit each other.
    """
    if not (folder / "cfg.json").exists():
        raise SpecError(
            f"{folder} holds no cfg.json, so it is not an SAE that reseed wrote. Give the folder "
            "with cfg.json and sae.safetensors, e.g. STUDY/runs/RUN."
        )
    cfg = read_json(folder / "cfg.json")
    if not isinstance(cfg, dict) or cfg.get("format") != NAME or cfg.get("version") != VERSION:
        raise SpecError(
            f"{folder / 'cfg.json'} does not say format {NAME!r}, version {VERSION}; "
            "only SAEs written by reseed can be read so far"
        )
    try:
        arrays = load((folder / "sae.safetensors").read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{folder / 'sae.safetensors'} cannot be read: {error}") from error
    _check(folder, arrays)
    try:
        rule, centred, about = cfg["activation"], bool(cfg["centred"]), cfg["about"]
    except KeyError as error:
        raise StoreError(f"{folder / 'cfg.json'} lacks {error}") from error
    return SAEArrays(
        **{name: arrays[name] for name in _SHAPES},
        threshold=arrays.get("threshold"),
        W_skip=arrays.get("W_skip"),
        activation=rule,
        centred=centred,
        normalised=bool(cfg.get("normalised", False)),
        about=about,
    )


def _check(folder: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    sizes: dict[str, int] = {}
    for name, dims in (_SHAPES | _OPTIONAL).items():
        if name not in arrays:
            if name in _OPTIONAL:
                continue
            raise StoreError(f"{folder / 'sae.safetensors'} lacks {name}; it has {sorted(arrays)}")
        array = arrays[name]
        if array.ndim != len(dims) or any(
            sizes.setdefault(d, n) != n for d, n in zip(dims, array.shape, strict=True)
        ):
            raise StoreError(
                f"{folder / 'sae.safetensors'}: {name} has shape {array.shape}, which does not fit "
                f"[{', '.join(dims)}] with {sizes}"
            )
        if not np.isfinite(array).all():
            raise StoreError(
                f"{folder / 'sae.safetensors'}: {name} has NaN or infinity; a training that ended "
                "in NaN wrote it, or the file is damaged"
            )
