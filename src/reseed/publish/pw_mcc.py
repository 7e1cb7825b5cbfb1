"""Consistency of two runs as one number and a JSON record, with where it comes from.

PW-MCC of arXiv 2505.20254 as Neuronpedia's tracker asks for it: rows of both decoders to length 1,
the one-to-one assignment with the largest sum of |cosine|, and its mean. Elsewhere here cosines
keep their sign (`pw_mcc` in docs/summary.md), so this number is never less than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.matching.assignment import assign
from reseed.matching.match import Views
from reseed.records import SAEArrays
from reseed.stability.nulls import CovarianceNull

SCHEMA = "reseed.pw-mcc"
VERSION = 1
"""Rises when a key changes its name or its meaning; not when one is added."""

_LARGEST = 1 << 28
"""Entries of a matrix of cosines that are held at a time, 2 GB in float64."""

_DRAWS = 3


def pw_mcc(a: SAEArrays, b: SAEArrays, names: tuple[str, str]) -> dict[str, Any]:
    """The record of two SAEs of one subject and site.

    Args:
        a: an SAE.
        b: another one, of as many dimensions.
        names: of both.

    Returns:
        `schema`, `version`, `value`, its `null` (mean and range over draws of random dictionaries
        of the same covariance), `counts`, `certificate` (primal, dual and gap of the assignment),
        `runs` (provenance and SHA-256 of the decoder of each) and `matching`: rows of A and B with
        |cosine| and its sign.

    Raises:
        SpecError: if dimensions differ, or the matrix of cosines would not fit.
    """
    first, other = (_unit(sae.W_dec, name) for sae, name in zip((a, b), names, strict=True))
    if first.shape[1] != other.shape[1]:
        raise SpecError(
            f"{names[0]} writes {first.shape[1]} dimensions and {names[1]} {other.shape[1]}; "
            "PW-MCC compares directions of one space"
        )
    if len(first) * len(other) > _LARGEST:
        raise SpecError(
            f"{len(first):,} x {len(other):,} latents: the matrix of |cosines| would not fit; "
            "`reseed compare` matches such by signed cosines, without the matrix"
        )
    cosines = first @ other.T
    match = assign(np.abs(cosines))
    nulls = [CovarianceNull(Views(rows, rows)) for rows in (first, other)]
    drawn = [_random(nulls, draw) for draw in range(_DRAWS)]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "metric": "mean |cosine| of decoder rows in the assignment with the largest sum",
        "source": "arXiv 2505.20254",
        "reseed": version("reseed"),
        "value": float(match.similarity.mean()),
        "null": {
            "kind": "random rows of the same covariance",
            "draws": _DRAWS,
            "mean": float(np.mean(drawn)),
            "lo": min(drawn),
            "hi": max(drawn),
        },
        "counts": {
            "pairs": len(match.pairs),
            "latents": [len(first), len(other)],
            "negative": int((cosines[tuple(match.pairs.T)] < 0).sum()),
        },
        "certificate": {
            "solver": match.certificate.solver if match.certificate else None,
            "primal": match.primal,
            "dual": match.dual,
            "gap": match.gap,
            "optimal": match.optimal,
        },
        "runs": [_provenance(sae, name) for sae, name in zip((a, b), names, strict=True)],
        "matching": [
            {"a": int(i), "b": int(j), "cosine": round(float(cosines[i, j]), 6)}
            for i, j in match.pairs
        ],
    }


def _unit(rows: NDArray[Any], name: str) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise SpecError(f"{name}: {int((lengths == 0).sum())} decoder rows are zero: no directions")
    return rows / lengths


def _random(nulls: Sequence[CovarianceNull], draw: int) -> float:
    """The same number for random rows with the mean and the second moments of both."""
    rows = [
        _unit(null.draw("pw-mcc", side, draw).decoder, "a random dictionary")
        for side, null in enumerate(nulls)
    ]
    return float(assign(np.abs(rows[0] @ rows[1].T)).similarity.mean())


def _provenance(sae: SAEArrays, name: str) -> dict[str, Any]:
    import hashlib

    kept = ("subject", "site", "target", "architecture", "init_seed", "data_seed", "tokens",
            "format", "source", "revision", "measured")  # fmt: skip
    rows = np.ascontiguousarray(sae.W_dec, np.float32)
    return {
        "name": name,
        "decoder_sha256": hashlib.sha256(rows.tobytes()).hexdigest(),
        "activation": dict(sae.activation),
        **{key: sae.about[key] for key in kept if key in sae.about},
    }
