"""Qwen Scope (arXiv 2605.11887): one dict of four tensors a layer, `layerN.sae.pt`.

Tensors: `W_enc [F, D]`, `W_dec [D, F]`, `b_enc [F]`, `b_dec [D]`: the names are those of SAELens,
the matrices lie the other way round. The k largest of `x @ W_enc.T + b_enc`, decoded. k is not in
the file; it is in the name of the repository, `SAE-Res-...-L0_50`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import about, check_shapes, closed, complete, refuse, take
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.formats.torch_file import torch_bytes
from reseed.records import SAEArrays
from reseed.store import write_bytes

NAME = "qwen_scope"

_PATTERN = "layer{}.sae.pt"

_SHAPES = {"W_enc": "FD", "W_dec": "DF", "b_enc": "F", "b_dec": "D"}

_NAMED = re.compile(r"-L0_(\d{1,6})$")


def recognise(found: Files) -> bool:
    """Whether this is such a file, or a folder with one."""
    name = found.layer_file(_PATTERN)
    if name is None or found.has("config.json") or set(found.keys(name)) != set(_SHAPES):
        return False
    try:
        check_shapes(found.torch_dict(name), _SHAPES)
    except (SpecError, StoreError):
        return False
    return True


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    They take the k largest pre-activations whatever their sign, we those above 0; these differ for
    rows with less than k of them above 0.

    Args:
        found: the file, or a folder with one.
        which: `k`, needed where no folder above is named `...-L0_k`.

    Raises:
        SpecError: if k is not known.
        StoreError: if it is damaged.
    """
    closed(which, ("k",), NAME)
    held = found.torch_dict(found.the_layer_file(_PATTERN))
    given = take(held, _SHAPES)
    k, source = which.get("k"), "given by the caller"
    if k is None:
        k, source = _named_k(found.path.absolute()), "read from the name of the folder"
    if k is None:
        raise SpecError(
            f"{held.path} does not say its k; Qwen Scope says it in the name of the repository. "
            "Put it in a folder of that name (SAE-Res-...-L0_50), or give k."
        )
    sae = SAEArrays(
        W_enc=given["W_enc"],
        W_dec=given["W_dec"],
        b_enc=given["b_enc"],
        b_dec=given["b_dec"],
        activation={"kind": "topk", "k": k},
        centred=False,
        about=about(NAME, [], [], {"k": f"{k}, {source}"}),
    )
    return complete(sae, str(held.path))


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write one file; needs torch.

    Args:
        to: the file, or a folder; k must be in the name of its folder, `...-L0_k`.
        sae: what to write.
        options: `layer`, its number in the name of the file if a folder is given; 0 if not given.

    Raises:
        SpecError: if the format cannot express it, or torch is not installed.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, ("layer",), NAME)
    refuse(NAME, sae, kinds=("topk",))
    k = sae.activation["k"]
    if _named_k(to.absolute()) != k:
        raise SpecError(
            f"{NAME} files do not hold k, the name of their folder does: write into a folder whose "
            f"name ends in -L0_{k}, or k = {k} is lost"
        )
    flat = uncentred(sae)
    content = {
        "W_enc": flat.W_enc,
        "W_dec": flat.W_dec.T,
        "b_enc": flat.b_enc,
        "b_dec": flat.b_dec,
    }
    name = _PATTERN.format(options.get("layer", 0))
    write_bytes(to if to.suffix == ".pt" else to / name, torch_bytes(content))


def _named_k(path: Path) -> int | None:
    """The k of the nearest folder that names one; in a hub cache it is some folders up."""
    for part in reversed(path.parts):
        match = _NAMED.search(part)
        if match:
            return int(match[1])
    return None
