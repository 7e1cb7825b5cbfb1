"""OpenAI's SAEs of GPT-2 (arXiv 2406.04093): one dict saved by torch, `autoencoders/LAYER.pt`.

Tensors: `pre_bias [D]`, `encoder.weight [F, D]`, `latent_bias [F]`, `decoder.weight [D, F]`, three
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
from reseed.formats.arrays import Arrays
from reseed.formats.checks import about, closed, complete, refuse, take, whole
from reseed.formats.files import Files
from reseed.formats.folds import centred
from reseed.formats.torch_file import torch_bytes
from reseed.records import SAEArrays
from reseed.store import write_bytes

NAME = "openai"

_PATTERN = "{}.pt"

_SHAPES = {
    "pre_bias": "D", "encoder.weight": "FD", "latent_bias": "F", "decoder.weight": "DF",
}  # fmt: skip

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")

_RULE = ("activation", "activation_state_dict", "activation.k", "activation.postact_fn")


def recognise(found: Files) -> bool:
    """Whether this is such a file, or a folder with one."""
    name = found.layer_file(_PATTERN)
    return name is not None and found.keys(name) >= set(_SHAPES)


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if its activation is none of ours.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    held = found.torch_dict(found.the_layer_file(_PATTERN))
    given = take(held, _SHAPES, ignored=(*_STATISTICS, *_RULE))
    rule = _rule(held)
    sae = SAEArrays(
        W_enc=given["encoder.weight"],
        W_dec=given["decoder.weight"],
        b_enc=given["latent_bias"],
        b_dec=given["pre_bias"],
        activation=rule,
        normalised=rule["kind"] == "topk",
        about=about(NAME, [], [], {}),
    )
    return complete(sae, str(held.path))


def _rule(held: Arrays) -> dict[str, Any]:
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
    return {"kind": "topk", "k": whole(state, "k", str(held.path))}


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write one file; needs torch.

    Args:
        to: the file, or a folder.
        sae: what to write.
        options: `layer`, the name of the file in a folder; 0 if not given.

    Raises:
        SpecError: if the format cannot express it, or torch is not installed.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, ("layer",), NAME)
    refuse(NAME, sae, kinds=("topk", "relu"), normalised=True)
    kind = sae.activation["kind"]
    if (kind == "topk") != sae.normalised:
        has = "normalises each row" if sae.normalised else "does not normalise rows"
        raise SpecError(
            f"this SAE cannot be written as {NAME}: its activation is {kind} and it {has}; that "
            "format normalises rows for TopK always and for ReLU never, so it would reconstruct "
            "something else"
        )
    own = centred(sae)
    content: dict[str, Any] = {
        "pre_bias": own.b_dec,
        "latent_bias": own.b_enc,
        "stats_last_nonzero": np.zeros(len(own.b_enc), np.int64),
        "latents_activation_frequency": np.ones(len(own.b_enc), np.float32),
        "latents_mean_square": np.zeros(len(own.b_enc), np.float32),
        "encoder.weight": own.W_enc,
        "decoder.weight": own.W_dec.T,
    }
    content |= _said(sae.activation)
    name = _PATTERN.format(options.get("layer", 0))
    write_bytes(to if to.suffix in (".pt", ".pth") else to / name, torch_bytes(content))


def _said(rule: Any) -> dict[str, Any]:
    if rule["kind"] == "relu":
        return {"activation": "ReLU", "activation_state_dict": {}}
    # their class saves these two a second time, as activation.k and activation.postact_fn, and its
    # loader refuses a file that has them so
    return {
        "activation": "TopK",
        "activation_state_dict": {"k": rule["k"], "postact_fn": "ReLU"},
    }
