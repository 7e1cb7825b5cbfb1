"""The seven classes of dictionary_learning: from the tensors of each to one kind of SAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from reseed.errors import StoreError
from reseed.formats import folds
from reseed.formats.checks import Weights
from reseed.records import SAEArrays

TOPK, BATCH = "AutoEncoderTopK", "BatchTopKSAE"

_LINEAR = frozenset({"encoder.weight", "encoder.bias", "decoder.weight"})

_MATRICES = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})

TENSORS: Mapping[str, frozenset[str]] = {
    "AutoEncoder": _LINEAR | {"bias"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias"},
    "GatedAutoEncoder": frozenset(
        {"decoder_bias", "r_mag", "gate_bias", "mag_bias", "encoder.weight", "decoder.weight"}
    ),
    "JumpReluAutoEncoder": _MATRICES | {"threshold"},
    TOPK: _LINEAR | {"b_dec", "k", "threshold"},
    BATCH: _LINEAR | {"b_dec", "k", "threshold"},
    "MatryoshkaBatchTopKSAE": _MATRICES | {"k", "threshold", "group_sizes"},
}
"""Class to the names of its tensors."""


def candidates(keys: frozenset[str]) -> list[str]:
    """Classes with these tensors; two for topk. Files of before 2025 have no topk threshold."""
    names = keys | {"threshold"} if "k" in keys else keys
    return [name for name, wanted in TENSORS.items() if names == wanted]


def sae_of(name: str, weights: Weights, warnings: list[str]) -> SAEArrays:
    """The SAE of a class, in the units of its file.

    Args:
        name: of the class.
        weights: its tensors.
        warnings: gets what a user should know.

    Raises:
        StoreError: if tensors are damaged or do not fit.
    """
    return _READERS[name](weights, warnings)


def _linear(weights: Weights, b_dec: str, warnings: list[str]) -> SAEArrays:
    return SAEArrays(
        W_enc=weights.take("encoder.weight", "FD"),
        b_enc=weights.take("encoder.bias", "F"),
        W_dec=weights.take("decoder.weight", "DF", to="FD"),
        b_dec=weights.take(b_dec, "D"),
        activation={"kind": "relu"},
        centred=b_dec != "decoder.bias",
        about={},
    )


def _gated(weights: Weights, warnings: list[str]) -> SAEArrays:
    b_enc = weights.take("mag_bias", "F")
    W_enc, threshold = folds.gate_as_threshold(
        weights.take("encoder.weight", "FD"),
        weights.take("r_mag", "F"),
        b_enc,
        weights.take("gate_bias", "F"),
    )
    return SAEArrays(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=weights.take("decoder.weight", "DF", to="FD"),
        b_dec=weights.take("decoder_bias", "D"),
        threshold=threshold,
        activation={"kind": "jumprelu"},
        about={},
    )


def _matrices(weights: Weights, warnings: list[str]) -> SAEArrays:
    warnings.append(
        "whether b_dec was subtracted from the input is not saved by JumpReluAutoEncoder; it is "
        "read as not, its default"
    )
    threshold = weights.take("threshold", "F")
    return replace(_square(weights), activation={"kind": "jumprelu"}, threshold=threshold)


def _square(weights: Weights) -> SAEArrays:
    return SAEArrays(
        W_enc=weights.take("W_enc", "DF", to="FD"),
        b_enc=weights.take("b_enc", "F"),
        W_dec=weights.take("W_dec", "FD"),
        b_dec=weights.take("b_dec", "D"),
        activation={"kind": "relu"},
        centred=False,
        about={},
    )


def _top(weights: Weights, warnings: list[str]) -> SAEArrays:
    sae = _linear(weights, "b_dec", warnings)
    return replace(sae, activation={"kind": "topk", "k": _k(weights)})


def _batch(weights: Weights, warnings: list[str]) -> SAEArrays:
    return _thresholded(weights, _linear(weights, "b_dec", warnings), warnings)


def _matryoshka(weights: Weights, warnings: list[str]) -> SAEArrays:
    sae = replace(_square(weights), centred=True)
    return _thresholded(weights, sae, warnings)


def _thresholded(weights: Weights, sae: SAEArrays, warnings: list[str]) -> SAEArrays:
    """BatchTopK: its threshold for each latent, or the batch rule where it was never set."""
    one = weights.number("threshold") if "threshold" in weights.arrays else -1.0
    if one < 0:
        warnings.append(
            "its threshold was never set (-1), so it has no rule for single rows; the batch rule "
            "of training is used, where codes depend on the other rows"
        )
        return replace(sae, activation={"kind": "batchtopk", "k": _k(weights)}, threshold=None)
    threshold = np.full(len(sae.W_enc), one, np.float32)
    return replace(sae, activation={"kind": "jumprelu"}, threshold=threshold)


def _k(weights: Weights) -> int:
    k = weights.number("k")
    if not k.is_integer():
        raise StoreError(f"{weights.where}: k should be a whole number, not {k}")
    return int(k)


_READERS: Mapping[str, Callable[[Weights, list[str]], SAEArrays]] = {
    "AutoEncoder": lambda weights, warnings: _linear(weights, "bias", warnings),
    "AutoEncoderNew": lambda weights, warnings: _linear(weights, "decoder.bias", warnings),
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _matrices,
    TOPK: _top,
    BATCH: _batch,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}
