"""The nearest latents of other runs, and the places in the text where latents fire most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from reseed.report.html import visible
from reseed.runs import evidence_name, pair_name, pairs_of
from reseed.store import Store

_TEXTS = 20_000
"""Places in the text that a page carries for a table; what each latent gets of them is equal."""
_TEXTS_EACH = 3
_PARTNERS = 100_000
"""The same for the nearest latents in other runs; each latent has one at least."""
_AROUND = 70
"""Characters on each side of the token where a latent fires."""

Place = tuple[str, str, str]
"""What stands before a token, the token, and what stands after it."""

_SIDE = {"run": pl.String, "latent": pl.Int64, "other": pl.String, "partner": pl.Int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What the table of a group is made of, beside the table of latents."""

    partners: pl.DataFrame
    """run, latent, other, partner, cosine, best first: the nearest decoder row of another run"""
    places: Mapping[tuple[str, int], Sequence[Place]]
    """run and latent to the strongest places"""


def read_listing(
    store: Store, runs: Mapping[str, tuple[int, int]], latents: int, *, apart: bool
) -> Catalogue:
    """Partners and text of all latents of a group.

    Args:
        store: of the study.
        runs: of the group, to init seed and data seed.
        latents: of all runs.
        apart: whether only runs that share neither seed count as others.
    """
    partners = _partners(store, runs, max(1, _PARTNERS // latents), apart=apart)
    each = min(_TEXTS_EACH, _TEXTS // latents)
    return Catalogue(partners=partners, places=_places(store, list(runs), each))


def _partners(
    store: Store, runs: Mapping[str, tuple[int, int]], each: int, *, apart: bool
) -> pl.DataFrame:
    frames = [pl.DataFrame(schema=_SIDE | {"cosine": pl.Float64})]
    for pair in pairs_of(list(runs)):
        share = any(a == b for a, b in zip(*(runs[run] for run in pair), strict=True))
        if (apart and share) or not store.has(pair_name(pair)):
            continue
        last = max(map(int, store.document(pair_name(pair), "certificates.json")))
        table = store.table(pair_name(pair), f"{last:08d}.parquet")
        for side, run, other in (("a", *pair), ("b", pair[1], pair[0])):
            frames.append(
                table.filter(pl.col("side") == side).select(
                    pl.lit(run).alias("run"),
                    "latent",
                    pl.lit(other).alias("other"),
                    pl.col("decoder_nearest").alias("partner"),
                    pl.col("decoder_max_cos").alias("cosine"),
                )
            )
    order = ["run", "latent", "cosine", "other"]
    ordered = pl.concat(frames).sort(order, descending=[False, False, True, False])
    return ordered.group_by("run", "latent", maintain_order=True).head(each)


def _places(store: Store, runs: Sequence[str], each: int) -> dict[tuple[str, int], list[Place]]:
    out: dict[tuple[str, int], list[Place]] = {}
    for run in runs if each else ():
        table = store.table(evidence_name(run), "contexts.parquet")
        first = table.group_by("latent", maintain_order=True).head(each)
        for row in first.select("latent", "tokens", "activations").iter_rows():
            out.setdefault((run, row[0]), []).append(shortened(row[1], row[2]))
    return out


def shortened(tokens: Sequence[str], activations: Sequence[float | None]) -> Place:
    """The token that a latent fires on most strongly, with what stands around it."""
    at = max(range(len(tokens)), key=lambda n: activations[n] or 0.0)
    before, after = (visible("".join(part)) for part in (tokens[:at], tokens[at + 1 :]))
    return before[-_AROUND:], visible(tokens[at]), after[:_AROUND]
