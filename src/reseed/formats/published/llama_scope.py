"""Llama Scope (arXiv 2410.20526) as lm_saes 0.x wrote it.

`hyperparams.json` beside `checkpoints/final.safetensors` (or `pruned.safetensors`, or `.pt`):
`encoder.weight [F, D]`, `encoder.bias [F]`, `decoder.weight [D, F]`, `decoder.bias [D]`. Their
loader first folds the dataset-wise norms, then, with `sparsity_include_decoder_norm`, scales
decoder rows to length 1 and encoder rows by what was taken out; the threshold, one number, is
compared with what comes out of that, so it is in raw units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import about, closed, complete, flag, refuse, whole
from reseed.formats.files import Files
from reseed.formats.folds import decoder_norms, rescaled
from reseed.formats.published.scope_folder import Names, sites, weights, weights_as_stored
from reseed.formats.published.scopes import scales, unscaled
from reseed.records import Floats, SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

NAME = "llama_scope"

_CONFIG = "hyperparams.json"

_NAMES = Names(
    format=NAME,
    W_enc=("encoder.weight", "FD"),
    b_enc="encoder.bias",
    W_dec=("decoder.weight", "DF"),
    b_dec="decoder.bias",
)


def recognise(found: Files) -> bool:
    """Whether there is a `hyperparams.json` of this kind: here, or a folder above the file."""
    settings = found.settings(_config(found))
    return {"d_model", "act_fn", "norm_activation"} <= set(settings)


def read(found: Files, **which: Any) -> SAEArrays:
    """Read one.

    Raises:
        SpecError: if it cannot be said in raw units: a GLU encoder, rows scaled one by one.
        StoreError: if it is damaged.
    """
    closed(which, (), NAME)
    config = _config(found)
    # as the class they were saved from takes what is not said
    settings = {"apply_decoder_bias_to_pre_encoder": True, **found.json(config)}
    where, held = str(found.folder / config), weights(found)
    sae = weights_as_stored(held, settings, _NAMES, where)
    norms = settings.get("dataset_average_activation_norm")
    by = scales(settings, norms if isinstance(norms, dict) else {}, sae.W_enc.shape[1], where)
    sae, folded = unscaled(sae, by), by.said
    if flag(settings, "sparsity_include_decoder_norm", where, default=True):
        sae = rescaled(sae, decoder_norms(sae))
        folded = [*folded, "decoder rows scaled to length 1, encoder rows by what was taken out"]
    sae = _ruled(sae, settings, where)
    record = about(NAME, folded, _warnings(sae, settings), sites(settings))
    return complete(replace(sae, about=record), str(held.path))


def _ruled(sae: SAEArrays, settings: Mapping[str, Any], where: str) -> SAEArrays:
    rule, limit = str(settings.get("act_fn")).lower(), settings.get("jump_relu_threshold", 0.0)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit < 1e30:
        raise StoreError(f"{where}: jump_relu_threshold should be 0 or more, not {limit!r}")
    if rule == "jumprelu":
        threshold = np.full(len(sae.W_enc), limit, np.float32)
        return replace(sae, activation={"kind": "jumprelu"}, threshold=threshold)
    if rule == "topk":
        return replace(sae, activation={"kind": "topk", "k": whole(settings, "top_k", where)})
    if rule != "relu":
        raise SpecError(f"{where}: act_fn {rule!r} is not known; relu, topk and jumprelu are")
    return sae


def _warnings(sae: SAEArrays, settings: Mapping[str, Any]) -> list[str]:
    limit = settings.get("jump_relu_threshold", 0.0)
    if sae.activation["kind"] != "topk" or not limit:
        return []
    return [
        f"the settings say topk and also a threshold of {limit:g}; lm_saes announces to run such "
        "an SAE as JumpReLU and then runs it as TopK, and so it is read"
    ]


def write(to: Path, sae: SAEArrays, **options: Any) -> None:
    """Write the folder, with norms for which all scales are 1.

    Raises:
        SpecError: if the format cannot express it.
        StoreError: if the disk is full or the folder read-only.
    """
    closed(options, (), NAME)
    refuse(NAME, sae, kinds=("jumprelu", "topk", "relu"))
    F, D = sae.W_enc.shape
    site = str(sae.about.get("site", "unknown"))
    settings = {
        "hook_point_in": site,
        "hook_point_out": str(sae.about.get("site_out", site)),
        "d_model": D,
        "d_sae": F,
        "expansion_factor": F / D,
        "act_fn": sae.activation["kind"],
        "jump_relu_threshold": _one_threshold(sae.threshold),
        "top_k": sae.activation.get("k", F),
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": D**0.5, "out": D**0.5},
        "sparsity_include_decoder_norm": False,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": sae.centred,
        "use_glu_encoder": False,
    }
    data = safetensors_bytes(linear(sae))
    write_bytes(to / "checkpoints" / "final.safetensors", data)
    write_bytes(to / _CONFIG, json_bytes(settings))


def _one_threshold(threshold: Floats | None) -> float:
    if threshold is None:
        return 0.0
    least, most = float(threshold.min()), float(threshold.max())
    if least < most or least < 0:
        raise SpecError(
            f"this SAE cannot be written as {NAME}: the format holds one threshold, 0 or more, for "
            f"all latents, and these go from {least:g} to {most:g}"
        )
    return least


def linear(sae: SAEArrays) -> dict[str, Floats]:
    """Weights by the names that lm_saes has for its linear layers."""
    return {
        "encoder.weight": sae.W_enc,
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T,
        "decoder.bias": sae.b_dec,
    }


def _config(found: Files) -> str:
    above = f"../{_CONFIG}"
    return above if found.is_file and not found.has(_CONFIG) else _CONFIG
