"""Formats that keep one file a layer and no settings beside it.

`goodfire`, SAEs of Llama 3 (2025), a state dict saved by torch, `.pt` or `.pth`:
`encoder_linear.weight [F, D]`, `encoder_linear.bias [F]`, `decoder_linear.weight [D, F]`,
`decoder_linear.bias [D]`; `relu(encoder_linear(x))` decoded.

`qwen_scope` (arXiv 2605.11887), a dict saved by torch, `layerN.sae.pt`: `W_enc [F, D]`,
`W_dec [D, F]`, `b_enc [F]`, `b_dec [D]`: the names are those of SAELens, the matrices lie the other
way round. The k largest of `x @ W_enc.T + b_enc`, decoded. k is not in the file; it is in the name
of the repository, `SAE-Res-...-L0_50`.

`circuit_tracer`, transcoders (mwhanna's of Qwen3 and others), `layer_N.safetensors`:
`W_enc [F, D]`, `W_dec [F, D]`, `b_enc [F]`, `b_dec [D]`; with a skip connection `W_skip [D, D]`;
for JumpReLU `activation_function.threshold [F]`.
`relu(x @ W_enc.T + b_enc) @ W_dec + b_dec (+ x @ W_skip.T)`; the input is that of the MLP. Where
settings beside it say top-k, the k largest are taken in place of all.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Format, about, check_shapes, named, stored, take
from reseed.formats.containers.torch_file import torch_bytes
from reseed.formats.files import Files
from reseed.formats.folds import uncentred
from reseed.formats.settings_near import settings_near
from reseed.records import SAEArrays
from reseed.store import safetensors_bytes, write_bytes

_TORCH = (".pt", ".pth")

# -- goodfire ------------------------------------------------------------------------------------

_GOODFIRE = {
    "W_enc": ("encoder_linear.weight", "FD"),
    "b_enc": ("encoder_linear.bias", "F"),
    "W_dec": ("decoder_linear.weight", "DF"),
    "b_dec": ("decoder_linear.bias", "D"),
}


def _goodfire_file(files: Files) -> str | None:
    """The file itself, or the only one of a folder."""
    names = [name for name in files.names() if name.endswith(_TORCH) and "/" not in name]
    wanted = {key for key, _ in _GOODFIRE.values()}
    return names[0] if len(names) == 1 and files.keys(names[0]) >= wanted else None


def _recognise_goodfire(files: Files) -> bool:
    return _goodfire_file(files) is not None


def _read_goodfire(files: Files) -> SAEArrays:
    name = _goodfire_file(files)
    if name is None:
        raise SpecError(f"{files.path} is not one file of this format, nor a folder with one")
    held, rule = files.torch_dict(name), {"kind": "relu"}
    fields, record = take(held, _GOODFIRE), about([], [], {})
    sae = SAEArrays(**fields, activation=rule, centred=False, about=record)
    settings_near(files, held).check(held.path, sae, "as the SAEs of this format are")
    return sae


def _write_goodfire(to: Path, sae: SAEArrays) -> None:
    path = to if to.suffix in _TORCH else to / "sae.pt"
    write_bytes(path, torch_bytes(stored(uncentred(sae), _GOODFIRE)))


# -- qwen_scope ----------------------------------------------------------------------------------

_QWEN_FILE = "layer{}.sae.pt"

_QWEN = named(W_enc="FD", W_dec="DF", b_enc="F", b_dec="D")

_NAMED_K = re.compile(r"-L0_(\d{1,6})$")


def _recognise_qwen(files: Files) -> bool:
    name = files.layer_file(_QWEN_FILE)
    if name is None or files.has("config.json") or files.keys(name) != frozenset(_QWEN):
        return False
    # the four names are anybody's: only the name of the file or of a folder tells whose
    if not re.fullmatch(r"layer\d+\.sae\.pt", name) and _named_k(files.path.absolute()) is None:
        return False
    try:
        check_shapes(files.torch_dict(name), _QWEN)
    except StoreError:
        return False
    return True


def _read_qwen(files: Files, *, k: Any = None) -> SAEArrays:
    """Read one; k is needed where no folder above is named `...-L0_k`.

    They take the k largest pre-activations whatever their sign, we those above 0; these differ for
    rows with less than k of them above 0.
    """
    held = files.torch_dict(files.the_layer_file(_QWEN_FILE))
    fields, source = take(held, _QWEN), "given by the caller"
    if k is None:
        k, source = _named_k(files.path.absolute()), "read from the name of the folder"
    if k is None:
        raise SpecError(
            f"{held.path} does not say its k; Qwen Scope says it in the name of the repository. "
            "Put it in a folder of that name (SAE-Res-...-L0_50), or give k."
        )
    record, rule = about([], [], {"k": f"{k}, {source}"}), {"kind": "topk", "k": k}
    sae = SAEArrays(**fields, activation=rule, centred=False, about=record)
    settings_near(files, held).check(held.path, sae, "as the SAEs of Qwen Scope are")
    return sae


def _write_qwen(to: Path, sae: SAEArrays, *, layer: Any = 0) -> None:
    k = sae.activation["k"]
    if _named_k(to.absolute()) != k:
        raise SpecError(
            "qwen_scope files do not hold k, the name of their folder does: write into a folder "
            f"whose name ends in -L0_{k}, or k = {k} is lost"
        )
    path = to if to.suffix == ".pt" else to / _QWEN_FILE.format(layer)
    write_bytes(path, torch_bytes(stored(uncentred(sae), _QWEN)))


def _named_k(path: Path) -> int | None:
    """The k of the nearest folder that names one; in a hub cache it is some folders up."""
    for part in reversed(path.parts):
        if match := _NAMED_K.search(part):
            return int(match[1])
    return None


# -- circuit_tracer ------------------------------------------------------------------------------

_TRACER_FILE = "layer_{}.safetensors"

_TRACER = named(W_enc="FD", W_dec="FE", b_enc="F", b_dec="E")

_TRACER_MORE = {"W_skip": ("W_skip", "ED"), "threshold": ("activation_function.threshold", "F")}


def _recognise_tracer(files: Files) -> bool:
    """The names are those of other formats too; those lay settings beside them, or transpose."""
    name = files.layer_file(_TRACER_FILE)
    if name is None or files.has("cfg.json") or not re.fullmatch(r"layer_\d+\.safetensors", name):
        return False
    if files.keys(name) - {key for key, _ in _TRACER_MORE.values()} != frozenset(_TRACER):
        return False
    arrays = files.tensors(name)
    latents, encoder = arrays.shape("b_enc"), arrays.shape("W_enc")
    return bool(latents and encoder) and latents == (encoder or ())[:1]


def _read_tracer(files: Files) -> SAEArrays:
    arrays = files.tensors(files.the_layer_file(_TRACER_FILE))
    fields = take(arrays, _TRACER | _TRACER_MORE, optional=_TRACER_MORE)
    threshold = fields.get("threshold")
    if threshold is not None and threshold.min() < 0:
        raise SpecError(
            f"{arrays.path} has a threshold of {threshold.min():g}: circuit-tracer then lets "
            "negative codes through, which no SAE here has"
        )
    rule: dict[str, Any] = {"kind": "relu" if threshold is None else "jumprelu"}
    settings, notes = settings_near(files, arrays), list[str]()
    kind, k = settings.rule() or ("", None)
    if threshold is None and kind == "topk":
        rule = {"kind": "topk", "k": k}
        notes.append(f"the rule is that of settings beside the weights: {settings.quoted()}")
    sae = SAEArrays(**fields, activation=rule, centred=False, about=about([], notes, {}))
    settings.check(arrays.path, sae, "by the names of its arrays")
    return sae


def _write_tracer(to: Path, sae: SAEArrays, *, layer: Any = 0) -> None:
    sae = uncentred(sae)
    if sae.threshold is not None:
        # below 0 theirs lets negative codes through, ours is ReLU
        sae = replace(sae, threshold=np.maximum(sae.threshold, 0))
    path = to if to.suffix == ".safetensors" else to / _TRACER_FILE.format(layer)
    write_bytes(path, safetensors_bytes(stored(sae, _TRACER | _TRACER_MORE)))


FORMATS = (
    Format(
        name="goodfire",
        recognise=_recognise_goodfire,
        read=_read_goodfire,
        write=_write_goodfire,
        kinds=("relu",),
    ),
    Format(
        name="qwen_scope",
        recognise=_recognise_qwen,
        read=_read_qwen,
        write=_write_qwen,
        choices=("k",),
        options=("layer",),
        kinds=("topk",),
    ),
    Format(
        name="circuit_tracer",
        recognise=_recognise_tracer,
        read=_read_tracer,
        write=_write_tracer,
        options=("layer",),
        kinds=("relu", "jumprelu"),
        skip=True,
    ),
)
