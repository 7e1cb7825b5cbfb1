"""Rewrites of an SAE that leave what it computes as it is; F latents, D input, E output.

Formats differ in what they leave to run time: centring, scaling, norms. Each of these is moved into
the weights here, in float64, one exact identity a function.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reseed.errors import SpecError
from reseed.records import Floats, SAEArrays


def uncentred(sae: SAEArrays) -> SAEArrays:
    """Without subtracting b_dec from the input: `b_enc - W_enc b_dec` does it."""
    if not sae.centred:
        return sae
    return replace(sae, b_enc=_f32(_f64(sae.b_enc) - _shift(sae)), centred=False)


def centred(sae: SAEArrays) -> SAEArrays:
    """Subtracting b_dec from the input, and adding what that takes to b_enc.

    Raises:
        SpecError: if input and output differ, so that b_dec is no point of the input.
    """
    if sae.centred:
        return sae
    if sae.W_enc.shape[1] != len(sae.b_dec):
        raise SpecError("the SAE maps between different dimensions, so its input has no b_dec")
    return replace(sae, b_enc=_f32(_f64(sae.b_enc) + _shift(sae)), centred=True)


def unscaled(sae: SAEArrays, factor: float) -> SAEArrays:
    """In raw units, of an SAE that reads and writes rows multiplied by a factor.

    With z = factor x and x' = z' / factor: encoder rows times the factor, decoder and b_dec divided
    by it; pre-activations, and so thresholds, stay as they are.
    """
    return replace(
        sae,
        W_enc=_f32(_f64(sae.W_enc) * factor),
        W_dec=_f32(_f64(sae.W_dec) / factor),
        b_dec=_f32(_f64(sae.b_dec) / factor),
    )


def unwhitened(sae: SAEArrays, mean: Floats, matrix: Floats, inverse: Floats) -> SAEArrays:
    """In raw units, of an SAE that reads `(x - mean) @ matrix`, and whose output is mapped back."""
    W_enc = _f64(sae.W_enc) @ _f64(matrix).T
    b_enc = _f64(sae.b_enc) - (0.0 if sae.centred else W_enc @ _f64(mean))
    return replace(
        sae,
        W_enc=_f32(W_enc),
        b_enc=_f32(b_enc),
        W_dec=_f32(_f64(sae.W_dec) @ _f64(inverse)),
        b_dec=_f32(_f64(sae.b_dec) @ _f64(inverse) + _f64(mean)),
    )


def rescaled(sae: SAEArrays, by: Floats) -> SAEArrays:
    """Each latent's code multiplied by a positive number `[F]`, its decoder row divided by it.

    Thresholds go with the codes. With rules that compare latents (topk, groupmax, batchtopk) the
    numbers decide who wins, so there this is only right for codes that are compared so scaled.
    """
    s = _f64(by)
    threshold = None if sae.threshold is None else _f32(_f64(sae.threshold) * s)
    return replace(
        sae,
        W_enc=_f32(_f64(sae.W_enc) * s[:, None]),
        b_enc=_f32(_f64(sae.b_enc) * s),
        W_dec=_f32(_f64(sae.W_dec) / s[:, None]),
        threshold=threshold,
    )


def decoder_norms(sae: SAEArrays) -> Floats:
    """Length of each decoder row, `[F]`; 1 where a row is zero."""
    norms = np.linalg.norm(_f64(sae.W_dec), axis=1)
    return np.where(norms > 0, norms, 1.0)  # pyright: ignore[reportReturnType]


def gate_as_threshold(
    W_enc: Floats, r_mag: Floats, b_mag: Floats, b_gate: Floats
) -> tuple[Floats, Floats]:
    """A gated encoder (arXiv 2404.16014) as a jumprelu; gives encoder rows and threshold.

    With h = x W_enc it gives relu(e^r h + b_mag) where h + b_gate > 0. For p = e^r h + b_mag that
    is where p > b_mag - e^r b_gate, since e^r > 0.
    """
    scale = np.exp(_f64(r_mag))
    return _f32(_f64(W_enc) * scale[:, None]), _f32(_f64(b_mag) - scale * _f64(b_gate))


def _shift(sae: SAEArrays) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return _f64(sae.W_enc) @ _f64(sae.b_dec)


def _f64(array: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(array, np.float64)


def _f32(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Floats:
    return array.astype(np.float32)
