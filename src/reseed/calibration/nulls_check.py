"""Whether a false discovery rate is kept where rows are not Gaussian and widths differ.

Dictionaries are drawn from one distribution each, independently but for what is planted, so every
latent found that was not planted is a false discovery. Amplitudes along the coordinates fall as
k^-power; what two dictionaries have in common by nature (a direction, a basis) is no feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.matching.match import Views, compare
from reseed.seeds import generator
from reseed.stability import fdr, shares
from reseed.stability.decoys import decoys
from reseed.stability.nulls import CovarianceNull

Floats = NDArray[np.float64]

Encoder = Literal["tied", "noisy", "untied"]
"""Encoder rows: the decoder's; with noise, at cosine .7 to it; of their own."""

Draw = Callable[[int, int, np.random.Generator, np.random.Generator], Floats]
"""`[F, D]` rows of F, D, a generator of the dictionary and one that both dictionaries share"""


def _falling(draw: Callable[[np.random.Generator, tuple[int, int]], Floats], power: float) -> Draw:
    def rows(count: int, width: int, own: np.random.Generator, _: np.random.Generator) -> Floats:
        return draw(own, (count, width)) * np.arange(1.0, width + 1) ** -power

    return rows


def _sparse(coordinates: int) -> Draw:
    def rows(count: int, width: int, own: np.random.Generator, _: np.random.Generator) -> Floats:
        rank = own.random((count, width)).argsort(axis=1).argsort(axis=1)
        return np.where(rank < coordinates, 1.0, 0.1) * own.normal(size=(count, width))

    return rows


def _along(size: Callable[[np.random.Generator, int], Floats]) -> Draw:
    """Unit rows, and a common direction that each has to this extent."""

    def rows(
        count: int, width: int, own: np.random.Generator, shared: np.random.Generator
    ) -> Floats:
        direction = _unit(shared.normal(size=(1, width)))
        return _unit(own.normal(size=(count, width))) + size(own, count)[:, None] * direction

    return rows


DISTRIBUTIONS: Mapping[str, Draw] = {
    "Gaussian": _falling(lambda rng, shape: rng.normal(size=shape), 0.0),
    "Gaussian, k^-1/2": _falling(lambda rng, shape: rng.normal(size=shape), 0.5),
    "Gaussian, k^-1": _falling(lambda rng, shape: rng.normal(size=shape), 1.0),
    "Laplace, k^-1": _falling(lambda rng, shape: rng.laplace(size=shape), 1.0),
    "Student 3": _falling(lambda rng, shape: rng.standard_t(3, size=shape), 0.0),
    "Student 2": _falling(lambda rng, shape: rng.standard_t(2, size=shape), 0.0),
    "3 coordinates": _sparse(3),
    "8 coordinates": _sparse(8),
    "one in ten massive": _along(
        lambda rng, n: np.where(rng.random(n) < 0.1, 2 * np.exp(0.5 * rng.normal(size=n)), 0.0)
    ),
    "log-normal along one": _along(lambda rng, n: np.exp(rng.normal(size=n) - 1)),
}


_COLUMNS = {
    "distribution": pl.String, "encoder": pl.String, "width_a": pl.Int64, "width_b": pl.Int64,
    "planted": pl.Float64, "cosine": pl.Float64, "found": pl.Float64, "fdr": pl.Float64,
    "nominal": pl.Float64, "power": pl.Float64, "small_p": pl.Float64, "itself": pl.Float64,
}  # fmt: skip


def check_nulls(
    *,
    distributions: Iterable[str] = tuple(DISTRIBUTIONS),
    encoders: Iterable[Encoder] = ("tied", "noisy", "untied"),
    widths: Iterable[tuple[int, int]] = ((256, 256), (64, 1024)),
    planted: Iterable[tuple[float, float]] = ((0.0, 0.0), (0.25, 0.9)),
    dimensions: int = 48,
    repeats: int = 3,
) -> pl.DataFrame:
    """The false discovery rate by distribution of rows and by widths, and the power beside it.

    Args:
        distributions: names in `DISTRIBUTIONS`.
        encoders: how encoder rows come from decoder rows.
        widths: latents of A and of B, F_a <= F_b.
        planted: share of A's latents that are in B, and at which cosine of either kind of rows.
        dimensions: D.
        repeats: pairs of dictionaries for each row of the table.

    Returns:
        distribution, encoder, width_a, width_b, planted, cosine, found (share of A's latents), fdr
        (part of those found that was not planted, mean over pairs; where nothing is planted the
        share of pairs in which anything is found), nominal (the level times the share not
        planted), power (share of the planted that is found; null without any), small_p (share of
        A's latents that were not planted with p <= .05), itself (share that the test finds among
        A's own others).
    """
    rows: list[dict[str, Any]] = []
    for name, encoder, (a, b), (share, cosine) in product(distributions, encoders, widths, planted):
        case = {
            "distribution": name, "encoder": encoder, "width_a": a, "width_b": b,
            "planted": share, "cosine": cosine,
        }  # fmt: skip
        each = pl.DataFrame([_measured(case, dimensions, repeat) for repeat in range(repeats)])
        nominal = {"nominal": fdr.LEVEL * (1 - share)}
        rows.append(case | nominal | each.mean().row(0, named=True))
    return pl.DataFrame(rows, _COLUMNS)


def _measured(case: Mapping[str, Any], dimensions: int, repeat: int) -> dict[str, float | None]:
    """One pair of dictionaries."""
    key = (*(str(value) for value in case.values()), repeat)
    a, b = (_views(case, side, dimensions, key) for side in "ab")
    count = round(case["planted"] * case["width_a"])
    decoder = _planted(a.decoder, b.decoder, count, case["cosine"])
    tied = b.encoder is b.decoder
    encoder = decoder if tied else _planted(a.encoder, b.encoder, count, case["cosine"])
    b = Views(encoder, decoder)
    pair = shares.PairTable(("a", "b"), compare(a, b).table)
    null = decoys(CovarianceNull(a), CovarianceNull(b), *key)
    test = fdr.examine(pair, null, shares.everyone(pair))[0]
    found = test.q <= fdr.LEVEL
    return {
        "found": float(found.mean()),
        "fdr": float(found[count:].sum() / max(found.sum(), 1)),
        "power": float(found[:count].mean()) if count else None,
        "small_p": float((test.p[count:] <= fdr.LEVEL).mean()),
        "itself": null.itself[0],
    }


def _views(case: Mapping[str, Any], side: str, dimensions: int, key: tuple[Any, ...]) -> Views:
    draw, count = DISTRIBUTIONS[case["distribution"]], case[f"width_{side}"]

    def rows(kind: str) -> Floats:
        own = generator("nulls-check", *key, side, kind)
        return _unit(draw(count, dimensions, own, generator("nulls-check", *key, kind)))

    decoder = rows("decoder")
    if case["encoder"] == "tied":
        return Views(decoder, decoder)
    if case["encoder"] == "untied":
        return Views(rows("encoder"), decoder)
    noise = generator("nulls-check", *key, side, "noise").normal(size=decoder.shape)
    return Views(_unit(decoder + noise / np.sqrt(dimensions)), decoder)


def _planted(a: Floats, b: Floats, count: int, cosine: float) -> Floats:
    """Rows of B, the first `count` of them turned to this cosine to those of A."""
    if not count:
        return b
    across = b[:count] - (a[:count] * b[:count]).sum(axis=1, keepdims=True) * a[:count]
    near = cosine * a[:count] + np.sqrt(1 - cosine**2) * _unit(across)
    return np.concatenate([near, b[count:]])


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
