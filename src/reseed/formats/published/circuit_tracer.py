"""Transcoders as circuit-tracer keeps them (mwhanna's of Qwen3 and others): `layer_N.safetensors`.

Arrays: `W_enc [F, D]`, `W_dec [F, D]`, `b_enc [F]`, `b_dec [D]`; with a skip connection
`W_skip [D, D]`; for JumpReLU `activation_function.threshold [F]`.
`relu(x @ W_enc.T + b_enc) @ W_dec + b_dec (+ x @ W_skip.T)`; the input is that of the MLP.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import about, closed, complete, refuse, take
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.records import SAEArrays
from reseed.store import safetensors_bytes, write_bytes

NAME = "circuit_tracer"

_PATTERN = "layer_{}.safetensors"

_THRESHOLD = "activation_function.threshold"

_SHAPES = {"W_enc": "FD", "W_dec": "FE", "b_enc": "F", "b_dec": "E"}

_OPTIONAL = {"W_skip": "ED", _THRESHOLD: "F"}


def recognise(found: Files) -> bool:
    """Whether this is such a file, or a folder with one."""
    name = found.layer_file(_PATTERN)
    return name is not None and _fits(found, name)


def _fits(found: Files, name: str) -> bool:
    """The names are those of other formats too; those lay settings beside them, or transpose."""
    keys = set(found.keys(name))
    if found.has("cfg.json") or keys - set(_OPTIONAL) != set(_SHAPES):
        return False
    try:
        arrays = found.tensors(name)
    except StoreError:
        return False
    latents, encoder = arrays.shape("b_enc"), arrays.shape("W_enc")
    return bool(latents and encoder) and latents == (encoder or ())[:1]


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if a folder holds several, or a threshold is below 0.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    arrays = found.tensors(found.the_layer_file(_PATTERN))
    given = take(arrays, _SHAPES | _OPTIONAL, optional=tuple(_OPTIONAL))
    threshold = given.get(_THRESHOLD)
    if threshold is not None and threshold.min() < 0:
        raise SpecError(
            f"{arrays.path} has a threshold of {threshold.min():g}: circuit-tracer then lets "
            "negative codes through, which no SAE here has"
        )
    sae = SAEArrays(
        W_enc=given["W_enc"],
        W_dec=given["W_dec"],
        b_enc=given["b_enc"],
        b_dec=given["b_dec"],
        activation={"kind": "relu" if threshold is None else "jumprelu"},
        threshold=threshold,
        W_skip=given.get("W_skip"),
        centred=False,
        about=about(NAME, [], [], {}),
    )
    return complete(sae, str(arrays.path))


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write one file.

    Args:
        to: the file, or a folder.
        sae: what to write.
        options: `layer`, its number in the name of the file if a folder is given; 0 if not given.

    Raises:
        SpecError: if the format cannot express it.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, ("layer",), NAME)
    refuse(NAME, sae, kinds=("relu", "jumprelu"), skip=True)
    flat = uncentred(sae)
    if flat.threshold is not None:
        # below 0 theirs lets negative codes through, ours is ReLU
        flat = replace(flat, threshold=np.maximum(flat.threshold, 0))
    given = {"W_skip": flat.W_skip, _THRESHOLD: flat.threshold}
    given |= {name: getattr(flat, name) for name in _SHAPES}
    data = safetensors_bytes({name: one for name, one in given.items() if one is not None})
    name = _PATTERN.format(options.get("layer", 0))
    write_bytes(to if to.suffix == ".safetensors" else to / name, data)
