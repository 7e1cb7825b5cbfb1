"""What a comparison found, to read in Python and to keep in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from reseed.comparison.dictionary import Dictionary
from reseed.comparison.pair import PairFacts
from reseed.errors import SpecError
from reseed.matching import measures
from reseed.stability.intervals import mean_over_pairs

_UNIT = 0.02
"""How far from 1 the lengths of decoder rows may be to count as unit norm."""

_LABELS = ("subject", "site")


def check(given: Sequence[Dictionary]) -> list[str]:
    """Refuse what cannot be compared; warn of what should not.

    Args:
        given: two or more.

    Returns:
        Warnings, each a sentence.

    Raises:
        SpecError: if dimensions differ, or an SAE has next to no rows that are not zero.
    """
    for a, b in combinations(given, 2):
        _check_dimensions(a, b)
    out = [warning for one in given for warning in _alone(one)]
    for a, b in combinations(given, 2):
        out += _together(a, b)
    if any(not one.has_encoder for one in given):
        without = ", ".join(one.name for one in given if not one.has_encoder)
        out.append(
            f"{without}: no encoder, so pairs with it are compared by their decoders only; "
            "`shared` then asks for one cosine, not for two."
        )
    return out


def _check_dimensions(a: Dictionary, b: Dictionary) -> None:
    if a.dimensions == b.dimensions:
        return
    sizes = f"{a.name} has {_size(a)}, {b.name} has {_size(b)}"
    if a.latents == b.dimensions[1] or b.latents == a.dimensions[1]:
        odd = a if a.latents == b.dimensions[1] else b
        raise SpecError(
            f"{sizes}. {odd.name} looks transposed: rows must be latents. Give its matrices "
            "transposed, or the file instead of the matrix, whose orientation is then known."
        )
    raise SpecError(
        f"{sizes}: they read or write different spaces, so cosines between them mean nothing. Are "
        "they of the same subject and site? Two subjects can be compared through activations of "
        "both on the same tokens; see docs/compare.md."
    )


def _size(one: Dictionary) -> str:
    d, e = one.dimensions
    return f"{one.latents} latents on {d} dimensions" + ("" if d == e else f" (writing {e})")


def _alone(one: Dictionary) -> list[str]:
    out: list[str] = []
    decoder = np.linalg.norm(one.views.decoder, axis=1)
    encoder = np.linalg.norm(one.views.encoder, axis=1)
    zero = int((decoder == 0).sum())
    if one.latents - zero < 2 or not encoder.any():
        raise SpecError(
            f"{one.name}: {zero} of {one.latents} decoder rows are zero and so are "
            f"{int((encoder == 0).sum())} encoder rows; nothing is left to compare. Was it trained?"
        )
    if zero:
        out.append(
            f"{one.name}: {zero} of {one.latents} decoder rows are zero; they match nothing and "
            "count as not shared."
        )
    live = decoder[decoder > 0]
    if len(live) and np.abs(live - 1).max() > _UNIT:
        if one.has_encoder and np.abs(encoder - 1).max() <= _UNIT:
            out.append(
                f"{one.name}: the encoder rows have length 1 and the decoder rows do not "
                f"({live.min():.3g} to {live.max():.3g}); are encoder and decoder swapped?"
            )
        else:
            out.append(
                f"{one.name}: decoder rows are not of length 1 ({live.min():.3g} to "
                f"{live.max():.3g}); only directions are compared, so this changes no number here."
            )
    if one.latents < min(one.dimensions) and one.has_encoder is False:
        out.append(
            f"{one.name}: fewer rows ({one.latents}) than dimensions ({one.dimensions[1]}); an "
            "over-complete dictionary that looks like this is transposed."
        )
    return out


def _together(a: Dictionary, b: Dictionary) -> list[str]:
    out: list[str] = []
    if a.sha256 == b.sha256:
        out.append(
            f"{a.name} and {b.name} are the same weights, so everything is shared; was one file "
            "given twice?"
        )
    for label in _LABELS:
        first, second = a.about.get(label), b.about.get(label)
        if first and second and first != second:
            out.append(
                f"{a.name} was trained on {label} {first!r}, {b.name} on {second!r}; agreement "
                "across them is not about seeds."
            )
    seeds = [{key: one.about.get(key) for key in ("init_seed", "data_seed")} for one in (a, b)]
    if a.sha256 != b.sha256 and None not in seeds[0].values() and seeds[0] == seeds[1]:
        out.append(
            f"{a.name} and {b.name} record the same init and data seed; what they share may come "
            "from the common start."
        )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two or more SAEs beside each other; of two, A is the first and B the second."""

    names: tuple[str, ...]
    pairs: tuple[PairFacts, ...]
    """of every two"""
    latents: pl.DataFrame
    """a row for each latent of each SAE and each other SAE; columns in docs/compare.md"""
    summary: Mapping[str, Any]
    """all numbers and where they come from, as in `comparison.json`"""
    warnings: tuple[str, ...]

    @property
    def shared(self) -> float:
        """Share of A's latents that are in B by the rule of arXiv 2501.16615.

        The same counterpart by encoder and decoder rows, both cosines at least tau.
        """
        return float(self.pairs[0].numbers["shared"]["a"])

    @property
    def share_fdr(self) -> float:
        """Share of A's latents with a match in B at a false discovery rate of 5 %.

        Held against random latents of the same covariance, without a threshold on the cosine.
        """
        return float(self.pairs[0].numbers["match_at_fdr"]["a"])

    @property
    def curve(self) -> pl.DataFrame:
        """a, b, measure, stratum, tau, share_a, share_b, share, null, null_lo, null_hi."""
        return pl.concat(
            [
                one.curve.select(pl.lit(one.a).alias("a"), pl.lit(one.b).alias("b"), pl.all())
                for one in self.pairs
            ]
        )

    @property
    def null(self) -> Mapping[str, Any]:
        """Chance for each measure of the first pair: mean and range over draws."""
        return {
            name: found["null"] for name, found in self.pairs[0].numbers.items() if "null" in found
        }

    @property
    def certificate(self) -> Mapping[str, Any]:
        """Of the decoder and the encoder assignment of the first pair."""
        return self.pairs[0].certificates

    def __repr__(self) -> str:
        found = [
            f"{one.a} and {one.b}: shared {one.numbers['shared']['value']:.1%} "
            f"(chance {one.numbers['shared']['null']['mean']:.1%})"
            for one in self.pairs
        ]
        return f"Comparison({'; '.join(found)})"


def over_pairs(pairs: Sequence[PairFacts]) -> dict[str, Any]:
    """Mean over all pairs of each measure, with an interval whose unit is the SAE.

    Args:
        pairs: every two of N SAEs.

    Returns:
        measure to value and interval_95; the interval is null for fewer than three SAEs.
    """
    ends = [(one.a, one.b) for one in pairs]
    out: dict[str, Any] = {}
    for measure in measures.ALL:
        values = np.array([one.numbers[measure.id]["value"] for one in pairs])
        mean, low, high = (float(x) for x in mean_over_pairs(ends, values))
        interval = None if np.isnan(low) else [low, high]
        out[measure.id] = {"value": mean, "interval_95": interval}
    return out


def described(one: Dictionary) -> dict[str, Any]:
    """What is recorded of a dictionary."""
    d, e = one.dimensions
    rule = None if one.sae is None else dict(one.sae.activation)
    return {
        "name": one.name,
        "latents": one.latents,
        "dimensions": d,
        "output_dimensions": e,
        "encoder": one.has_encoder,
        "activation": rule,
        "sha256_of_arrays": one.sha256,
        "about": dict(one.about),
    }


def formulas() -> list[dict[str, Any]]:
    """Id, version, formula, treatment of unequal widths and source of every measure."""
    keys = ("id", "version", "formula", "direction", "unequal_widths", "source")
    return [{key: getattr(measure, key) for key in keys} for measure in measures.ALL]
