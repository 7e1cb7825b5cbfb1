"""What there is to know about an SAE before it is used, and what looks wrong. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reseed.formats.published import home_made
from reseed.records import SAEArrays

_UNIT = 0.01
"""Deviation of a decoder norm from 1 that counts as not unit."""


def facts(sae: SAEArrays) -> list[tuple[str, str]]:
    """Pairs of a name and a short text: format, shapes, rule, norms, what was folded."""
    (F, D), E = sae.W_enc.shape, sae.W_dec.shape[1]
    norms = np.linalg.norm(sae.W_dec, axis=1)
    rows = [
        ("format", str(sae.about.get("format", "reseed"))),
        ("latents", f"{F:,}"),
        ("dimensions", f"{D:,}" if D == E else f"{D:,} to {E:,}"),
        ("rule", rule(sae)),
        ("firing", _firing(sae)),
        ("b_dec", _b_dec(sae)),
        ("decoder norms", f"{norms.min():.3g} to {norms.max():.3g}, median {np.median(norms):.3g}"),
    ]
    if sae.normalised:
        rows.append(("normalised", "each row to mean 0 and deviation 1, and scaled back"))
    if sae.W_skip is not None:
        rows.append(("skip", "a linear map from input to output beside the latents"))
    rows += [
        (key, str(value))
        for key, value in sae.about.items()
        if key != "format" and isinstance(value, str | int | float | bool)
    ]
    if isinstance(origin := sae.about.get("origin"), Mapping):
        rows.append(("origin", ", ".join(str(value) for value in origin.values())))
    rows += [("folded", str(sentence)) for sentence in _sentences(sae, "folded")]
    return rows


def warnings(sae: SAEArrays) -> list[str]:
    """What may surprise, in sentences: of the reader, and of the weights themselves."""
    out = [str(sentence) for sentence in _sentences(sae, "warnings")]
    encoder, decoder = (np.linalg.norm(w, axis=1) for w in (sae.W_enc, sae.W_dec))
    odd = int((np.abs(decoder - 1) > _UNIT).sum())
    if odd:
        out.append(
            f"{odd:,} of {len(decoder):,} decoder rows do not have norm 1, so sizes of codes "
            "cannot be compared between latents; cosines are not touched by this"
        )
    for name, norms in (("encoder", encoder), ("decoder", decoder)):
        if zero := int((norms == 0).sum()):
            have, article = _have(zero), "an" if name == "encoder" else "a"
            out.append(f"{have} {article} {name} row of zeros")
    if never := _never(sae):
        out.append(f"{_have(never)} no encoder row and too small a bias, and can never fire")
    unsure = sae.about.get("format", home_made.NAME) == home_made.NAME
    if unsure and len(sae.W_enc) < sae.W_enc.shape[1]:
        out.append("there are fewer latents than dimensions; is a matrix transposed?")
    return out


def _have(latents: int) -> str:
    return "1 latent has" if latents == 1 else f"{latents:,} latents have"


def rule(sae: SAEArrays) -> str:
    """The rule from pre-activations to codes, for a person."""
    kind, k = sae.activation["kind"], sae.activation.get("k")
    if sae.threshold is None:
        return kind if k is None else f"{kind}, k = {k}"
    low, high = float(sae.threshold.min()), float(sae.threshold.max())
    return f"{kind}, threshold {low:.4g}" + ("" if low == high else f" to {high:.4g}")


def _firing(sae: SAEArrays) -> str:
    k = sae.activation.get("k")
    return {
        "topk": f"at most {k} latents at a time",
        "groupmax": f"at most {k} latents at a time, one a group",
        "matching_pursuit": f"at most {k} latents at a time",
        "one_hot": "one latent at a time",
        "batchtopk": f"{k} latents at a time on average over the rows given together",
    }.get(sae.activation["kind"], "as many as pass; known only from activations")


def _b_dec(sae: SAEArrays) -> str:
    size = float(np.linalg.norm(sae.b_dec))
    use = "subtracted from the input too" if sae.centred else "only added to the output"
    return f"norm {size:.4g}, {use}" if size else f"zero, {use}"


def _never(sae: SAEArrays) -> int:
    """Latents whose encoder row is zero and whose bias does not pass alone."""
    least = 0 if sae.threshold is None else np.maximum(sae.threshold, 0)
    zero = ~sae.W_enc.any(axis=1)
    return int((zero & (sae.b_enc <= least)).sum())


def _sentences(sae: SAEArrays, key: str) -> Sequence[object]:
    sentences = sae.about.get(key)
    return sentences if isinstance(sentences, list | tuple) else ()
