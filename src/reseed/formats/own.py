"""Our own format: a folder with `cfg.json` and `sae.safetensors`.

`sae.safetensors` holds float32 `W_enc [F, D]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, and where
they are used `threshold [F]` and `W_skip [E, D]`; `cfg.json` holds `format`, `version`,
`activation`, `centred`, `normalised` and `about`. What they mean is said at
`reseed.records.SAEArrays`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Weights, complete
from reseed.formats.files import Files
from reseed.records import SAEArrays
from reseed.store import Store, file_bytes, write_bytes

NAME, VERSION = "reseed", 1
_SHAPES = {"W_enc": "FD", "W_dec": "FE", "b_enc": "F", "b_dec": "E"}
_OPTIONAL = {"threshold": "F", "W_skip": "ED"}


def contents(sae: SAEArrays) -> dict[str, Any]:
    """The files of an SAE by name, as `Store.make` takes them."""
    every = {name: getattr(sae, name) for name in _SHAPES | _OPTIONAL}
    cfg = {
        "format": NAME,
        "version": VERSION,
        "activation": dict(sae.activation),
        "centred": sae.centred,
        "normalised": sae.normalised,
        "about": dict(sae.about),
    }
    arrays = {name: array for name, array in every.items() if array is not None}
    return {"sae.safetensors": arrays, "cfg.json": cfg}


def write(folder: Path, sae: SAEArrays, **options: Any) -> None:
    """Write an SAE into a folder.

    Raises:
        StoreError: if the disk is full or the folder read-only.
    """
    for name, content in contents(sae).items():
        write_bytes(folder / name, file_bytes(name, content))


def read_piece(store: Store, piece: str, inner: str = ".") -> SAEArrays:
    """Read an SAE from a piece of a store, or from a folder in it, checked against its checksums.

    Raises:
        StoreError: if the piece is missing or damaged.
    """
    for file in ("cfg.json", "sae.safetensors"):
        store.checked(piece, (Path(inner) / file).as_posix())
    return read(store.path(piece) / inner)


def recognise(found: Files) -> bool:
    """A folder whose `cfg.json` says format `reseed`."""
    mine = found.means("cfg.json", "sae.safetensors")
    return mine and found.settings("cfg.json").get("format") == NAME


def read(folder: Path | Files, **which: Any) -> SAEArrays:
    """Read an SAE from a folder.

    Raises:
        SpecError: if the folder is not in this format.
        StoreError: if a file is missing, damaged, holds NaN, or shapes do not fit each other.
    """
    found = folder if isinstance(folder, Files) else Files(folder)
    if not found.has("cfg.json"):
        raise SpecError(
            f"{found.path} holds no cfg.json, so it is not an SAE that reseed wrote. Give the "
            "folder with cfg.json and sae.safetensors, e.g. STUDY/runs/RUN."
        )
    cfg, where = found.json("cfg.json"), str(found.folder / "cfg.json")
    if cfg.get("format") != NAME or cfg.get("version") != VERSION:
        raise SpecError(f"{where} does not say format {NAME!r}, version {VERSION}")
    arrays = found.tensors("sae.safetensors")
    weights = Weights(arrays=arrays, where=str(found.folder / "sae.safetensors"))
    try:
        rule, centred, about = cfg["activation"], cfg["centred"], cfg["about"]
    except KeyError as error:
        raise StoreError(f"{where} lacks {error}") from error
    if not isinstance(rule, dict):
        raise StoreError(f"{where}: the activation rule is {rule!r}, not a table")
    taken = {
        name: weights.take(name, dims)
        for name, dims in (_SHAPES | _OPTIONAL).items()
        if name in _SHAPES or name in arrays
    }
    sae = SAEArrays(
        **taken,
        activation=rule,
        centred=bool(centred),
        normalised=bool(cfg.get("normalised", False)),
        about=about if isinstance(about, dict) else {},
    )
    return complete(sae, where)
