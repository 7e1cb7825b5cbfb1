"""OpenAI's SAEs of GPT-2 (arXiv 2406.04093), a dict saved by torch, `LAYER.pt`.

`pre_bias [D]`, `encoder.weight [F, D]`, `latent_bias [F]`, `decoder.weight [D, F]`, three
statistics; text: `activation` ("ReLU" or "TopK"), and for TopK `activation_state_dict` with `k`.
`relu(top(E(x - pre_bias) + latent_bias))` decoded, plus `pre_bias`. With TopK the rows are
normalised first, (x - mean)/(deviation + 1e-5), and the reconstruction is scaled back; with ReLU
they are not. No other combination can be said in this format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Format, about, natural, stored, take
from reseed.formats.containers.arrays import Arrays
from reseed.formats.containers.torch_file import torch_bytes
from reseed.formats.files import Files
from reseed.formats.folds import centred
from reseed.formats.settings_near import settings_near
from reseed.records import SAEArrays
from reseed.store import write_bytes

_TORCH = (".pt", ".pth")

_FILE = "{}.pt"

_BIASES = {"b_dec": ("pre_bias", "D"), "b_enc": ("latent_bias", "F")}
_MATRICES = {"W_enc": ("encoder.weight", "FD"), "W_dec": ("decoder.weight", "DF")}
_LAYOUT = _BIASES | _MATRICES

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")

_RULE = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")


def _recognise(files: Files) -> bool:
    name = files.layer_file(_FILE)
    return name is not None and files.keys(name) >= {key for key, _ in _LAYOUT.values()}


def _read(files: Files) -> SAEArrays:
    held = files.torch_dict(files.the_layer_file(_FILE))
    fields = take(held, _LAYOUT, ignored=(*_STATISTICS, *_RULE))
    rule = _rule_of(held)
    normalised = rule["kind"] == "topk"
    record = about([], [], {})
    sae = SAEArrays(**fields, activation=rule, normalised=normalised, about=record)
    settings_near(files).check(held.path, sae, "as the file itself says")
    return sae


def _rule_of(held: Arrays) -> dict[str, Any]:
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


def _write(to: Path, sae: SAEArrays, *, layer: Any = 0) -> None:
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
    path = to if to.suffix in _TORCH else to / _FILE.format(layer)
    write_bytes(path, torch_bytes(content))


FORMATS = (
    Format(
        name="openai",
        recognise=_recognise,
        read=_read,
        write=_write,
        options=("layer",),
        kinds=("topk", "relu"),
        normalised=True,
    ),
)
