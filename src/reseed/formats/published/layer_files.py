"""Formats that keep one file a layer and no settings beside it.

`openai`, SAEs of GPT-2 (arXiv 2406.04093), a dict saved by torch, `LAYER.pt`: `pre_bias [D]`,
`encoder.weight [F, D]`, `latent_bias [F]`, `decoder.weight [D, F]`, three statistics; text:
`activation` ("ReLU" or "TopK"), and for TopK `activation_state_dict` with `k`.
`relu(top(E(x - pre_bias) + latent_bias))` decoded, plus `pre_bias`. With TopK the rows are
normalised first, (x - mean)/(deviation + 1e-5), and the reconstruction is scaled back; with ReLU
they are not. No other combination can be said in this format.

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
`relu(x @ W_enc.T + b_enc) @ W_dec + b_dec (+ x @ W_skip.T)`; the input is that of the MLP.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Format, about, check_shapes, named, natural, stored, take
from reseed.formats.containers.arrays import Arrays
from reseed.formats.containers.torch_file import torch_bytes
from reseed.formats.files import Files
from reseed.formats.folds import centred, uncentred
from reseed.records import SAEArrays
from reseed.store import safetensors_bytes, write_bytes

_TORCH = (".pt", ".pth")

# -- openai --------------------------------------------------------------------------------------

_OPENAI_FILE = "{}.pt"

_BIASES = {"b_dec": ("pre_bias", "D"), "b_enc": ("latent_bias", "F")}
_MATRICES = {"W_enc": ("encoder.weight", "FD"), "W_dec": ("decoder.weight", "DF")}
_OPENAI = _BIASES | _MATRICES

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")

_RULE = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")


def _recognise_openai(files: Files) -> bool:
    name = files.layer_file(_OPENAI_FILE)
    return name is not None and files.keys(name) >= {key for key, _ in _OPENAI.values()}


def _read_openai(files: Files) -> SAEArrays:
    held = files.torch_dict(files.the_layer_file(_OPENAI_FILE))
    fields = take(held, _OPENAI, ignored=(*_STATISTICS, *_RULE))
    rule = _openai_rule(held)
    normalised = rule["kind"] == "topk"
    return SAEArrays(**fields, activation=rule, normalised=normalised, about=about([], [], {}))


def _openai_rule(held: Arrays) -> dict[str, Any]:
    # ReLU is what their loader takes if nothing is said
    name = held.get("activation", "ReLU")
    if name == "ReLU":
        return {"kind": "relu"}
    if name != "TopK":
        raise SpecError(
            f"{held.path}: activation {name!r} gives no sparse codes; only ReLU and TopK are read"
        )
    state = held.get("activation_state_dict")
    if not isinstance(state, Arrays) or "k" not in state:
        raise StoreError(f"{held.path}: activation_state_dict should hold k")
    after = state.get("postact_fn", "ReLU")
    if after != "ReLU":
        raise SpecError(f"{held.path}: TopK with {after!r} behind it is not known, ReLU is")
    return {"kind": "topk", "k": natural(state, "k", str(held.path))}


def _write_openai(to: Path, sae: SAEArrays, *, layer: Any = 0) -> None:
    kind, latents = sae.activation["kind"], len(sae.W_enc)
    if (kind == "topk") != sae.normalised:
        has = "normalises each row" if sae.normalised else "does not normalise rows"
        raise SpecError(
            f"this SAE cannot be written as openai: its activation is {kind} and it {has}; that "
            "format normalises rows for TopK always and for ReLU never, so it would reconstruct "
            "something else"
        )
    sae = centred(sae)
    content: dict[str, Any] = {
        **stored(sae, _BIASES),
        "stats_last_nonzero": np.zeros(latents, np.int64),
        "latents_activation_frequency": np.ones(latents, np.float32),
        "latents_mean_square": np.zeros(latents, np.float32),
        **stored(sae, _MATRICES),
        "activation": "ReLU",
        "activation_state_dict": {},
    }
    if kind == "topk":
        # their class saves these two a second time, as activation.k and activation.postact_fn, and
        # its loader refuses a file that has them so
        state = {"k": sae.activation["k"], "postact_fn": "ReLU"}
        content |= {"activation": "TopK", "activation_state_dict": state}
    path = to if to.suffix in _TORCH else to / _OPENAI_FILE.format(layer)
    write_bytes(path, torch_bytes(content))


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
    fields = take(files.torch_dict(name), _GOODFIRE)
    record = about([], [], {})
    return SAEArrays(**fields, activation={"kind": "relu"}, centred=False, about=record)


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
    record = about([], [], {"k": f"{k}, {source}"})
    return SAEArrays(**fields, activation={"kind": "topk", "k": k}, centred=False, about=record)


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
    if name is None or files.has("cfg.json"):
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
    rule = {"kind": "relu" if threshold is None else "jumprelu"}
    return SAEArrays(**fields, activation=rule, centred=False, about=about([], [], {}))


def _write_tracer(to: Path, sae: SAEArrays, *, layer: Any = 0) -> None:
    sae = uncentred(sae)
    if sae.threshold is not None:
        # below 0 theirs lets negative codes through, ours is ReLU
        sae = replace(sae, threshold=np.maximum(sae.threshold, 0))
    path = to if to.suffix == ".safetensors" else to / _TRACER_FILE.format(layer)
    write_bytes(path, safetensors_bytes(stored(sae, _TRACER | _TRACER_MORE)))


FORMATS = (
    Format(
        name="openai",
        recognise=_recognise_openai,
        read=_read_openai,
        write=_write_openai,
        options=("layer",),
        kinds=("topk", "relu"),
        normalised=True,
    ),
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
