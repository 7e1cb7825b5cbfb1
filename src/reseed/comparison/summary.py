"""What a comparison found, to read in Python and to keep in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from reseed.comparison.dictionary import Dictionary, described
from reseed.comparison.pair import PairFacts
from reseed.matching import measures
from reseed.matching.measures import MATCH_AT_FDR, PW_MCC, SHARED
from reseed.notebook.markup import NONE, html_table, percent
from reseed.records import to_pandas
from reseed.report.notebook.plots import pair_data, plot_agreement
from reseed.stability.decoys import TRUSTED
from reseed.stability.intervals import jackknife_over_pairs, mean_over_pairs
from reseed.stability.nulls import COVARIANCE, GAUSSIAN
from reseed.stability.proportions import inside

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from reseed.comparison.activations import OnActivations

_SHOWN = (SHARED.id, MATCH_AT_FDR, PW_MCC.id)
"""Measures in the short table."""

_TOGETHER = dict.fromkeys(("act_corr", "contribution", "null_contribution"), pl.Float64)


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
        """a, b and the columns of `PairFacts.curve`."""
        return pl.concat(
            [
                pair.curve.select(pl.lit(pair.a).alias("a"), pl.lit(pair.b).alias("b"), pl.all())
                for pair in self.pairs
            ]
        )

    @property
    def null(self) -> Mapping[str, Any]:
        """Chance for each measure of the first pair: mean and range over draws.

        As `shared` and `share_fdr`, of A's latents; of the mean where a measure has no sides.
        """
        numbers = self.pairs[0].numbers
        return {name: number.get("null_a", number["null"]) for name, number in numbers.items()}

    @property
    def certificate(self) -> Mapping[str, Any]:
        """Of the decoder and the encoder assignment of the first pair."""
        return self.pairs[0].certificates

    def __repr__(self) -> str:
        pair, number = self.pairs[0], self.pairs[0].numbers["shared"]
        more = f"; {len(self.pairs) - 1} more pairs" if len(self.pairs) > 1 else ""
        return (
            f"Comparison({pair.a} in {pair.b}: shared {number['a']:.1%} (chance "
            f"{number['null_a']['mean']:.1%}), {pair.b} in {pair.a}: {number['b']:.1%} "
            f"(chance {number['null_b']['mean']:.1%}){more})"
        )

    def _repr_html_(self) -> str:
        """What is in both of each pair by three measures, beside chance, with counts."""
        counts = {sae["name"]: sae["latents"] for sae in self.summary["saes"]}
        rows: list[dict[str, object]] = []
        for pair in self.pairs:
            for measure in _SHOWN:
                number = pair.numbers[measure]
                null = number["null"]
                over = self.summary["over_pairs"].get(measure, {}).get("interval_95")
                share = percent if measure != PW_MCC.id else _three
                rows.append(
                    {
                        "A": f"{pair.a} ({counts[pair.a]:,})",
                        "B": f"{pair.b} ({counts[pair.b]:,})",
                        "measure": measure,
                        "of A": share(number.get("a")),
                        "of B": share(number.get("b")),
                        "mean": share(number["value"]),
                        "chance": share(null["mean"]),
                        "draws of chance": f"{share(null['lo'])} to {share(null['hi'])}",
                        "95% over pairs": " to ".join(map(share, over)) if over else None,
                    }
                )
        return html_table("Comparison", rows, "Counts of latents stand beside the names.")

    def to_pandas(self) -> pandas.DataFrame:
        """`latents` as a pandas frame; needs the extra `notebook`."""
        return to_pandas(self.latents, "Comparison.to_pandas")

    def plot(self, figure: str = "shares", pair: int = 0) -> Figure:
        """A figure of the page of a comparison as a Plotly figure.

        Args:
            figure: `"shares"`, `"cosines"`, or `"forest"` of all pairs.
            pair: number of the pair in `pairs`.

        Raises:
            SpecError: if there is no such figure or pair.
        """
        tau = self.summary["tau"]
        return plot_agreement([pair_data(facts, tau) for facts in self.pairs], figure, pair)


def _three(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def assembled(
    compared: Sequence[Dictionary],
    pairs: Sequence[PairFacts],
    tau: float,
    warnings: Sequence[str],
    behaviour: Mapping[str, OnActivations] = MappingProxyType({}),
    together: Mapping[tuple[str, str], pl.DataFrame] | None = None,
    crossing: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
    """A comparison out of its pairs."""
    warnings = [*warnings, *_doubts(pairs)]
    saes = [described(dictionary) for dictionary in compared]
    for sae in saes:
        if sae["name"] in behaviour:
            on = behaviour[sae["name"]]
            live, dead = int(on.live.sum()), int((~on.live).sum())
            sae["on_activations"] = {**on.reconstruction, "live": live, "dead": dead}
    summary = {
        "reseed": version("reseed"),
        "tau": tau,
        "saes": saes,
        "pairs": [
            {"a": pair.a, "b": pair.b, "numbers": pair.numbers, "certificates": pair.certificates}
            for pair in pairs
        ],
        "over_pairs": _over_pairs(pairs),
        "null": COVARIANCE,
        "measures": formulas(),
        "warnings": list(warnings),
        **({"crossing": list(crossing)} if crossing else {}),
    }
    return Comparison(
        names=tuple(dictionary.name for dictionary in compared),
        pairs=tuple(pairs),
        latents=_latents(pairs, behaviour, together),
        summary=summary,
        warnings=tuple(warnings),
    )


def _doubts(pairs: Sequence[PairFacts]) -> list[str]:
    """Where the usual null did not do."""
    out: dict[str, None] = {}
    for pair in pairs:
        kind = pair.numbers["shared"]["null_kind"]
        if kind != GAUSSIAN:
            out[
                f"{pair.a} and {pair.b}: rows are less like Gaussian ones than chance needs, so "
                f"chance is that of real rows with random signs ({kind})"
            ] = None
        for side, name in (("a", pair.a), ("b", pair.b)):
            share = pair.numbers[measures.MATCH_AT_FDR]["itself"][side]
            if share > TRUSTED:
                out[
                    f"{name}: the test at a false discovery rate of 5 % finds {share:.0%} of its "
                    "latents among its own others, so it has near-duplicates or rows more alike "
                    "than any random ones; its own rows are decoys too, and a match is one more "
                    "alike than latents of one SAE are"
                ] = None
    return list(out)


def _latents(
    pairs: Sequence[PairFacts],
    behaviour: Mapping[str, OnActivations],
    together: Mapping[tuple[str, str], pl.DataFrame] | None,
) -> pl.DataFrame:
    """All pair tables under each other, seen from each side, with firing where it is known.

    Columns alive, firing_rate, mean_act, act_corr, contribution and null_contribution only with
    activations; null where an SAE cannot be run.
    """
    sides = [
        (pair, side, own, other)
        for pair in pairs
        for side, own, other in (("a", pair.a, pair.b), ("b", pair.b, pair.a))
    ]
    table = pl.concat(
        pair.table.filter(side=side)
        .drop("side")
        .select(pl.lit(own).alias("sae"), pl.lit(other).alias("other"), pl.all())
        for pair, side, own, other in sides
    )
    if behaviour:
        firing = pl.concat(
            on.firing.select(
                pl.lit(name).alias("sae"),
                "latent",
                (pl.col("fired") > 0).alias("alive"),
                pl.col("rate").alias("firing_rate"),
                "mean_act",
            )
            for name, on in behaviour.items()
        )
        table = table.join(firing, on=["sae", "latent"], how="left", maintain_order="left")
    if together is None:
        return table
    on = ["sae", "other", "latent"]
    schema = {"sae": pl.String, "other": pl.String, "latent": pl.Int64, **_TOGETHER}
    frames = [pl.DataFrame(schema=schema)]
    frames += [
        together[pair.a, pair.b].select(
            pl.lit(own).alias("sae"),
            pl.lit(other).alias("other"),
            pl.col(f"latent_{side}").alias("latent"),
            *_TOGETHER,
        )
        for pair, side, own, other in sides
        if (pair.a, pair.b) in together
    ]
    return table.join(pl.concat(frames), on=on, how="left", maintain_order="left")


def _over_pairs(pairs: Sequence[PairFacts]) -> dict[str, Any]:
    """Mean over all pairs of each measure, with an interval whose unit is the SAE."""
    ends = [(pair.a, pair.b) for pair in pairs]
    fewest = min(int(pair.table["side"].value_counts()["count"].to_numpy().min()) for pair in pairs)
    out: dict[str, Any] = {}
    for measure in measures.ALL:
        values = np.array([pair.numbers[measure.id]["value"] for pair in pairs])
        if measure in measures.MEANS:
            mean, *around = jackknife_over_pairs(ends, values)
            estimate = (mean, *inside((around[0], around[1]), lowest=-1.0))  # a cosine
        else:
            estimate = mean_over_pairs(ends, values, latents=fewest)
        mean, low, high = map(float, estimate)
        interval = None if np.isnan(low) else [low, high]
        out[measure.id] = {"value": mean, "interval_95": interval}
    return out


def formulas() -> list[dict[str, Any]]:
    """Id, version, formula, treatment of unequal widths and source of every measure."""
    keys = ("id", "version", "formula", "direction", "unequal_widths", "source")
    return [{key: getattr(measure, key) for key in keys} for measure in measures.ALL]
