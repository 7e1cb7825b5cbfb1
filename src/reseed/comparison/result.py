"""What a comparison found, to read in Python and to keep in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from reseed.comparison.dictionary import Dictionary
from reseed.comparison.measure import PairFacts
from reseed.matching import measures
from reseed.stability.intervals import mean_over_pairs


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
