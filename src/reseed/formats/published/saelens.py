"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`.

`W_enc [D, F]`, `W_dec [F, E]`, `b_enc [F]`, `b_dec [E]`; `threshold [F]` of jumprelu, `b_gate`,
`b_mag`, `r_mag [F]` of gated (which has no b_enc), `W_skip [E, D]`, a scalar `topk_threshold` in
training files of batchtopk. Settings of before version 6 are read (`saelens_cfg`), not written.
A checkpoint from the middle of a training holds weights for scaled activations; the factor lies in
`activation_scaler.json` beside it. Checked against sae-lens 6.54.12.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats import folds
from reseed.formats.checks import Weights, about
from reseed.formats.files import Files
from reseed.formats.published import saelens_cfg
from reseed.formats.published.saelens_cfg import Settings
from reseed.records import SAEArrays
from reseed.store import json_bytes, safetensors_bytes, write_bytes

NAME = "saelens"

_CFG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"

_SCALER, _WHITENING = "activation_scaler.json", "activation_whitening.safetensors"

_WRITTEN_AS = "6.54.12"
"""Version whose files are written; anything below 6.0.0-rc.0 is parsed by older rules."""

_TRANSCODERS = {
    ("relu", False): "transcoder",
    ("relu", True): "skip_transcoder",
    ("jumprelu", False): "jumprelu_transcoder",
    ("jumprelu", True): "jumprelu_skip_transcoder",
}


def recognise(found: Files) -> bool:
    """A folder whose settings have `d_in` and `d_sae` and whose weights have SAELens' names."""
    return (
        found.means(_CFG, _WEIGHTS)
        and {"d_in", "d_sae"} <= found.settings(_CFG).keys()
        and {"W_enc", "W_dec", "b_dec"} <= found.keys(_WEIGHTS)
    )


def read(found: Files, **which: Any) -> SAEArrays:
    """Read an SAE or transcoder of SAELens, of an inference or a training file.

    Raises:
        SpecError: if it is of a kind that has no counterpart here.
        StoreError: if a file is damaged, or settings and weights do not fit.
    """
    cfg = saelens_cfg.read(found.json(_CFG), str(found.folder / _CFG))
    arrays = found.tensors(_WEIGHTS)
    sizes = {"D": cfg.d_in, "F": cfg.d_sae, "E": cfg.d_out}
    weights = Weights(arrays=arrays, where=str(found.folder / _WEIGHTS), sizes=sizes)
    folded, warnings = list(cfg.notes), list(cfg.warnings)
    sae = _rule(cfg, weights, folded, warnings)
    if "finetuning_scaling_factor" in arrays or "scaling_factor" in arrays:
        sae = _finetuned(sae, weights, folded)
    if cfg.rescaled:
        # in the units of the file, since norms of whitened decoders differ from those of raw ones;
        # the threshold is compared with codes that are multiplied already
        norms, threshold = folds.decoder_norms(sae), sae.threshold
        sae = replace(folds.rescaled(sae, norms), threshold=threshold)
        folded.append("codes multiplied by the norms of decoder rows")
    sae = _unscaled(found, cfg, sae, folded, warnings)
    if cfg.normalisation == "layer_norm":
        sae = replace(sae, normalised=True)
    return replace(sae, about=about(NAME, folded, warnings, cfg.facts))


def _rule(cfg: Settings, weights: Weights, folded: list[str], warnings: list[str]) -> SAEArrays:
    """The SAE in the units of the file, its rule as one of ours."""
    W_enc, threshold = weights.take("W_enc", "DF", to="FD"), None
    rule: dict[str, Any] = {"kind": cfg.kind}
    if cfg.kind == "gated":
        r_mag, b_enc = weights.take("r_mag", "F"), weights.take("b_mag", "F")
        b_gate = weights.take("b_gate", "F")
        W_enc, threshold = folds.gate_as_threshold(W_enc, r_mag, b_enc, b_gate)
        rule["kind"] = "jumprelu"
        folded.append("the gate is a threshold b_mag - exp(r_mag) b_gate")
    else:
        b_enc = weights.take("b_enc", "F")
    if cfg.kind == "batchtopk":
        one = weights.number("topk_threshold")
        threshold, rule["kind"] = np.full(cfg.d_sae, one, np.float32), "jumprelu"
        folded.append("the threshold of all latents that training kept is each latent's")
        if one == 0:
            warnings.append("the threshold is 0 as at the start of training: it was never set")
    elif cfg.kind == "jumprelu" and "log_threshold" in weights.arrays:
        threshold = np.exp(weights.take("log_threshold", "F"))
    elif cfg.kind == "jumprelu":
        threshold = weights.take("threshold", "F")
        if cfg.dtype in ("bfloat16", "float16"):
            warnings.append(f"thresholds were stored in {cfg.dtype}, which may round them away")
    elif cfg.kind == "topk":
        rule["k"] = cfg.k
    return SAEArrays(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=weights.take("W_dec", "FE"),
        b_dec=weights.take("b_dec", "E"),
        W_skip=weights.take("W_skip", "ED") if cfg.skip else None,
        threshold=threshold,
        activation=rule,
        centred=cfg.centred,
        about={},
    )


def _finetuned(sae: SAEArrays, weights: Weights, folded: list[str]) -> SAEArrays:
    key = next(k for k in ("scaling_factor", "finetuning_scaling_factor") if k in weights.arrays)
    factor = weights.take(key, "F")
    if np.all(factor == 1):
        return sae
    folded.append("codes multiplied by the factors of finetuning: they are in the decoder rows")
    return replace(sae, W_dec=sae.W_dec * factor[:, None])


def _unscaled(
    found: Files, cfg: Settings, sae: SAEArrays, folded: list[str], warnings: list[str]
) -> SAEArrays:
    """In raw units, where the file is of the middle of a training."""
    if cfg.normalisation == "covariance_whitening":
        sae = _unwhitened(found, sae)
        folded.append("the whitening of the activations")
    scaler = found.json(_SCALER) if found.has(_SCALER) else {}
    factor = scaler.get("scaling_factor")
    if cfg.normalisation == "expected_average_only_in" and factor is None:
        warnings.append(
            "the settings say that activations were scaled by an average, but no "
            f"{_SCALER} has the factor; if the weights were not scaled back, their biases are off"
        )
    if factor is None or cfg.normalisation != "expected_average_only_in":
        return sae
    if not isinstance(factor, float | int) or not np.isfinite(factor) or factor <= 0:
        raise StoreError(f"{found.folder / _SCALER}: a scaling_factor of {factor!r} is no scale")
    folded.append(f"activations were scaled by {factor:g}")
    sae = folds.unscaled(sae, float(factor))
    # decoder rows that had norm 1 get it back, as SAELens has it in what it saves at the end
    return folds.rescaled(sae, np.full(cfg.d_sae, 1 / factor)) if cfg.rescaled else sae


def _unwhitened(found: Files, sae: SAEArrays) -> SAEArrays:
    if not found.has(_WHITENING):
        raise SpecError(
            f"{found.folder} was trained on whitened activations, and {_WHITENING} is not there; "
            "without it the weights cannot be brought to raw units"
        )
    D = sae.W_enc.shape[1]
    weights = Weights(
        arrays=found.tensors(_WHITENING), where=str(found.folder / _WHITENING), sizes={"D": D}
    )
    mean = weights.take("mean", "D")
    return folds.unwhitened(
        sae, mean, weights.take("matrix", "DD"), weights.take("inverse_matrix", "DD")
    )


def write(folder_or_file: Path, sae: SAEArrays, **options: Any) -> None:
    """Write into a folder, as `SAE.load_from_disk` of SAELens 6 reads it.

    Raises:
        SpecError: if SAELens cannot express it.
        StoreError: if the folder cannot be written.
    """
    architecture = _architecture(sae)
    if architecture.endswith("transcoder"):
        sae = folds.uncentred(sae)
    (F, D), E = sae.W_enc.shape, sae.W_dec.shape[1]
    arrays = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    optional = {"threshold": sae.threshold, "W_skip": sae.W_skip}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    metadata: dict[str, Any] = {"sae_lens_version": _WRITTEN_AS}
    facts = {"model_name": sae.about.get("subject"), "hook_name": sae.about.get("site")}
    metadata |= {key: value for key, value in facts.items() if isinstance(value, str)}
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": "layer_norm" if sae.normalised else "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if architecture == "topk":
        cfg |= {"k": sae.activation["k"], "rescale_acts_by_decoder_norm": False}
    if architecture.endswith("transcoder"):
        cfg["d_out"] = E
    write_bytes(folder_or_file / _WEIGHTS, safetensors_bytes(arrays))
    write_bytes(folder_or_file / _CFG, json_bytes(cfg))


def _architecture(sae: SAEArrays) -> str:
    kind = sae.activation["kind"]
    if kind not in ("topk", "relu", "jumprelu"):
        raise SpecError(
            f"SAELens has topk, standard (relu) and jumprelu for inference, not {kind}"
            + ("; a batch rule needs a threshold first" if kind == "batchtopk" else "")
        )
    if sae.W_dec.shape[1] == sae.W_enc.shape[1] and sae.W_skip is None:
        return "standard" if kind == "relu" else kind
    if kind == "topk":
        raise SpecError("SAELens has no transcoder with topk, only with relu and jumprelu")
    if sae.normalised:
        raise SpecError("SAELens' transcoders do not scale back what they normalised, this does")
    return _TRANSCODERS[kind, sae.W_skip is not None]
