"""Our own format: a folder with `cfg.json` and `sae.safetensors`.

`sae.safetensors` holds float32 `W_enc [F, D]`, `W_dec [F, D]`, `b_enc [F]`, `b_dec [D]`; `cfg.json`
holds `format`, `version`, `activation`, `centred` and `about`. `reconstruct(x) = codes @ W_dec +
b_dec` with codes from `(x - b_dec) @ W_enc.T + b_enc` by the activation rule.
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
_SHAPES = {"W_enc": "FD", "W_dec": "FD", "b_enc": "F", "b_dec": "D"}


def write(folder: Path, sae: SAEArrays) -> None:
    """Write an SAE into a folder.

    Raises:
        StoreError: if the disk is full or the folder read-only.
    """
    arrays = {name: getattr(sae, name) for name in _SHAPES}
    write_bytes(folder / "sae.safetensors", safetensors_bytes(arrays))
    cfg = {
        "format": NAME,
        "version": VERSION,
        "activation": dict(sae.activation),
        "centred": sae.centred,
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
        **{name: arrays[name] for name in _SHAPES}, activation=rule, centred=centred, about=about
    )


def _check(folder: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    sizes: dict[str, int] = {}
    for name, dims in _SHAPES.items():
        if name not in arrays:
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
