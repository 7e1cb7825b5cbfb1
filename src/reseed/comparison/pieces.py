"""The door of comparison: each pair a piece of its own, so that a stopped comparison continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.comparison.dictionary import Dictionary
from reseed.comparison.pair import LARGE, Members, PairFacts, measure_pair
from reseed.comparison.result import Comparison, check, described, formulas, over_pairs
from reseed.events import Events, Task
from reseed.matching.stage import shown
from reseed.runs import compared_name
from reseed.seeds import digest
from reseed.stability.nulls.names import COVARIANCE
from reseed.store import Store, json_bytes, parquet_bytes

if TYPE_CHECKING:
    from reseed.comparison.functional import OnActivations


SUMMARY, LATENTS, CURVE = "comparison.json", "latents.parquet", "curve.parquet"

_TABLES = ("table", "curve", "cosines")

_DRAWS = 3

_CORRELATED = {"sae": pl.String, "other": pl.String, "latent": pl.Int64, "act_corr": pl.Float64}


def compare_all(
    given: Sequence[Dictionary],
    *,
    tau: float,
    null_draws: int | None,
    functional: Mapping[str, OnActivations],
    warnings: Sequence[str],
    store: Store | None,
    events: Events,
) -> Comparison:
    """Compare every two of these dictionaries.

    Args:
        given: two or more, of equal dimensions.
        tau: cosine that counts as shared.
        null_draws: of the covariance-matched null for each pair; None for 3, and for 1 where
            both have 4,096 latents or more.
        functional: what activations showed of each; empty without.
        warnings: that were found on the way here.
        store: where each pair is kept; None to keep nothing.
        events: progress.

    Raises:
        SpecError: if dimensions differ.
        StoreError: if the folder cannot be written or is damaged.
    """
    said = [*check(given), *warnings]
    strata = _strata(given, functional)
    pairs: list[PairFacts] = []
    couples = list(combinations(given, 2))
    with events.task("compare", len(couples), "pairs") as task:
        for a, b in couples:
            draws = null_draws or (1 if min(a.latents, b.latents) >= LARGE else _DRAWS)
            pairs.append(_pair(a, b, tau, draws, strata, store, task))
            task.advance(1)
    summary = _summary(given, pairs, functional, said, tau)
    return Comparison(
        names=tuple(one.name for one in given),
        pairs=tuple(pairs),
        latents=_latents(pairs, functional),
        summary=summary,
        warnings=tuple(said),
    )


def decoder_pairs(table: pl.DataFrame) -> NDArray[np.int64]:
    """`[E, 2]` latents of A and B that the decoder assignment pairs."""
    mine = table.filter(pl.col("side") == "a").drop_nulls("decoder_match")
    return mine.select("latent", "decoder_match").to_numpy().astype(np.int64)


def with_firing(
    found: Comparison,
    correlations: Mapping[tuple[str, str], NDArray[np.float64]],
    crossing: Sequence[Mapping[str, Any]],
) -> Comparison:
    """The same with what only activations can say.

    Args:
        found: a comparison.
        correlations: of the activations of the pairs that `decoder_pairs` gives, `[E]`.
        crossing: what crossing over between subjects reconstructs.

    Returns:
        With a column `act_corr` in `latents`, null where one of the two cannot be run.
    """
    frames = [pl.DataFrame(schema=_CORRELATED)]
    for one in found.pairs:
        if (one.a, one.b) not in correlations:
            continue
        matched, values = decoder_pairs(one.table), correlations[one.a, one.b]
        for side, own, other in ((0, one.a, one.b), (1, one.b, one.a)):
            columns = {"latent": matched[:, side], "act_corr": values}
            names = [pl.lit(own).alias("sae"), pl.lit(other).alias("other")]
            frames.append(pl.DataFrame(columns).select(*names, pl.all()))
    latents = found.latents.join(
        pl.concat(frames), on=["sae", "other", "latent"], how="left", maintain_order="left"
    )
    more = {"crossing": list(crossing)} if crossing else {}
    return replace(found, latents=latents, summary={**found.summary, **more})


def write(found: Comparison, store: Store) -> None:
    """Write the tables and `comparison.json` of a comparison.

    Raises:
        StoreError: if the disk is full or the folder read-only.
    """
    store.write_bytes(LATENTS, parquet_bytes(found.latents))
    store.write_bytes(CURVE, parquet_bytes(found.curve))
    store.write_json(SUMMARY, found.summary)


def _strata(
    given: Sequence[Dictionary], functional: Mapping[str, OnActivations]
) -> dict[str, Members]:
    out: dict[str, Members] = {"all": {d.name: np.ones(d.latents, dtype=bool) for d in given}}
    if functional:
        everyone = out["all"]
        out["live"] = {
            name: functional[name].live if name in functional else everyone[name]
            for name in everyone
        }
    return out


def _pair(
    a: Dictionary,
    b: Dictionary,
    tau: float,
    draws: int,
    strata: Mapping[str, Members],
    store: Store | None,
    task: Task,
) -> PairFacts:
    name = compared_name(a.name, b.name)
    live = [np.packbits(strata["live"][d.name]).tobytes().hex() for d in (a, b) if "live" in strata]
    made_from = digest([a.sha256, b.sha256, tau, draws, live, [m["id"] for m in formulas()]])
    if store is not None and store.has(name, made_from):
        tables = {table: store.table(name, f"{table}.parquet") for table in _TABLES}
        return PairFacts(**tables, **store.document(name, "pair.json"))
    show = shown(task, f"{a.name} with {b.name}", a.latents * b.latents)
    found = measure_pair(a, b, tau=tau, draws=draws, strata=strata, show=show)
    if store is not None:
        with store.piece(name, made_from) as folder:
            for table in _TABLES:
                path = folder / f"{table}.parquet"
                path.write_bytes(parquet_bytes(getattr(found, table)))
            rest = {key: getattr(found, key) for key in ("a", "b", "numbers", "certificates")}
            (folder / "pair.json").write_bytes(json_bytes(rest))
    return found


def _latents(pairs: Sequence[PairFacts], functional: Mapping[str, OnActivations]) -> pl.DataFrame:
    """All pair tables under each other, seen from each side, with firing where it is known."""
    frames = [
        one.table.filter(side=side)
        .drop("side")
        .select(pl.lit(own).alias("sae"), pl.lit(other).alias("other"), pl.all())
        for one in pairs
        for side, own, other in (("a", one.a, one.b), ("b", one.b, one.a))
    ]
    table = pl.concat(frames)
    if not functional:
        return table
    firing = pl.concat(
        [
            one.firing.select(
                pl.lit(name).alias("sae"),
                "latent",
                (pl.col("fired") > 0).alias("alive"),
                pl.col("rate").alias("firing_rate"),
                "mean_act",
            )
            for name, one in functional.items()
        ]
    )
    return table.join(firing, on=["sae", "latent"], how="left", maintain_order="left")


def _summary(
    given: Sequence[Dictionary],
    pairs: Sequence[PairFacts],
    functional: Mapping[str, OnActivations],
    warnings: Sequence[str],
    tau: float,
) -> dict[str, Any]:
    return {
        "reseed": version("reseed"),
        "tau": tau,
        "saes": [
            described(one)
            | (
                {"on_activations": _behaviour(functional[one.name])}
                if one.name in functional
                else {}
            )
            for one in given
        ],
        "pairs": [
            {"a": one.a, "b": one.b, "numbers": one.numbers, "certificates": one.certificates}
            for one in pairs
        ],
        "over_pairs": over_pairs(pairs),
        "null": COVARIANCE,
        "measures": formulas(),
        "warnings": list(warnings),
    }


def _behaviour(one: OnActivations) -> dict[str, Any]:
    live = one.live
    return {**one.reconstruction, "live": int(live.sum()), "dead": int((~live).sum())}
