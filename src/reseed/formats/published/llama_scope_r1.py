"""Llama Scope R1-Distill (2025), as lm_saes of that time wrote it.

`config.json` beside `sae_weights.safetensors`: `encoder.weight [F, D]`, `encoder.bias [F]`,
`decoder.weight [D, F]`, `decoder.bias [D]`, for JumpReLU `log_jumprelu_threshold [F]`, and the
norms `dataset_average_activation_norm.HOOK`. All numbers are in units of the scaled rows, the
thresholds too; with `sparsity_include_decoder_norm` the rule looks at p times the length of the
decoder row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reseed.formats.checks import closed, refuse
from reseed.formats.files import Files
from reseed.formats.published.llama_scope import linear
from reseed.formats.published.scope_folder import CONFIG, Names, keys, read_scaled
from reseed.formats.published.scopes import logarithms
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

NAME = "llama_scope_r1"

_NAMES = Names(
    format=NAME,
    W_enc=("encoder.weight", "FD"),
    b_enc="encoder.bias",
    W_dec=("decoder.weight", "DF"),
    b_dec="decoder.bias",
    log_threshold="log_jumprelu_threshold",
)


def recognise(found: Files) -> bool:
    """Whether there are such settings, and weights by these names."""
    if not {"d_model", "act_fn", "hook_point_in"} <= set(found.settings(CONFIG)):
        return False
    return {"encoder.weight", "decoder.weight"} <= keys(found)


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if it cannot be said in raw units: a GLU encoder, rows scaled one by one.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    return read_scaled(found, _NAMES, ("relu", "jumprelu", "topk"))


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write the folder, for rows as they are.

    Raises:
        SpecError: if the format cannot express it.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, (), NAME)
    refuse(NAME, sae, kinds=("jumprelu", "topk", "relu"))
    F, D = sae.W_enc.shape
    given = linear(sae)
    if sae.threshold is not None:
        given[_NAMES.log_threshold] = logarithms(sae.threshold, NAME)
    site = str(sae.about.get("site", "unknown"))
    settings = {
        "sae_type": "sae",
        "hook_point_in": site,
        "hook_point_out": str(sae.about.get("site_out", site)),
        "d_model": D,
        "expansion_factor": F // D if F % D == 0 else F / D,
        "act_fn": sae.activation["kind"],
        "top_k": sae.activation.get("k", F),
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": False,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": sae.centred,
        "use_glu_encoder": False,
    }
    write_bytes(to / "sae_weights.safetensors", safetensors_bytes(given))
    write_bytes(to / CONFIG, json_bytes(settings))
