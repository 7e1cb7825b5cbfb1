"""Gemma Scope (arXiv 2408.05147) and Gemma Scope 2 (2025): JumpReLU SAEs and transcoders.

Both hold `w_enc [D, F]`, `w_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, `threshold [F]`, for
`relu(p) (p > threshold) @ w_dec + b_dec` with `p = x @ w_enc + b_enc`.

Gemma Scope: `params.npz`, where most files spell `W_enc`, `W_dec`. SAEs of the embedding (folder
`embedding/`) were trained on rows scaled by 1/√D: `W_enc` is divided by √D and `W_dec` multiplied
by it. Input of the attention SAEs are the heads in one row, of the transcoders the normalised input
of the MLP.

Gemma Scope 2: `params.safetensors` beside `config.json` (some files came without), and with an
affine skip connection `affine_skip_connection [D, E]`, which adds `x @ affine_skip_connection`.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Format, about, stored, take, texts
from reseed.formats.containers.arrays import Arrays
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.formats.settings_near import settings_near
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

_NPZ, _SAFETENSORS, _CONFIG = "params.npz", "params.safetensors", "config.json"

_LAYOUT = {
    "W_enc": ("w_enc", "DF"),
    "W_dec": ("w_dec", "FE"),
    "b_enc": ("b_enc", "F"),
    "b_dec": ("b_dec", "E"),
    "threshold": ("threshold", "F"),
}

_OTHER_NAME = (
    f"the arrays are those of Gemma Scope, the file is not called {_NPZ}: it is read as its SAEs "
    "are, with b_dec only added to the output; if it is not of that suite, read it as home_made"
)

_NAMES = frozenset(name for name, _ in _LAYOUT.values())

_SKIP = {"W_skip": ("affine_skip_connection", "DE")}

_FACTS = {"subject": "model_name", "site": "hf_hook_point_in", "site_out": "hf_hook_point_out"}


def _sae(fields: dict[str, Any], about: dict[str, Any]) -> SAEArrays:
    """With no threshold above 0 it is a ReLU."""
    kind = "jumprelu"
    if (fields["threshold"] <= 0).all():
        kind = "relu"
        del fields["threshold"]
    return SAEArrays(**fields, activation={"kind": kind}, centred=False, about=about)


def _flat(sae: SAEArrays) -> SAEArrays:
    """As the files have it; ReLU becomes JumpReLU with threshold 0."""
    sae = uncentred(sae)
    zero = np.zeros(len(sae.W_enc), np.float32)
    return sae if sae.threshold is not None else replace(sae, threshold=zero)


# -- Gemma Scope ---------------------------------------------------------------------------------


def _npz(files: Files) -> str | None:
    if files.is_file:
        return files.path.name if files.path.suffix == ".npz" else None
    return _NPZ if files.has(_NPZ) else None


def _recognise(files: Files) -> bool:
    name = _npz(files)
    return name is not None and {key.lower() for key in files.keys(name)} >= _NAMES


def _read(files: Files, *, embedding: bool | None = None) -> SAEArrays:
    """Read one; without `embedding`, a folder of that name says whether it is of the embedding."""
    held = files.npz(_npz(files) or _NPZ)
    names = {name.lower(): name for name in held}
    if len(names) < len(held):
        raise StoreError(f"{held.path} has the same array twice: {sorted(held)}")
    arrays = Arrays(path=held.path, held={name: held.held[old] for name, old in names.items()})
    fields = take(arrays, _LAYOUT, ignored=("scaling_factor",))
    if "scaling_factor" in arrays and not (np.asarray(arrays["scaling_factor"]) == 1).all():
        raise SpecError(
            f"{held.path} has a scaling_factor other than 1; what it scales was not published, so "
            "it is not read"
        )
    folded: list[str] = []
    if embedding is None:
        embedding = "embedding" in files.path.absolute().parts
    if embedding:
        scale = np.float32(math.sqrt(fields["W_enc"].shape[1]))
        fields["W_enc"], fields["W_dec"] = fields["W_enc"] / scale, fields["W_dec"] * scale
        folded.append(f"embedding SAE: W_enc divided and W_dec multiplied by √D = {scale:g}")
    notes = [] if held.path.name == _NPZ else [_OTHER_NAME]
    sae = _sae(fields, about(folded, notes, {}))
    ruled = replace(sae, activation={"kind": "jumprelu"})  # a ReLU has thresholds of 0 there
    settings_near(files).check(held.path, ruled, "as the SAEs of Gemma Scope are")
    return sae


def _write(to: Path, sae: SAEArrays) -> None:
    buffer = io.BytesIO()
    tight: dict[str, Any] = {
        name.replace("w_", "W_"): np.ascontiguousarray(array)
        for name, array in stored(_flat(sae), _LAYOUT).items()
    }
    np.savez(buffer, **tight)
    write_bytes(to if to.suffix == ".npz" else to / _NPZ, buffer.getvalue())


# -- Gemma Scope 2 -------------------------------------------------------------------------------


def _safetensors(files: Files) -> str | None:
    if not files.means(_CONFIG):
        return files.path.name if files.path.suffix == ".safetensors" else None
    return _SAFETENSORS if files.has(_SAFETENSORS) else None


def _recognise_2(files: Files) -> bool:
    name = _safetensors(files)
    return name is not None and files.keys(name) >= _NAMES


def _read_2(files: Files) -> SAEArrays:
    config = files.json(_CONFIG) if files.has(_CONFIG) else {}
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise SpecError(f"{files.folder / _CONFIG}: architecture {architecture!r} is not known")
    arrays = files.tensors(_safetensors(files) or _SAFETENSORS)
    shape = arrays.shape("w_dec") or ()
    if len(shape) == 3:
        raise SpecError(
            f"{arrays.path} is one layer of a cross-layer transcoder: its latents write to "
            f"{shape[1]} layers, and there is no one decoder to compare"
        )
    fields = take(arrays, _LAYOUT | _SKIP, optional=_SKIP)
    if config.get("affine_connection") is False and "W_skip" in fields:
        raise SpecError(
            f"{files.folder / _CONFIG} says affine_connection = false, and {arrays.path} holds "
            f"{_SKIP['W_skip'][0]}: do they belong together?"
        )
    if config.get("affine_connection") is True and "W_skip" not in fields:
        name = _SKIP["W_skip"][0]
        raise SpecError(f"{files.folder / _CONFIG} promises {name}, which {arrays.path} lacks")
    return _sae(fields, about([], [], texts(config, _FACTS)))


def _write_2(folder: Path, sae: SAEArrays) -> None:
    config = {"architecture": "jump_relu", "affine_connection": sae.W_skip is not None}
    config |= texts(sae.about, {theirs: ours for ours, theirs in _FACTS.items()})
    arrays = stored(_flat(sae), _LAYOUT | _SKIP)
    write_bytes(folder / _SAFETENSORS, safetensors_bytes(arrays))
    write_bytes(folder / _CONFIG, json_bytes(config))


FORMATS = (
    Format(
        name="gemma_scope",
        recognise=_recognise,
        read=_read,
        write=_write,
        choices=("embedding",),
        kinds=("jumprelu", "relu"),
        transcoder=True,
    ),
    Format(
        name="gemma_scope_2",
        recognise=_recognise_2,
        read=_read_2,
        write=_write_2,
        kinds=("jumprelu", "relu"),
        skip=True,
        transcoder=True,
    ),
)
