"""Gemma Scope 2 (2025): `params.safetensors` beside `config.json`.

Arrays: `w_enc [D, F]`, `w_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, `threshold [F]`, and with an
affine skip connection `affine_skip_connection [D, E]`. Settings: `architecture` "jump_relu",
`model_name`, `hf_hook_point_in`, `hf_hook_point_out`, `affine_connection`; some files came without.
`relu(p) (p > threshold) @ w_dec + b_dec + x @ affine_skip_connection`, `p = x @ w_enc + b_enc`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError
from reseed.formats.checks import about, closed, complete, refuse, take, told
from reseed.formats.files import Files
from reseed.formats.published.gemma_scope import jumprelu, tensors
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

NAME = "gemma_scope_2"

FILE, CONFIG = "params.safetensors", "config.json"

_SKIP = "affine_skip_connection"

_SHAPES = {"w_enc": "DF", "w_dec": "FE", "b_enc": "F", "b_dec": "E", "threshold": "F", _SKIP: "DE"}

_TOLD = {"subject": "model_name", "site": "hf_hook_point_in", "site_out": "hf_hook_point_out"}


def recognise(found: Files) -> bool:
    """Whether this is such a safetensors file, or a folder with a `params.safetensors`."""
    name = _file(found)
    return name is not None and found.keys(name) >= set(_SHAPES) - {_SKIP}


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if it is one layer of a cross-layer transcoder, or of another architecture.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    config = found.json(CONFIG) if found.has(CONFIG) else {}
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        raise SpecError(f"{found.folder / CONFIG}: architecture {architecture!r} is not known")
    arrays = found.tensors(_file(found) or FILE)
    shape = arrays.shape("w_dec") or ()
    if len(shape) == 3:
        raise SpecError(
            f"{arrays.path} is one layer of a cross-layer transcoder: its latents write to "
            f"{shape[1]} layers, and there is no one decoder to compare"
        )
    given = take(arrays, _SHAPES, optional=(_SKIP,))
    if config.get("affine_connection") is True and _SKIP not in given:
        raise SpecError(f"{found.folder / CONFIG} promises {_SKIP}, which {arrays.path} lacks")
    sae = jumprelu(given, about(NAME, [], [], told(config, _TOLD)))
    skip = given.get(_SKIP)
    skip = None if skip is None else np.ascontiguousarray(skip.T)
    return complete(replace(sae, W_skip=skip), str(arrays.path))


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write the folder; ReLU becomes JumpReLU with threshold 0.

    Raises:
        SpecError: if the format cannot express it.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, (), NAME)
    refuse(NAME, sae, kinds=("jumprelu", "relu"), skip=True, transcoder=True)
    given = tensors(sae)
    if sae.W_skip is not None:
        given[_SKIP] = np.ascontiguousarray(sae.W_skip.T)
    config = {"architecture": "jump_relu", "affine_connection": sae.W_skip is not None}
    config |= {theirs: sae.about[ours] for ours, theirs in _TOLD.items() if ours in sae.about}
    write_bytes(to / FILE, safetensors_bytes(given))
    write_bytes(to / CONFIG, json_bytes(config))


def _file(found: Files) -> str | None:
    if not found.means(CONFIG):
        return found.path.name if found.path.suffix == ".safetensors" else None
    return FILE if found.has(FILE) else None
