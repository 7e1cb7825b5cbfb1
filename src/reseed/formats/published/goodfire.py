"""Goodfire's SAEs of Llama 3 (2025): one state dict saved by torch, `.pt` or `.pth`.

Tensors: `encoder_linear.weight [F, D]`, `encoder_linear.bias [F]`, `decoder_linear.weight [D, F]`,
`decoder_linear.bias [D]`; `relu(encoder_linear(x))` decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reseed.errors import SpecError
from reseed.formats.checks import about, closed, complete, refuse, take
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.formats.torch_file import torch_bytes
from reseed.records import SAEArrays
from reseed.store import write_bytes

NAME = "goodfire"

_SHAPES = {
    "encoder_linear.weight": "FD", "encoder_linear.bias": "F",
    "decoder_linear.weight": "DF", "decoder_linear.bias": "D",
}  # fmt: skip

_ENDINGS = (".pt", ".pth")


def recognise(found: Files) -> bool:
    """Whether this is such a file, or a folder with one."""
    return _file(found) is not None


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if a folder holds none or several.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    name = _file(found)
    if name is None:
        raise SpecError(f"{found.path} is not one file of this format, nor a folder with one")
    held = found.torch_dict(name)
    given = take(held, _SHAPES)
    sae = SAEArrays(
        W_enc=given["encoder_linear.weight"],
        W_dec=given["decoder_linear.weight"],
        b_enc=given["encoder_linear.bias"],
        b_dec=given["decoder_linear.bias"],
        activation={"kind": "relu"},
        centred=False,
        about=about(NAME, [], [], {}),
    )
    return complete(sae, str(held.path))


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write one file, `sae.pt` if a folder is given; needs torch.

    Raises:
        SpecError: if the format cannot express it, or torch is not installed.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, (), NAME)
    refuse(NAME, sae, kinds=("relu",))
    flat = uncentred(sae)
    content = {
        "encoder_linear.weight": flat.W_enc,
        "encoder_linear.bias": flat.b_enc,
        "decoder_linear.weight": flat.W_dec.T,
        "decoder_linear.bias": flat.b_dec,
    }
    write_bytes(to if to.suffix in _ENDINGS else to / "sae.pt", torch_bytes(content))


def _file(found: Files) -> str | None:
    """The file itself, or the only one of a folder."""
    names = [name for name in found.names() if name.endswith(_ENDINGS) and "/" not in name]
    if len(names) != 1 or not found.keys(names[0]) >= set(_SHAPES):
        return None
    return names[0]
