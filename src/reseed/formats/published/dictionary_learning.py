"""dictionary_learning: `ae.pt`, a state dict of one of seven classes, and `config.json` beside it.

The class shows in the names of the tensors, but for AutoEncoderTopK and BatchTopKSAE, which have
the same: `config.json` tells those apart. An `ae.pt` that `backup_steps` wrote is a dict of another
kind {step, ae, optimizer, config, norm_factor} with biases for activations divided by norm_factor;
what is saved at the end has them multiplied back. Checked against commit 60ec6bf and dictionary-
learning 0.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds
from reseed.formats.checks import Weights, about, shown
from reseed.formats.files import Files
from reseed.formats.published.dictionary_classes import BATCH, TOPK, candidates, sae_of
from reseed.formats.torch_file import torch_bytes
from reseed.records import SAEArrays
from reseed.store import json_bytes, write_bytes

NAME = "dictionary_learning"

_WEIGHTS, _CFG = "ae.pt", "config.json"

_TRAINERS = {"TopKTrainer": TOPK, "BatchTopKTrainer": BATCH}

_BACKUP = frozenset({"step", "ae", "config"})

_ENDINGS = (".pt", ".pth")
"""Other formats have the same names in other containers."""


def recognise(found: Files) -> bool:
    """A folder with such an `ae.pt`, or a `.pt` file like it."""
    name = _file(found)
    keys = found.keys(name) if name.endswith(_ENDINGS) else frozenset[str]()
    return keys >= _BACKUP or bool(candidates(keys))


def read(found: Files, *, dict_class: str | None = None, **which: Any) -> SAEArrays:
    """Read any of the seven classes, or a backup.

    Args:
        found: the folder of a trainer, or one of its `.pt` files.
        dict_class: the class, where no `config.json` tells AutoEncoderTopK from BatchTopKSAE.
        which: choices of other formats; not used.

    Raises:
        SpecError: if the class cannot be told.
        StoreError: if a file is damaged.
    """
    name = _file(found)
    state, where = found.torch_dict(name), str(found.folder / name)
    config, factor, folded, warnings = _config(found), 1.0, list[str](), list[str]()
    if state.keys() >= _BACKUP:
        outer, state = state, state["ae"]
        if not isinstance(state, Mapping):
            raise StoreError(f"{where}: ae is no state dict")
        inside = outer["config"]
        config = inside if isinstance(inside, Mapping) else config
        factor = _norm_factor(outer.get("norm_factor"), where)
        warnings.append("a backup from the middle of a training")
    found_class = _class_of(state.keys(), config, dict_class, where)
    weights = Weights(arrays=state, where=where)
    sae = sae_of(found_class, weights, warnings)
    if factor != 1.0:
        sae = _scaled_back(sae, factor)
        folded.append(f"biases and threshold multiplied by the norm factor {factor:g}")
    if found_class == "GatedAutoEncoder":
        folded.append("the gate is a threshold mag_bias - exp(r_mag) gate_bias")
    facts = {"subject": config.get("lm_name"), "site": config.get("submodule_name")}
    facts |= {key: config.get(key) for key in ("layer", "seed", "steps", "lr")}
    facts["dict_class"] = found_class
    return replace(sae, about=about(NAME, folded, warnings, facts))


def _file(found: Files) -> str:
    return found.path.name if found.is_file else _WEIGHTS


def _config(found: Files) -> Mapping[str, Any]:
    """Settings of the trainer: beside the file, or one up for `checkpoints/ae_N.pt`."""
    for name in (_CFG, f"../{_CFG}") if found.is_file else (_CFG,):
        trainer = found.settings(name).get("trainer")
        if isinstance(trainer, dict):
            return trainer
    return {}


def _class_of(keys: Any, config: Mapping[str, Any], given: str | None, where: str) -> str:
    fitting = candidates(frozenset(keys))
    if not fitting:
        raise SpecError(f"{where} is of no class of dictionary_learning; it has {shown(keys)}")
    told = given or _TRAINERS.get(str(config.get("trainer_class")), config.get("dict_class"))
    if len(fitting) == 1:
        return fitting[0]
    if told not in fitting:
        raise SpecError(
            f"{where} is an {TOPK} or a {BATCH}: both have these tensors, and no config.json "
            "beside it tells which. Get its config.json too, or give dict_class."
        )
    return str(told)


def _norm_factor(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    factor = float(value) if isinstance(value, int | float | np.ndarray) else np.nan
    if not np.isfinite(factor) or factor <= 0:
        raise StoreError(f"{where}: a norm_factor of {value!r} is no scale")
    return factor


def _scaled_back(sae: SAEArrays, factor: float) -> SAEArrays:
    threshold = None if sae.threshold is None else (sae.threshold * factor).astype(np.float32)
    b_enc, b_dec = (sae.b_enc * factor).astype(np.float32), (sae.b_dec * factor).astype(np.float32)
    return replace(sae, b_enc=b_enc, b_dec=b_dec, threshold=threshold)


def write(folder_or_file: Path, sae: SAEArrays, **options: Any) -> None:
    """Write `ae.pt` and `config.json` into a folder (or a `.pt` file and `config.json` beside it).

    topk becomes AutoEncoderTopK, batchtopk BatchTopKSAE without a threshold, jumprelu
    JumpReluAutoEncoder, and relu AutoEncoder or, where b_dec is not subtracted, AutoEncoderNew.

    Raises:
        SpecError: if dictionary_learning cannot express it, or torch is missing.
        StoreError: if it cannot be written.
    """
    dict_class, tensors = _tensors(sae)
    is_file = folder_or_file.suffix == ".pt"
    folder = folder_or_file.parent if is_file else folder_or_file
    F, D = sae.W_enc.shape
    trainer: dict[str, Any] = {"dict_class": dict_class, "activation_dim": D, "dict_size": F}
    if "k" in sae.activation:
        trainer["k"] = sae.activation["k"]
    facts = {"lm_name": sae.about.get("subject"), "submodule_name": sae.about.get("site")}
    trainer |= {key: value for key, value in facts.items() if isinstance(value, str)}
    write_bytes(folder_or_file if is_file else folder / _WEIGHTS, torch_bytes(tensors))
    write_bytes(folder / _CFG, json_bytes({"trainer": trainer}))


def _tensors(sae: SAEArrays) -> tuple[str, dict[str, Any]]:
    kind = sae.activation["kind"]
    if kind == "groupmax":
        raise SpecError("dictionary_learning has no groupmax")
    if sae.W_skip is not None or sae.W_dec.shape[1] != sae.W_enc.shape[1]:
        raise SpecError("dictionary_learning's classes have no skip and one dimension D")
    if sae.normalised:
        raise SpecError("dictionary_learning does not normalise rows one by one, this SAE does")
    if kind == "jumprelu":
        sae = folds.uncentred(sae)
        return "JumpReluAutoEncoder", {
            "W_enc": sae.W_enc.T,
            "b_enc": sae.b_enc,
            "W_dec": sae.W_dec,
            "b_dec": sae.b_dec,
            "threshold": sae.threshold,
        }
    linear = {"encoder.weight": sae.W_enc, "decoder.weight": sae.W_dec.T}
    if kind == "relu":
        name, bias = ("AutoEncoder", "bias") if sae.centred else ("AutoEncoderNew", "decoder.bias")
        return name, {**linear, "encoder.bias": sae.b_enc, bias: sae.b_dec}
    sae = folds.centred(sae)
    return TOPK if kind == "topk" else BATCH, {
        **linear,
        "encoder.bias": sae.b_enc,
        "b_dec": sae.b_dec,
        "k": np.int32(sae.activation["k"]),
        "threshold": np.float32(-1),
    }
