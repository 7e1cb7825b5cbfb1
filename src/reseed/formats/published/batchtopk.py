"""The BatchTopK repository: a folder with `sae.pt` and `config.json`.

`W_enc [D, F]`, `W_dec [F, D]`, `b_enc [F]`, `b_dec [D]`, and `jumprelu.log_threshold [F]`. Its TopK
and BatchTopK save b_enc but never use it; no threshold for single rows is saved for BatchTopK. With
`input_unit_norm` rows are normalised one by one. Checked against commit b9aab1c.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds
from reseed.formats.checks import Weights, about, flag, whole
from reseed.formats.files import Files
from reseed.formats.torch_file import torch_bytes
from reseed.records import SAEArrays
from reseed.store import json_bytes, write_bytes

NAME = "batchtopk"

_WEIGHTS, _CFG = "sae.pt", "config.json"

_KINDS = {"vanilla": "relu", "topk": "topk", "batchtopk": "batchtopk", "jumprelu": "jumprelu"}

_LOG = "jumprelu.log_threshold"


def recognise(found: Files) -> bool:
    """A folder whose settings have `sae_type` and whose weights have this repository's names."""
    return (
        found.means(_CFG, _WEIGHTS)
        and {"sae_type", "act_size", "dict_size"} <= found.settings(_CFG).keys()
        and {"W_enc", "W_dec", "b_enc", "b_dec"} <= found.keys(_WEIGHTS)
    )


def read(found: Files, **which: Any) -> SAEArrays:
    """Read an SAE of this repository.

    Raises:
        SpecError: if it is of a kind that has no counterpart here.
        StoreError: if a file is damaged, or settings and weights do not fit.
    """
    cfg, where = found.json(_CFG), str(found.folder / _CFG)
    kind = _KINDS.get(str(cfg.get("sae_type")))
    if kind is None:
        raise SpecError(
            f"{where}: sae_type {cfg.get('sae_type')!r} is not read; known are {', '.join(_KINDS)}"
        )
    if cfg.get("activation", "relu") != "relu" or cfg.get("tied_weights"):
        raise SpecError(f"{where}: only SAEs with relu and a decoder of their own are read")
    sizes = {"D": whole(cfg, "act_size", where), "F": whole(cfg, "dict_size", where)}
    weights = Weights(
        arrays=found.torch_dict(_WEIGHTS), where=str(found.folder / _WEIGHTS), sizes=sizes
    )
    folded, warnings = list[str](), list[str]()
    b_enc = weights.take("b_enc", "F")
    if kind in ("topk", "batchtopk") and not cfg.get("use_encoder_bias"):
        if b_enc.any():
            folded.append("b_enc is left out: it is saved, but its class never uses it")
        b_enc = np.zeros_like(b_enc)
    if kind == "batchtopk":
        warnings.append(
            "no threshold is saved, so it has no rule for single rows; the batch rule of training "
            "is used, where codes depend on the other rows"
        )
    rule: dict[str, Any] = {"kind": kind}
    if kind in ("topk", "batchtopk"):
        rule["k"] = whole(cfg, "top_k", where)
    keys = {"subject": "model_name", "site": "hook_point", "seed": "seed", "layer": "layer"}
    facts = {name: cfg.get(key) for name, key in keys.items()}
    return SAEArrays(
        W_enc=weights.take("W_enc", "DF", to="FD"),
        b_enc=b_enc,
        W_dec=weights.take("W_dec", "FD"),
        b_dec=weights.take("b_dec", "D"),
        threshold=_threshold(weights) if kind == "jumprelu" else None,
        activation=rule,
        # its JumpReLU can be called with b_dec subtracted, but never is by its training
        centred=kind != "jumprelu",
        normalised=flag(cfg, "input_unit_norm", where, default=False),
        about=about(NAME, folded, warnings, facts),
    )


def _threshold(weights: Weights) -> Any:
    with np.errstate(over="ignore"):
        threshold = np.exp(weights.take(_LOG, "F"))
    if not np.isfinite(threshold).all():
        raise StoreError(f"{weights.where}: {_LOG} is too large to be the logarithm of a threshold")
    return threshold


def write(folder_or_file: Path, sae: SAEArrays, **options: Any) -> None:
    """Write into a folder, as `load_state_dict` of its classes takes it.

    Raises:
        SpecError: if this repository cannot express it, or torch is missing.
        StoreError: if the folder cannot be written.
    """
    kind = sae.activation["kind"]
    name = {kind: name for name, kind in _KINDS.items()}.get(kind)
    if name is None:
        raise SpecError(f"the BatchTopK repository has {', '.join(_KINDS.values())}, not {kind}")
    if sae.W_skip is not None or sae.W_dec.shape[1] != sae.W_enc.shape[1]:
        raise SpecError("the BatchTopK repository has no skip and no transcoders")
    sae = folds.uncentred(sae) if kind == "jumprelu" else folds.centred(sae)
    if kind in ("topk", "batchtopk") and sae.b_enc.any():
        raise SpecError(
            f"{kind} of the BatchTopK repository has no encoder bias, this SAE has one (up to "
            f"{np.abs(sae.b_enc).max():.3g} with b_dec subtracted from the input)"
        )
    if sae.threshold is not None and (sae.threshold <= 0).any():
        # relu comes before the threshold there, so all thresholds at or below 0 do the same
        least = np.finfo(np.float32).tiny
        sae = replace(sae, threshold=np.maximum(sae.threshold, least).astype(np.float32))
    (F, D) = sae.W_enc.shape
    tensors: dict[str, Any] = {
        "W_enc": sae.W_enc.T,
        "W_dec": sae.W_dec,
        "b_enc": sae.b_enc,
        "b_dec": sae.b_dec,
    }
    if sae.threshold is not None:
        tensors[_LOG] = np.log(sae.threshold.astype(np.float64)).astype(np.float32)
    cfg: dict[str, Any] = {
        "sae_type": name,
        "act_size": D,
        "dict_size": F,
        "input_unit_norm": sae.normalised,
        "top_k": sae.activation.get("k", 0),
        "dtype": "torch.float32",
    }
    facts = {"model_name": sae.about.get("subject"), "hook_point": sae.about.get("site")}
    cfg |= {key: value for key, value in facts.items() if isinstance(value, str)}
    write_bytes(folder_or_file / _WEIGHTS, torch_bytes(tensors))
    write_bytes(folder_or_file / _CFG, json_bytes(cfg))
