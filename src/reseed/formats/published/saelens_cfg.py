"""The settings of a SAELens folder, of version 6 and of before, as one record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import flag, whole

_KINDS = {
    "standard": "relu",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}

_WITHOUT_COUNTERPART = {
    "abstopk": "its latents fire with both signs",
    "matching_pursuit": "its codes come from several steps, each on what the last left over",
    "temporal": "its codes depend on the tokens before",
}

_NORMALISATIONS = (
    "none",
    "expected_average_only_in",
    "constant_norm_rescale",
    "layer_norm",
    "covariance_whitening",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides how the weights are read."""

    kind: str
    """`relu`, `gated`, `jumprelu`, `topk` or `batchtopk`"""
    d_in: int
    d_sae: int
    d_out: int
    k: int = 0
    dtype: str = "float32"
    centred: bool
    skip: bool = False
    rescaled: bool = False
    """whether codes are compared after multiplication by decoder norms"""
    normalisation: str = "none"
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read(cfg: Mapping[str, Any], where: str) -> Settings:
    """Check the settings; SAELens itself ignores misspelt keys.

    Args:
        cfg: what `cfg.json` holds.
        where: names it in messages.

    Raises:
        SpecError: if the architecture or its normalisation has no counterpart here.
        StoreError: if a setting is missing or impossible.
    """
    metadata = cfg.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise StoreError(f"{where}: metadata should be a table")
    version = cfg.get("sae_lens_version") or metadata.get("sae_lens_version")
    old = _before_6(version)
    if old:
        cfg = _modern(cfg, where)
        metadata = cfg
    architecture = str(cfg.get("architecture", "standard" if old else ""))
    _refuse(architecture, where)
    kind, transcoder = _KINDS[architecture], "transcoder" in architecture
    normalisation = _normalisation(cfg, where, transcoder)
    D = whole(cfg, "d_in", where)
    facts = {
        "subject": metadata.get("model_name"),
        "site": metadata.get("hook_name"),
        "architecture": architecture,
        "sae_lens_version": version,
        "reshape_activations": cfg.get("reshape_activations"),
    }
    return Settings(
        kind=kind,
        d_in=D,
        d_sae=whole(cfg, "d_sae", where),
        d_out=whole(cfg, "d_out", where) if transcoder else D,
        k=whole(cfg, "k", where) if kind == "topk" else 0,
        dtype=str(cfg.get("dtype", "float32")).removeprefix("torch."),
        centred=not transcoder and flag(cfg, "apply_b_dec_to_input", where, default=True),
        skip="skip" in architecture,
        rescaled=kind in ("topk", "batchtopk")
        and flag(cfg, "rescale_acts_by_decoder_norm", where, default=kind == "batchtopk"),
        normalisation=normalisation,
        facts=facts,
        warnings=("the settings are of before version 6 of SAELens",) if old else (),
    )


def _before_6(version: Any) -> bool:
    found = re.match(r"(\d+)\.", version) if isinstance(version, str) else None
    return found is None or int(found[1]) < 6


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
    if isinstance(new.get("normalize_activations"), bool):
        scaled = new["normalize_activations"]
        new["normalize_activations"] = "expected_average_only_in" if scaled else "none"
    return new


def _refuse(architecture: str, where: str) -> None:
    if architecture in _WITHOUT_COUNTERPART:
        raise SpecError(
            f"{where}: an SAE of architecture {architecture!r} cannot be read, because "
            f"{_WITHOUT_COUNTERPART[architecture]}"
        )
    if architecture not in _KINDS:
        raise StoreError(
            f"{where}: architecture {architecture!r} is not known; known are {', '.join(_KINDS)}"
        )


def _normalisation(cfg: Mapping[str, Any], where: str, transcoder: bool) -> str:
    given = cfg.get("normalize_activations") or "none"
    if given not in _NORMALISATIONS:
        raise StoreError(f"{where}: normalize_activations {given!r} is not known")
    if given == "constant_norm_rescale":
        raise SpecError(
            f"{where}: each row is scaled to one length at run time, which cannot be folded into "
            "weights and has no counterpart here"
        )
    if transcoder and given != "none":
        raise SpecError(
            f"{where}: a transcoder that normalises its input ({given}) without scaling its "
            "output back has no counterpart here"
        )
    return given
