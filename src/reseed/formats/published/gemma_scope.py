"""Gemma Scope (arXiv 2408.05147): `params.npz` of a JumpReLU SAE or transcoder.

Arrays: `W_enc [D, F]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`, `threshold [F]`; some files spell
`w_enc`, `w_dec`. `relu(p) (p > threshold) @ W_dec + b_dec` with `p = x @ W_enc + b_enc`. SAEs of
the embedding (folder `embedding/`) were trained on rows scaled by 1/√D: `W_enc` is divided by √D
and `W_dec` multiplied by it. Input of the attention SAEs are the heads in one row, of the
transcoders the normalised input of the MLP.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.arrays import Arrays
from reseed.formats.checks import about, closed, complete, refuse, take
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.records import Floats, SAEArrays
from reseed.store import write_bytes

NAME = "gemma_scope"

FILE = "params.npz"

_SHAPES = {"w_enc": "DF", "w_dec": "FE", "b_enc": "F", "b_dec": "E", "threshold": "F"}


def recognise(found: Files) -> bool:
    """Whether this is a `params.npz`, or a folder with one."""
    name = _file(found)
    return name is not None and {one.lower() for one in found.keys(name)} >= set(_SHAPES)


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Args:
        found: `params.npz` or its folder.
        which: `embedding`, whether it is an SAE of the embedding; told by a folder of that name
            if not given.

    Raises:
        SpecError: if it has a scaling that no publication describes.
        StoreError: if it is damaged.
    """
    closed(which, ("embedding",), NAME)
    held = found.npz(_file(found) or FILE)
    names = {name.lower(): name for name in held}
    if len(names) < len(held):
        raise StoreError(f"{held.path} has the same array twice: {sorted(held)}")
    arrays = Arrays(path=held.path, held={name: held.held[old] for name, old in names.items()})
    given = take(arrays, _SHAPES, ignored=("scaling_factor",))
    if "scaling_factor" in arrays and not (np.asarray(arrays["scaling_factor"]) == 1).all():
        raise SpecError(
            f"{held.path} has a scaling_factor other than 1; what it scales was not published, so "
            "it is not read"
        )
    folded: list[str] = []
    embedding = which.get("embedding")
    if embedding is None:
        embedding = "embedding" in found.path.absolute().parts
    if embedding:
        scale = np.float32(math.sqrt(given["w_enc"].shape[1]))
        given["w_enc"], given["w_dec"] = given["w_enc"] / scale, given["w_dec"] * scale
        folded.append(f"embedding SAE: W_enc divided and W_dec multiplied by √D = {scale:g}")
    return complete(jumprelu(given, about(NAME, folded, [], {})), str(held.path))


def jumprelu(given: dict[str, Floats], about: dict[str, Any]) -> SAEArrays:
    """The SAE of these arrays, named as in the file; rows are latents.

    With no threshold above 0 it is a ReLU.
    """
    open_ = bool((given["threshold"] <= 0).all())
    return SAEArrays(
        W_enc=given["w_enc"],
        W_dec=given["w_dec"],
        b_enc=given["b_enc"],
        b_dec=given["b_dec"],
        activation={"kind": "relu" if open_ else "jumprelu"},
        threshold=None if open_ else given["threshold"],
        centred=False,
        about=about,
    )


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write `params.npz`; ReLU becomes JumpReLU with threshold 0.

    Raises:
        SpecError: if the format cannot express it.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, (), NAME)
    refuse(NAME, sae, kinds=("jumprelu", "relu"), transcoder=True)
    buffer = io.BytesIO()
    given = tensors(sae)
    tight: dict[str, Any] = {
        name.replace("w_", "W_"): np.ascontiguousarray(array) for name, array in given.items()
    }
    np.savez(buffer, **tight)
    write_bytes(to if to.suffix == ".npz" else to / FILE, buffer.getvalue())


def tensors(sae: SAEArrays) -> dict[str, Floats]:
    """Arrays of the file, named in lower case."""
    flat = uncentred(sae)
    zero = np.zeros(len(sae.W_enc), np.float32)
    return {
        "w_enc": flat.W_enc.T,
        "w_dec": flat.W_dec,
        "b_enc": flat.b_enc,
        "b_dec": flat.b_dec,
        "threshold": zero if sae.threshold is None else sae.threshold,
    }


def _file(found: Files) -> str | None:
    if found.is_file:
        return found.path.name if found.path.suffix == ".npz" else None
    return FILE if found.has(FILE) else None
