"""The Llama Scope family: three ways in which lm_saes and llamascopium (OpenMOSS) kept SAEs.

`llama_scope` (arXiv 2410.20526, lm_saes 0.x): `hyperparams.json` beside
`checkpoints/final.safetensors` (or `pruned.safetensors`, or `.pt`): `encoder.weight [F, D]`,
`encoder.bias [F]`, `decoder.weight [D, F]`, `decoder.bias [D]`. Their loader first folds the
dataset-wise norms, then, with `sparsity_include_decoder_norm`, scales decoder rows to length 1 and
encoder rows by what was taken out; the threshold, one number, is compared with what comes out of
that, so it is in raw units.

`llama_scope_r1` (R1-Distill, 2025): `config.json` beside `sae_weights.safetensors`, the same
arrays, for JumpReLU `log_jumprelu_threshold [F]`, and the norms
`dataset_average_activation_norm.HOOK`. All numbers are in units of the scaled rows, the thresholds
too; with `sparsity_include_decoder_norm` the rule looks at p times the length of the decoder row
and lets p through.

`llamascopium` 2: the same with `W_E [D, F]`, `b_E [F]`, `W_D [F, D]`, `b_D [D]`,
`activation_function.log_jumprelu_threshold [F]`, in `sae_weights.safetensors` or `sae_weights.pt`;
norms are uninitialised memory where none were measured. Their own folding
(`standardize_parameters_of_dataset_norm`) leaves thresholds as they are, so for JumpReLU it gives
another SAE than the one trained; here they are folded with the rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import Format, Layout, about, flag, natural, stored
from reseed.formats.files import Files
from reseed.formats.folds import decoder_norms, rescaled, uncentred
from reseed.formats.published.lm_saes import (
    as_stored,
    facts,
    gate_by_length,
    keys,
    norms_in,
    scales,
    unscaled,
    weights,
    weights_file,
    with_logarithms,
)
from reseed.records import Floats, SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

_CONFIG, _OLD_CONFIG, _WEIGHTS = "config.json", "hyperparams.json", "sae_weights.safetensors"

_LINEAR = {
    "W_enc": ("encoder.weight", "FD"),
    "b_enc": ("encoder.bias", "F"),
    "W_dec": ("decoder.weight", "DF"),
    "b_dec": ("decoder.bias", "D"),
}

_R1 = _LINEAR | {"threshold": ("log_jumprelu_threshold", "F")}

_SCOPIUM = {
    "W_enc": ("W_E", "DF"),
    "b_enc": ("b_E", "F"),
    "W_dec": ("W_D", "FD"),
    "b_dec": ("b_D", "D"),
    "threshold": ("activation_function.log_jumprelu_threshold", "F"),
}


def _common(sae: SAEArrays) -> dict[str, Any]:
    """Settings that all three have, for rows as they are."""
    site = str(sae.about.get("site", "unknown"))
    return {
        "hook_point_in": site,
        "hook_point_out": str(sae.about.get("site_out", site)),
        "d_model": sae.W_enc.shape[1],
        "act_fn": sae.activation["kind"],
        "top_k": sae.activation.get("k", len(sae.W_enc)),
        "sparsity_include_decoder_norm": False,
        "use_decoder_bias": True,
        "use_glu_encoder": False,
    }


# -- llama_scope ---------------------------------------------------------------------------------


def _config(files: Files) -> str:
    above = f"../{_OLD_CONFIG}"
    return above if files.is_file and not files.has(_OLD_CONFIG) else _OLD_CONFIG


def _recognise(files: Files) -> bool:
    """Settings of this kind lie here, or in the folder above the file."""
    return files.settings(_config(files)).keys() >= {"d_model", "act_fn", "norm_activation"}


def _read(files: Files) -> SAEArrays:
    config = _config(files)
    # as the class they were saved from takes what is not said
    settings = {"apply_decoder_bias_to_pre_encoder": True, **files.json(config)}
    where = str(files.folder / config)
    sae = as_stored(weights(files), settings, _LINEAR, where)
    norms = settings.get("dataset_average_activation_norm")
    by = scales(settings, norms if isinstance(norms, dict) else {}, sae.W_enc.shape[1], where)
    sae, folded = unscaled(sae, by), by.folded
    if flag(settings, "sparsity_include_decoder_norm", where, default=True):
        sae = rescaled(sae, decoder_norms(sae))
        folded.append("decoder rows scaled to length 1, encoder rows by what was taken out")
    sae, notes = _ruled(sae, settings, where)
    return replace(sae, about=about(folded, notes, facts(settings)))


def _ruled(sae: SAEArrays, settings: Mapping[str, Any], where: str) -> tuple[SAEArrays, list[str]]:
    rule, limit = str(settings.get("act_fn")).lower(), settings.get("jump_relu_threshold", 0.0)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit < 1e30:
        raise StoreError(f"{where}: jump_relu_threshold should be 0 or more, not {limit!r}")
    if rule == "jumprelu":
        threshold = np.full(len(sae.W_enc), limit, np.float32)
        return replace(sae, activation={"kind": "jumprelu"}, threshold=threshold), []
    if rule == "topk":
        both = (
            f"the settings say topk and also a threshold of {limit:g}; lm_saes announces to run "
            "such an SAE as JumpReLU and then runs it as TopK, and so it is read"
        )
        activation = {"kind": "topk", "k": natural(settings, "top_k", where)}
        return replace(sae, activation=activation), [both] if limit else []
    if rule != "relu":
        raise SpecError(f"{where}: act_fn {rule!r} is not known; relu, topk and jumprelu are")
    unused = f"the settings name a threshold of {limit:g}, which act_fn relu does not use"
    return sae, [unused] if limit else []


def _write(folder: Path, sae: SAEArrays) -> None:
    """Write with norms for which all scales are 1."""
    F, D = sae.W_enc.shape
    settings = _common(sae) | {
        "apply_decoder_bias_to_pre_encoder": sae.centred,
        "d_sae": F,
        "expansion_factor": F / D,
        "jump_relu_threshold": _one_threshold(sae.threshold),
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": D**0.5, "out": D**0.5},
    }
    data = safetensors_bytes(stored(sae, _LINEAR))
    write_bytes(folder / "checkpoints" / "final.safetensors", data)
    write_bytes(folder / _OLD_CONFIG, json_bytes(settings))


def _one_threshold(threshold: Floats | None) -> float:
    if threshold is None:
        return 0.0
    least, most = float(threshold.min()), float(threshold.max())
    if least < most or least < 0:
        raise SpecError(
            "this SAE cannot be written as llama_scope: the format holds one threshold, 0 or more, "
            f"for all latents, and these go from {least:g} to {most:g}"
        )
    return least


# -- llama_scope_r1 and llamascopium -------------------------------------------------------------


def _read_scaled(files: Files, layout: Layout, kinds: Collection[str]) -> SAEArrays:
    """Read an SAE whose numbers, thresholds included, are in units of the scaled rows."""
    settings, where = files.json(_CONFIG), str(files.folder / _CONFIG)
    held = weights(files)
    sae = as_stored(held, settings, layout, where)
    rule = str(settings.get("act_fn")).lower()
    if rule not in kinds:
        raise SpecError(f"{where}: act_fn {rule!r} is not read; {', '.join(kinds)} are")
    if rule == "jumprelu" and sae.threshold is None:
        raise StoreError(f"{where} says jumprelu, and the weights have no thresholds")
    if rule in ("topk", "batchtopk"):
        sae = replace(sae, activation={"kind": rule, "k": natural(settings, "top_k", where)})
    norms = {hook: held[name] for hook, name in norms_in(held).items()}
    by = scales(settings, norms, sae.W_enc.shape[1], where)
    folded = by.folded
    if flag(settings, "sparsity_include_decoder_norm", where, default=True):
        sae = gate_by_length(sae)
        folded.append("lengths of decoder rows, by which the rule scales pre-activations")
    return replace(unscaled(sae, by), about=about(folded, [], facts(settings)))


def _recognise_r1(files: Files) -> bool:
    settings = files.settings(_CONFIG).keys() >= {"d_model", "act_fn", "hook_point_in"}
    return settings and keys(files) >= {"encoder.weight", "decoder.weight"}


def _read_r1(files: Files) -> SAEArrays:
    return _read_scaled(files, _R1, ("relu", "jumprelu", "topk"))


def _write_r1(folder: Path, sae: SAEArrays) -> None:
    F, D = sae.W_enc.shape
    settings = _common(sae) | {
        "sae_type": "sae",
        "apply_decoder_bias_to_pre_encoder": sae.centred,
        "expansion_factor": F // D if F % D == 0 else F / D,
        "norm_activation": "inference",
    }
    arrays = stored(with_logarithms(sae, "llama_scope_r1"), _R1)
    write_bytes(folder / _WEIGHTS, safetensors_bytes(arrays))
    write_bytes(folder / _CONFIG, json_bytes(settings))


def _recognise_scopium(files: Files) -> bool:
    """Weights by these names, or a distributed checkpoint."""
    if not files.settings(_CONFIG).keys() >= {"sae_type", "d_model", "act_fn"}:
        return False
    return weights_file(files) is None or keys(files) >= {"W_E", "W_D"}


def _read_scopium(files: Files) -> SAEArrays:
    settings, where = files.json(_CONFIG), files.folder / _CONFIG
    if settings.get("sae_type") != "sae":
        raise SpecError(
            f"{where}: a {settings.get('sae_type')!r} has no one encoder and decoder row a latent, "
            "as SAEs and transcoders (sae_type 'sae') have"
        )
    sae = _read_scaled(files, _SCOPIUM, ("relu", "jumprelu", "topk", "batchtopk"))
    F, D = sae.W_enc.shape
    factor = settings.get("expansion_factor")
    if not isinstance(factor, int | float) or not 0 < factor < 1e9 or int(D * factor) != F:
        raise StoreError(f"{where}: expansion_factor {factor!r} times {D} is not {F} latents")
    return sae


def _write_scopium(folder: Path, sae: SAEArrays) -> None:
    sae = uncentred(sae)
    settings = _common(sae) | {
        "sae_type": "sae",
        "expansion_factor": expansion(*sae.W_enc.shape),
        "norm_activation": "inference",
        "top_k": sae.activation.get("k", 50),
    }
    arrays = stored(with_logarithms(sae, "llamascopium"), _SCOPIUM)
    write_bytes(folder / _WEIGHTS, safetensors_bytes(arrays))
    write_bytes(folder / _CONFIG, json_bytes(settings))


def expansion(F: int, D: int) -> float:
    """The expansion factor e with int(D e) = F, which is not always F / D in floating point."""
    factor = F / D
    while int(D * factor) < F:
        factor = math.nextafter(factor, math.inf)
    return factor


_KINDS = ("jumprelu", "topk", "relu")

FORMATS = (
    Format(name="llama_scope", recognise=_recognise, read=_read, write=_write, kinds=_KINDS),
    Format(
        name="llama_scope_r1", recognise=_recognise_r1, read=_read_r1, write=_write_r1, kinds=_KINDS
    ),
    Format(
        name="llamascopium",
        recognise=_recognise_scopium,
        read=_read_scopium,
        write=_write_scopium,
        kinds=(*_KINDS, "batchtopk"),
    ),
)
