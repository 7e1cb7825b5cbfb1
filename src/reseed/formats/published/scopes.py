"""The scales of the Llama Scope family (lm_saes, llamascopium), folded.

They train on rows scaled to an average length of √D: by s_in = √D / norm_in on the way in and
s_out = √D / norm_out at the target, with norms measured once on the data ("dataset-wise").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reseed.errors import SpecError, StoreError
from reseed.formats.checks import flag, shown
from reseed.formats.folds import uncentred
from reseed.records import Floats, SAEArrays

_RAW = (None, "none", "inference")
"""Values of `norm_activation` with which rows are read as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What rows are multiplied by before encoding, and targets before they are compared."""

    into: float = 1.0
    out: float = 1.0

    @property
    def said(self) -> list[str]:
        """For the record of what was folded."""
        if self.into == self.out == 1.0:
            return []
        return [
            f"dataset-wise norms: rows scaled by {self.into:.8g} on the way in, and the "
            f"reconstruction divided by {self.out:.8g}"
        ]


def scales(settings: Mapping[str, Any], norms: Mapping[str, Any], D: int, where: str) -> Scales:
    """The scales that the settings ask for.

    Norms are looked at only if the settings ask for them: where they do not, files of llamascopium
    hold uninitialised memory there.

    Args:
        settings: `norm_activation` and the hook points.
        norms: of the hook points, or of "in" and "out".
        D: input dimensions.
        where: names the file in messages.

    Raises:
        SpecError: if rows are scaled one by one or batch by batch.
        StoreError: if a norm is missing or not above 0.
    """
    asked = settings.get("norm_activation")
    if asked in _RAW:
        return Scales()
    if asked != "dataset-wise":
        raise SpecError(
            f"{where}: norm_activation {asked!r} scales rows by their own length or that of their "
            "batch; that is no fixed SAE of raw activations, so it is not read"
        )
    into = _norm(norms, (settings.get("hook_point_in"), "in"), where)
    out = _norm(norms, (settings.get("hook_point_out"), "out"), where)
    return Scales(into=math.sqrt(D) / into, out=math.sqrt(D) / out)


def _norm(norms: Mapping[str, Any], names: tuple[Any, str], where: str) -> float:
    name = next((name for name in names if name in norms), None)
    if name is None:
        raise StoreError(
            f"{where} asks for dataset-wise norms, and there is none of {names[0]!r}; there are "
            f"those of {shown(norms) or 'nothing'}"
        )
    value = np.asarray(norms[name])
    if value.size != 1 or value.dtype.kind not in "fiu" or not 1e-12 < float(value.max()) < 1e12:
        raise StoreError(f"{where}: the average norm of {name} is {norms[name]!r}, no length")
    return float(value.max())


def unscaled(sae: SAEArrays, by: Scales) -> SAEArrays:
    """In raw units, of an SAE that reads rows scaled by `into` and writes rows scaled by `out`.

    A pre-activation of raw rows is that of scaled rows through s_in: so thresholds and `b_enc` are
    divided by s_in, decoder rows multiplied by s_in / s_out, and `b_dec` divided by s_out.
    """
    if by.into == by.out == 1.0:
        return sae
    # b_dec is subtracted in units of the input but added in those of the output
    sae = sae if by.into == by.out else uncentred(sae)

    def times(array: Floats, factor: float) -> Floats:
        most = float(np.finfo(np.float32).max)  # the threshold of a latent that never fires
        return np.clip(array.astype(np.float64) * factor, -most, most).astype(np.float32)

    return replace(
        sae,
        b_enc=times(sae.b_enc, 1 / by.into),
        W_dec=times(sae.W_dec, by.into / by.out),
        b_dec=times(sae.b_dec, 1 / by.out),
        threshold=None if sae.threshold is None else times(sae.threshold, 1 / by.into),
    )


def gate_by_length(sae: SAEArrays) -> SAEArrays:
    """Of an SAE whose rule looks at p times the length of the decoder row: one that looks at p.

    A threshold is divided by the length: p n > t is p > t / n. Rules that compare latents (topk,
    batchtopk) need the lengths in the encoder: its rows times n, those of the decoder through n.
    Rows of length 0 never win there; they never fire here.
    """
    length = np.linalg.norm(sae.W_dec.astype(np.float64), axis=1)
    divisor = np.where(length > 0, length, 1.0)
    if sae.threshold is not None:
        largest = float(np.finfo(np.float32).max)
        threshold = np.where(length > 0, sae.threshold.astype(np.float64) / divisor, largest)
        return replace(sae, threshold=np.minimum(threshold, largest).astype(np.float32))
    if sae.activation["kind"] == "relu":
        return sae
    return replace(
        sae,
        W_enc=(sae.W_enc.astype(np.float64) * length[:, None]).astype(np.float32),
        b_enc=(sae.b_enc.astype(np.float64) * length).astype(np.float32),
        W_dec=(sae.W_dec.astype(np.float64) / divisor[:, None]).astype(np.float32),
    )


def no_glu(settings: Mapping[str, Any], where: str) -> None:
    """Refuse gated linear encoders.

    Raises:
        SpecError: if there is one.
    """
    if flag(settings, "use_glu_encoder", where, default=False):
        raise SpecError(
            f"{where}: use_glu_encoder multiplies each pre-activation by a sigmoid of another one; "
            "that is no encoder of one row a latent, so it cannot be compared as one"
        )


def exponentials(logarithms: Floats, where: str) -> Floats:
    """Thresholds from their logarithms.

    Raises:
        StoreError: if one is above what float32 holds.
    """
    with np.errstate(over="ignore"):
        threshold = np.exp(logarithms.astype(np.float64)).astype(np.float32)
    if not np.isfinite(threshold).all():
        raise StoreError(f"{where}: a threshold of e^{logarithms.max():g} is no number to compare")
    return threshold


def logarithms(threshold: Floats, name: str) -> Floats:
    """Logarithms of thresholds, for formats that hold these.

    Raises:
        SpecError: if one is 0 or below.
    """
    if threshold.min() <= 0:
        raise SpecError(
            f"this SAE cannot be written as {name}: the format holds the logarithm of each "
            f"threshold, and the least of this SAE is {threshold.min():g}"
        )
    return np.log(threshold.astype(np.float64)).astype(np.float32)
