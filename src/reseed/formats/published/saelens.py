"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`.

`W_enc [D, F]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`; `threshold [F]` of jumprelu, `b_gate`,
`b_mag`, `r_mag [F]` of gated (which has no b_enc), `W_skip [E, D]`, a scalar `topk_threshold` in
training files of batchtopk. Settings of before version 6 are read, not written. A checkpoint holds
weights for scaled activations; the factor lies in `activation_scaler.json`. As of sae-lens 6.54.12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds
from reseed.formats.checks import Format, Weights, about, flag, named, natural, stored, texts
from reseed.formats.files import Files
from reseed.formats.settings_near import kind_of
from reseed.formats.site_names import conventions, lens_name, processed
from reseed.records import SAEArrays, is_transcoder
from reseed.store import json_bytes, safetensors_bytes, write_bytes

_CFG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
_SCALER, _WHITENING = "activation_scaler.json", "activation_whitening.safetensors"

_WRITTEN_AS = "6.54.12"
"""Version whose files are written; anything below 6.0.0-rc.0 is parsed by older rules."""

_LAYOUT = named(W_enc="DF", b_enc="F", W_dec="FE", b_dec="E", threshold="F", W_skip="ED")

_NAMES = {"model_name": "subject", "hook_name": "hook"}

_KINDS = {
    **dict.fromkeys(("standard", "transcoder", "skip_transcoder"), "relu"),
    **dict.fromkeys(("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"), "jumprelu"),
    **dict.fromkeys(("batchtopk", "matryoshka_batchtopk"), "batchtopk"),
    "topk": "topk",
    "gated": "gated",
}

_WITHOUT_COUNTERPART = {
    "abstopk": "its latents fire with both signs",
    "matching_pursuit": "its codes come from several steps, each on what the last left over",
    "temporal": "its codes depend on the tokens before",
}

_AVERAGE, _WHITENED = "expected_average_only_in", "covariance_whitening"

_NORMALISATIONS = ("none", _AVERAGE, "constant_norm_rescale", "layer_norm", _WHITENED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What decides how the weights are read, and what was done on the way."""

    kind: str
    sizes: dict[str, int]
    k: int
    dtype: str
    centred: bool
    skip: bool
    rescaled: bool
    """whether codes are compared after multiplication by decoder norms"""
    normalisation: str
    facts: Mapping[str, Any]
    folded: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


def _settings(cfg: Mapping[str, Any], where: str) -> _Settings:
    """Check the settings; SAELens itself ignores misspelt keys."""
    metadata = cfg.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise StoreError(f"{where}: metadata should be a table")
    version = cfg.get("sae_lens_version") or metadata.get("sae_lens_version")
    number = re.match(r"(\d+)\.", version) if isinstance(version, str) else None
    old = number is None or int(number[1]) < 6
    if old:
        cfg = metadata = _modern(cfg, where)
    architecture = _known(str(cfg.get("architecture", "standard" if old else "")), where)
    kind, transcoder = _KINDS[architecture], "transcoder" in architecture
    if (other := kind_of(str(cfg.get("activation_fn")))) not in (None, "relu", kind):
        raise SpecError(f"{where}: architecture {architecture!r}, but activation_fn is {other}")
    D, F = natural(cfg, "d_in", where), natural(cfg, "d_sae", where)
    return _Settings(
        kind=kind,
        sizes={"D": D, "F": F, "E": natural(cfg, "d_out", where) if transcoder else D},
        k=natural(cfg, "k", where) if kind == "topk" else 0,
        dtype=str(cfg.get("dtype", "float32")).removeprefix("torch."),
        centred=not transcoder and flag(cfg, "apply_b_dec_to_input", where, default=True),
        skip="skip" in architecture,
        rescaled=kind in ("topk", "batchtopk")
        and flag(cfg, "rescale_acts_by_decoder_norm", where, default=kind == "batchtopk"),
        normalisation=_normalisation(cfg, where, transcoder=transcoder),
        facts={
            "subject": metadata.get("model_name"),
            "site": metadata.get("hook_name"),
            "architecture": architecture,
            "sae_lens_version": version,
            "reshape_activations": cfg.get("reshape_activations"),
            **conventions({**cfg, **metadata}),
        },
        notes=["the settings are of before version 6 of SAELens"] if old else [],
    )


def _modern(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of before version 6 under the names of today."""
    names = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    new = {names.get(key, key): value for key, value in cfg.items()}
    activation = new.get("activation_fn", "relu")
    if activation == "topk":
        kwargs = new.get("activation_fn_kwargs")
        new["architecture"] = "topk"
        new["k"] = kwargs.get("k") if isinstance(kwargs, dict) else None
    elif activation != "relu":
        raise SpecError(f"{where}: the activation function {activation!r} has no counterpart here")
    scaled = new.get("normalize_activations")
    if isinstance(scaled, bool):
        new["normalize_activations"] = _AVERAGE if scaled else "none"
    return new


def _known(architecture: str, where: str) -> str:
    if architecture in _WITHOUT_COUNTERPART:
        raise SpecError(
            f"{where}: an SAE of architecture {architecture!r} cannot be read, because "
            f"{_WITHOUT_COUNTERPART[architecture]}"
        )
    if architecture not in _KINDS:
        raise StoreError(
            f"{where}: architecture {architecture!r} is not known; known are {', '.join(_KINDS)}"
        )
    return architecture


def _normalisation(cfg: Mapping[str, Any], where: str, *, transcoder: bool) -> str:
    name = cfg.get("normalize_activations") or "none"
    if name not in _NORMALISATIONS:
        raise StoreError(f"{where}: normalize_activations {name!r} is not known")
    if name == "constant_norm_rescale":
        why = "which cannot be folded into weights and has no counterpart here"
        raise SpecError(f"{where}: each row is scaled to one length at run time, {why}")
    if transcoder and name != "none":
        why = "without scaling its output back has no counterpart here"
        raise SpecError(f"{where}: a transcoder that normalises its input ({name}) {why}")
    return name


def _recognise(files: Files) -> bool:
    return (
        files.means(_CFG, _WEIGHTS)
        and {"d_in", "d_sae"} <= files.settings(_CFG).keys()
        and {"W_enc", "W_dec", "b_dec"} <= files.keys(_WEIGHTS)
    )


def _read(files: Files) -> SAEArrays:
    cfg = _settings(files.json(_CFG), str(files.folder / _CFG))
    arrays, where = files.tensors(_WEIGHTS), str(files.folder / _WEIGHTS)
    sae = _as_stored(cfg, Weights(arrays=arrays, where=where, sizes=cfg.sizes))
    if cfg.rescaled:
        # in the units of the file, since norms of whitened decoders differ from those of raw ones;
        # the threshold is compared with codes that are multiplied already
        norms, threshold = folds.decoder_norms(sae), sae.threshold
        sae = replace(folds.rescaled(sae, norms), threshold=threshold)
        cfg.folded.append("codes multiplied by the norms of decoder rows")
    sae = _in_raw_units(files, cfg, sae)
    record = about(cfg.folded, [*cfg.notes, *processed(cfg.facts)], cfg.facts)
    return replace(sae, normalised=cfg.normalisation == "layer_norm", about=record)


def _as_stored(cfg: _Settings, weights: Weights) -> SAEArrays:
    """The SAE in the units of the file, its rule as one of ours."""
    names = ["W_enc", "W_dec", "b_dec"] + (["W_skip"] if cfg.skip else [])
    fields = weights.fields({name: _LAYOUT[name] for name in names})
    fields["b_enc"] = weights.take("b_mag" if cfg.kind == "gated" else "b_enc", "F")
    rule: dict[str, Any] = {"kind": cfg.kind}
    if cfg.kind == "gated":
        gate = (weights.take("r_mag", "F"), fields["b_enc"], weights.take("b_gate", "F"))
        fields["W_enc"], fields["threshold"] = folds.gate_as_threshold(fields["W_enc"], *gate)
        rule["kind"] = "jumprelu"
        cfg.folded.append("the gate is a threshold b_mag - exp(r_mag) b_gate")
    elif cfg.kind == "batchtopk":
        threshold = weights.number("topk_threshold")
        fields["threshold"] = np.full(cfg.sizes["F"], threshold, np.float32)
        rule["kind"] = "jumprelu"
        cfg.folded.append("the threshold of all latents that training kept is each latent's")
        if threshold == 0:
            cfg.notes.append("the threshold is 0 as at the start of training: it was never set")
    elif cfg.kind == "jumprelu" and "log_threshold" in weights.arrays:
        fields["threshold"] = np.exp(weights.take("log_threshold", "F"))
    elif cfg.kind == "jumprelu":
        fields["threshold"] = weights.take("threshold", "F")
        if cfg.dtype in ("bfloat16", "float16"):
            cfg.notes.append(f"thresholds were stored in {cfg.dtype}, which may round them away")
    elif cfg.kind == "topk":
        rule["k"] = cfg.k
    for key in ("scaling_factor", "finetuning_scaling_factor"):
        if key not in weights.arrays or ((factor := weights.take(key, "F")) == 1).all():
            continue
        fields["W_dec"] = fields["W_dec"] * factor[:, None]
        cfg.folded.append("codes multiplied by the factors of finetuning, in the decoder rows")
    weights.nothing_left(f"architecture {cfg.facts['architecture']!r}")
    return SAEArrays(**fields, activation=rule, centred=cfg.centred, about={})


def _in_raw_units(files: Files, cfg: _Settings, sae: SAEArrays) -> SAEArrays:
    """In raw units, where the file is of the middle of a training."""
    if cfg.normalisation == _WHITENED:
        return _unwhitened(files, cfg, sae)
    if cfg.normalisation != _AVERAGE:
        return sae
    factor = files.json(_SCALER).get("scaling_factor") if files.has(_SCALER) else None
    if factor is None:
        cfg.notes.append(
            "the settings say that activations were scaled by an average, but no "
            f"{_SCALER} has the factor; if the weights were not scaled back, their biases are off"
        )
        return sae
    if not isinstance(factor, float | int) or not np.isfinite(factor) or factor <= 0:
        raise StoreError(f"{files.folder / _SCALER}: a scaling_factor of {factor!r} is no scale")
    cfg.folded.append(f"activations were scaled by {factor:g}")
    sae = folds.unscaled(sae, float(factor))
    # decoder rows that had norm 1 get it back, as SAELens has it in what it saves at the end
    return folds.rescaled(sae, np.full(cfg.sizes["F"], 1 / factor)) if cfg.rescaled else sae


def _unwhitened(files: Files, cfg: _Settings, sae: SAEArrays) -> SAEArrays:
    if not files.has(_WHITENING):
        raise SpecError(
            f"{files.folder} was trained on whitened activations, and {_WHITENING} is not there; "
            "without it the weights cannot be brought to raw units"
        )
    cfg.folded.append("the whitening of the activations")
    arrays, where = files.tensors(_WHITENING), str(files.folder / _WHITENING)
    weights = Weights(arrays=arrays, where=where, sizes={"D": cfg.sizes["D"]})
    matrices = (weights.take(name, "DD") for name in ("matrix", "inverse_matrix"))
    return folds.unwhitened(sae, weights.take("mean", "D"), *matrices)


def _write(folder: Path, sae: SAEArrays) -> None:
    """Write as `SAE.load_from_disk` of SAELens 6 reads it."""
    architecture = _architecture(sae)
    transcoder = architecture.endswith("transcoder")
    if transcoder:
        sae = folds.uncentred(sae)
    (F, D), E = sae.W_enc.shape, sae.W_dec.shape[1]
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": "layer_norm" if sae.normalised else "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": _WRITTEN_AS}
        | conventions(sae.about)
        | texts({**sae.about, "hook": lens_name(str(sae.about.get("site", "")))}, _NAMES),
    }
    if architecture == "topk":
        cfg |= {"k": sae.activation["k"], "rescale_acts_by_decoder_norm": False}
    if transcoder:
        cfg["d_out"] = E
    write_bytes(folder / _WEIGHTS, safetensors_bytes(stored(sae, _LAYOUT)))
    write_bytes(folder / _CFG, json_bytes(cfg))


def _architecture(sae: SAEArrays) -> str:
    kind = sae.activation["kind"]
    if not is_transcoder(sae):
        return "standard" if kind == "relu" else kind
    if kind == "topk":
        raise SpecError("SAELens has no transcoder with topk, only with relu and jumprelu")
    if sae.normalised:
        raise SpecError("SAELens' transcoders do not scale back what they normalised, this does")
    parts = ([] if kind == "relu" else [kind]) + (["skip"] if sae.W_skip is not None else [])
    return "_".join([*parts, "transcoder"])


FORMATS = (
    Format(
        name="saelens",
        recognise=_recognise,
        read=_read,
        write=_write,
        kinds=("topk", "relu", "jumprelu"),
        skip=True,
        normalised=True,
        transcoder=True,
        notes=("cfg.json", "metadata"),
    ),
)
