"""dictionary_learning: `ae.pt`, a state dict of one of seven classes, and `config.json` beside it.

The class shows in the names of the tensors, but for AutoEncoderTopK and BatchTopKSAE, which have
the same: `config.json` tells those apart. An `ae.pt` that `backup_steps` wrote is a dict of another
kind {step, ae, optimizer, config, norm_factor} with biases for activations divided by norm_factor;
what is saved at the end has them multiplied back. Checked against commit 60ec6bf and dictionary-
learning 0.1.0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds
from reseed.formats.checks import Format, Weights, about, named, shown, stored, texts
from reseed.formats.containers.arrays import Arrays
from reseed.formats.containers.torch_file import torch_bytes
from reseed.formats.containers.wrappings import unwrapped
from reseed.formats.files import Files
from reseed.formats.settings_near import settings_near
from reseed.records import SAEArrays
from reseed.store import json_bytes, write_bytes

_WEIGHTS, _CFG = "ae.pt", "config.json"

_BACKUP = frozenset({"step", "ae", "config"})

_ENDINGS = (".pt", ".pth")  # other formats have the same names in other containers

_RELU, _UNCENTRED, _GATED, _JUMPRELU = (
    "AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder",
)  # fmt: skip

_TOPK, _BATCH, _MATRYOSHKA = "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"

_ANYBODY = (
    "the names of its arrays are those of AutoEncoderNew and of any two linear layers, and no "
    "settings say which; it is read as a ReLU. If it is of a class of your own, read it as "
    "home_made, with rule=..."
)

_TRAINERS = {"TopKTrainer": _TOPK, "BatchTopKTrainer": _BATCH}


def _linear(b_dec: str) -> dict[str, tuple[str, str]]:
    return {
        "W_enc": ("encoder.weight", "FD"),
        "W_dec": ("decoder.weight", "DF"),
        "b_enc": ("encoder.bias", "F"),
        "b_dec": (b_dec, "D"),
    }


_MATRICES = named(W_enc="DF", b_enc="F", W_dec="FD", b_dec="D")

_LAYOUTS = {
    _RELU: _linear("bias"),
    _UNCENTRED: _linear("decoder.bias"),
    _GATED: _linear("decoder_bias") | {"b_enc": ("mag_bias", "F")},
    _JUMPRELU: _MATRICES | {"threshold": ("threshold", "F")},
    _TOPK: _linear("b_dec"),
    _BATCH: _linear("b_dec"),
    _MATRYOSHKA: _MATRICES,
}

_MORE = {
    _GATED: {"r_mag", "gate_bias"},
    _TOPK: {"k", "threshold"},
    _BATCH: {"k", "threshold"},
    _MATRYOSHKA: {"k", "threshold", "group_sizes"},
}

TENSORS: Mapping[str, frozenset[str]] = {
    name: frozenset(key for key, _ in layout.values()) | _MORE.get(name, set())
    for name, layout in _LAYOUTS.items()
}
"""Class to the names of its tensors."""


def _candidates(keys: Collection[str]) -> list[str]:
    """Classes with these tensors; two for topk.

    Files of before 2025 have no topk threshold, and those of before that no k among the tensors.
    """
    late = {"k", "threshold"} if {"b_dec", "encoder.weight"} <= set(keys) else set[str]()
    names = frozenset({*keys, "threshold"} if "k" in keys else keys) | late
    return [name for name, wanted in TENSORS.items() if names == wanted]


# -- reading -------------------------------------------------------------------------------------


def _file(files: Files) -> str:
    return files.path.name if files.is_file else _WEIGHTS


def _recognise(files: Files) -> bool:
    name = _file(files)
    keys = files.keys(name) if name.endswith(_ENDINGS) else ()
    candidates = _candidates(keys)
    if candidates != [_UNCENTRED] or _config(files):
        return bool(candidates) or set(keys) >= _BACKUP
    # two linear layers are anybody's: with settings of another training they are not of this
    with contextlib.suppress(SpecError, StoreError):
        return (settings_near(files, files.torch_dict(name)).rule() or ("relu", None))[0] == "relu"
    return False


def _read(files: Files, *, dict_class: str | None = None) -> SAEArrays:
    """Read any of the seven classes, or a backup.

    `dict_class` is needed where no `config.json` tells AutoEncoderTopK from BatchTopKSAE.
    """
    name = _file(files)
    state, where = files.torch_dict(name), str(files.folder / name)
    settings = settings_near(files, state)
    config, factor, folded, notes = _config(files), 1.0, list[str](), list[str]()
    if state.keys() >= _BACKUP:
        outer, state = state, state["ae"]
        if not isinstance(state, Arrays):
            raise StoreError(f"{where}: ae is no state dict")
        state = unwrapped(state)
        inside = outer["config"]
        config = inside if isinstance(inside, Mapping) else config
        factor = _norm_factor(outer.get("norm_factor"), where)
        notes.append("a backup from the middle of a training")
    dict_class = _class_of(state.keys(), config, dict_class, where)
    weights = Weights(arrays=_with_k(state, config), where=where)
    sae = _READERS[dict_class](weights, weights.fields(_LAYOUTS[dict_class]), notes)
    settings.check(files.folder / name, sae, f"as its arrays are those of {dict_class}")
    if dict_class == _UNCENTRED and not settings.rules:
        notes.append(_ANYBODY)
    if factor != 1.0:
        sae = _scaled_back(sae, factor)
        folded.append(f"biases and threshold multiplied by the norm factor {factor:g}")
    if dict_class == _GATED:
        folded.append("the gate is a threshold mag_bias - exp(r_mag) gate_bias")
    facts = {"subject": config.get("lm_name"), "site": config.get("submodule_name")}
    facts |= {key: config.get(key) for key in ("layer", "seed", "steps", "lr")}
    facts["dict_class"] = dict_class
    return replace(sae, about=about(folded, notes, facts))


def _config(files: Files) -> Mapping[str, Any]:
    """Settings of the trainer: beside the file, or one up for `checkpoints/ae_N.pt`."""
    for name in (_CFG, f"../{_CFG}") if files.is_file else (_CFG,):
        trainer = files.settings(name).get("trainer")
        if isinstance(trainer, dict):
            return trainer
    return {}


def _class_of(
    keys: Collection[str], config: Mapping[str, Any], chosen: str | None, where: str
) -> str:
    fitting = _candidates(keys)
    if not fitting:
        raise SpecError(f"{where} is of no class of dictionary_learning; it has {shown(keys)}")
    named = chosen or _TRAINERS.get(str(config.get("trainer_class")), config.get("dict_class"))
    if len(fitting) == 1:
        return fitting[0]
    if named not in fitting:
        raise SpecError(
            f"{where} is an {_TOPK} or a {_BATCH}: both have these tensors, and no config.json "
            "beside it tells which. Get its config.json too, or give dict_class."
        )
    return str(named)


def _with_k(state: Arrays, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the k of the settings, where a topk is of before it was among the tensors."""
    if "k" in state or "b_dec" not in state or "k" not in config:
        return state
    return {**state, "k": config["k"]}


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


# -- the classes: (weights, fields, notes) to an SAE in the units of its file --------------------

_Reader = Callable[[Weights, dict[str, Any], list[str]], SAEArrays]


def _relu(weights: Weights, fields: dict[str, Any], notes: list[str]) -> SAEArrays:
    return SAEArrays(**fields, activation={"kind": "relu"}, about={})


def _uncentred(weights: Weights, fields: dict[str, Any], notes: list[str]) -> SAEArrays:
    return SAEArrays(**fields, activation={"kind": "relu"}, centred=False, about={})


def _gated(weights: Weights, fields: dict[str, Any], notes: list[str]) -> SAEArrays:
    r_mag, b_gate = weights.take("r_mag", "F"), weights.take("gate_bias", "F")
    W_enc, threshold = folds.gate_as_threshold(fields["W_enc"], r_mag, fields["b_enc"], b_gate)
    fields |= {"W_enc": W_enc, "threshold": threshold}
    return SAEArrays(**fields, activation={"kind": "jumprelu"}, about={})


def _jumprelu(weights: Weights, fields: dict[str, Any], notes: list[str]) -> SAEArrays:
    notes.append(
        "whether b_dec was subtracted from the input is not saved by JumpReluAutoEncoder; it is "
        "read as not, its default"
    )
    return SAEArrays(**fields, activation={"kind": "jumprelu"}, centred=False, about={})


def _topk(weights: Weights, fields: dict[str, Any], notes: list[str]) -> SAEArrays:
    return SAEArrays(**fields, activation={"kind": "topk", "k": _k(weights)}, about={})


def _batch(weights: Weights, fields: dict[str, Any], notes: list[str]) -> SAEArrays:
    """BatchTopK: its threshold for each latent, or the batch rule where it was never set."""
    value = weights.number("threshold") if "threshold" in weights.arrays else -1.0
    if value < 0:
        notes.append(
            "its threshold was never set (-1), so it has no rule for single rows; the batch rule "
            "of training is used, where codes depend on the other rows"
        )
        return SAEArrays(**fields, activation={"kind": "batchtopk", "k": _k(weights)}, about={})
    fields["threshold"] = np.full(len(fields["W_enc"]), value, np.float32)
    return SAEArrays(**fields, activation={"kind": "jumprelu"}, about={})


def _k(weights: Weights) -> int:
    k = weights.number("k")
    if not k.is_integer():
        raise StoreError(f"{weights.where}: k should be a whole number, not {k}")
    return int(k)


_READERS: Mapping[str, _Reader] = {
    _RELU: _relu,
    _UNCENTRED: _uncentred,
    _GATED: _gated,
    _JUMPRELU: _jumprelu,
    _TOPK: _topk,
    _BATCH: _batch,
    _MATRYOSHKA: _batch,
}


def _write(to: Path, sae: SAEArrays) -> None:
    """Write `ae.pt` and `config.json` into a folder (or a `.pt` file and `config.json` beside it).

    topk becomes AutoEncoderTopK, batchtopk BatchTopKSAE without a threshold, jumprelu
    JumpReluAutoEncoder, and relu AutoEncoder or, where b_dec is not subtracted, AutoEncoderNew.
    """
    kind, more = sae.activation["kind"], dict[str, Any]()
    dict_class = {"relu": _RELU, "jumprelu": _JUMPRELU, "topk": _TOPK, "batchtopk": _BATCH}[kind]
    if kind == "jumprelu":
        sae = folds.uncentred(sae)
    elif kind == "relu":
        dict_class = _RELU if sae.centred else _UNCENTRED
    else:
        sae = folds.centred(sae)
        more = {"k": np.int32(sae.activation["k"]), "threshold": np.float32(-1)}
    F, D = sae.W_enc.shape
    trainer: dict[str, Any] = {"dict_class": dict_class, "activation_dim": D, "dict_size": F}
    if "k" in sae.activation:
        trainer["k"] = sae.activation["k"]
    trainer |= texts(sae.about, {"lm_name": "subject", "submodule_name": "site"})
    tensors = stored(sae, _LAYOUTS[dict_class]) | more
    is_file = to.suffix == ".pt"
    write_bytes(to if is_file else to / _WEIGHTS, torch_bytes(tensors))
    write_bytes((to.parent if is_file else to) / _CFG, json_bytes({"trainer": trainer}))


FORMATS = (
    Format(
        name="dictionary_learning",
        recognise=_recognise,
        read=_read,
        write=_write,
        notes=(_CFG,),
        choices=("dict_class",),
        kinds=("relu", "jumprelu", "topk", "batchtopk"),
    ),
)
