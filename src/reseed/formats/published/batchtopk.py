"""The BatchTopK repository: a folder with `sae.pt` and `config.json`.

`W_enc [D, F]`, `W_dec [F, D]`, `b_enc [F]`, `b_dec [D]`, and `jumprelu.log_threshold [F]`. Its TopK
and BatchTopK save b_enc but never use it; no threshold for single rows is saved for BatchTopK, but
by later variants, a scalar `threshold`. With
`input_unit_norm` rows are normalised one by one. Checked against commit b9aab1c.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds
from reseed.formats.checks import Format, Weights, about, flag, named, natural, stored, texts
from reseed.formats.containers.torch_file import torch_bytes
from reseed.formats.files import Files
from reseed.records import Floats, SAEArrays
from reseed.store import json_bytes, write_bytes

_WEIGHTS, _CFG = "sae.pt", "config.json"

_KINDS = {"vanilla": "relu", "topk": "topk", "batchtopk": "batchtopk", "jumprelu": "jumprelu"}

_LOG, _BATCH = "jumprelu.log_threshold", "threshold"

_LAYOUT = named(W_enc="DF", W_dec="FD", b_enc="F", b_dec="D")


def _recognise(files: Files) -> bool:
    return (
        files.means(_CFG, _WEIGHTS)
        and {"sae_type", "act_size", "dict_size"} <= files.settings(_CFG).keys()
        and set(_LAYOUT) <= files.keys(_WEIGHTS)
    )


def _read(files: Files) -> SAEArrays:
    cfg, where = files.json(_CFG), str(files.folder / _CFG)
    kind = _KINDS.get(str(cfg.get("sae_type")))
    if kind is None:
        raise SpecError(
            f"{where}: sae_type {cfg.get('sae_type')!r} is not read; known are {', '.join(_KINDS)}"
        )
    if cfg.get("activation", "relu") != "relu" or cfg.get("tied_weights"):
        raise SpecError(f"{where}: only SAEs with relu and a decoder of their own are read")
    sizes = {"D": natural(cfg, "act_size", where), "F": natural(cfg, "dict_size", where)}
    weights = Weights(
        arrays=files.torch_dict(_WEIGHTS), where=str(files.folder / _WEIGHTS), sizes=sizes
    )
    folded, notes = list[str](), list[str]()
    fields = weights.fields(_LAYOUT)
    rule: dict[str, Any] = {"kind": kind}
    threshold = _threshold(weights) if kind == "jumprelu" else None
    if kind in ("topk", "batchtopk"):
        rule["k"] = natural(cfg, "top_k", where)
        if not cfg.get("use_encoder_bias"):
            if fields["b_enc"].any():
                folded.append("b_enc is left out: it is saved, but its class never uses it")
            fields["b_enc"] = np.zeros_like(fields["b_enc"])
    if kind == "batchtopk" and (value := _batch_threshold(weights)):
        rule = {"kind": "jumprelu"}
        threshold = np.full(sizes["F"], value, np.float32)
        folded.append("the threshold of all latents that training kept is each latent's")
    elif kind == "batchtopk":
        notes.append(
            f"{'a threshold of 0 says that none' if _BATCH in weights.arrays else 'no threshold'} "
            "is saved, so it has no rule for single rows; the batch rule of training is used, "
            "where codes depend on the other rows"
        )
    weights.nothing_left(f"sae_type {cfg['sae_type']!r}")
    keys = {"subject": "model_name", "site": "hook_point", "seed": "seed", "layer": "layer"}
    return SAEArrays(
        **fields,
        threshold=threshold,
        activation=rule,
        # its JumpReLU can be called with b_dec subtracted, but never is by its training
        centred=kind != "jumprelu",
        normalised=flag(cfg, "input_unit_norm", where, default=False),
        about=about(folded, notes, {name: cfg.get(key) for name, key in keys.items()}),
    )


def _threshold(weights: Weights) -> Floats:
    with np.errstate(over="ignore"):
        threshold = np.exp(weights.take(_LOG, "F"))
    if not np.isfinite(threshold).all():
        raise StoreError(f"{weights.where}: {_LOG} is too large to be the logarithm of a threshold")
    return threshold


def _batch_threshold(weights: Weights) -> float:
    """The threshold that later versions keep for single rows; 0 where none was kept."""
    value = weights.number(_BATCH) if _BATCH in weights.arrays else 0.0
    if value < 0:
        raise StoreError(f"{weights.where}: a threshold of {value:g} is below what ReLU lets pass")
    return value


def _write(folder: Path, sae: SAEArrays) -> None:
    """Write as `load_state_dict` of its classes takes it."""
    kind = sae.activation["kind"]
    sae = folds.uncentred(sae) if kind == "jumprelu" else folds.centred(sae)
    if kind in ("topk", "batchtopk") and sae.b_enc.any():
        raise SpecError(
            f"{kind} of the BatchTopK repository has no encoder bias, this SAE has one (up to "
            f"{np.abs(sae.b_enc).max():.3g} with b_dec subtracted from the input)"
        )
    F, D = sae.W_enc.shape
    tensors: dict[str, Any] = stored(sae, _LAYOUT)
    if sae.threshold is not None:
        # relu comes before the threshold there, so all thresholds at or below 0 do the same
        threshold = np.maximum(sae.threshold, np.finfo(np.float32).tiny).astype(np.float64)
        tensors[_LOG] = np.log(threshold).astype(np.float32)
    cfg: dict[str, Any] = {
        "sae_type": {kind: name for name, kind in _KINDS.items()}[kind],
        "act_size": D,
        "dict_size": F,
        "input_unit_norm": sae.normalised,
        "top_k": sae.activation.get("k", 0),
        "dtype": "torch.float32",
    }
    cfg |= texts(sae.about, {"model_name": "subject", "hook_point": "site"})
    write_bytes(folder / _WEIGHTS, torch_bytes(tensors))
    write_bytes(folder / _CFG, json_bytes(cfg))


FORMATS = (
    Format(
        name="batchtopk",
        recognise=_recognise,
        read=_read,
        write=_write,
        notes=(_CFG,),
        kinds=tuple(_KINDS.values()),
        normalised=True,
    ),
)
