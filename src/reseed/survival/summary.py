"""What all pieces of a study say together: the numbers of `survival.json` and two tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version as version_of
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reseed.runs import Group, stability_name, variant_name
from reseed.seeds import generator
from reseed.spec.variants import PrunedSpec, VariantSpec
from reseed.stability.group import seeds_in
from reseed.stability.intervals import bootstrap_mean
from reseed.store import Store
from reseed.study import Study
from reseed.survival.surviving import SURVIVES, OverRuns, curves, group_numbers, with_strata

SCHEMA = 2

VERSION = 1
"""Of what the columns of a piece of a run mean."""

SUMMARY_PIECE = "survival/_summary"

_DRAWS = 2000

_JOINED = ("init_seed", "data_seed", "n_matched", "n_seeds", "verdict", "family")


def survival_name(variant: str | None, of: str) -> str:
    """Name of the piece of a run in a variant; None is the whole."""
    return "/".join(["survival", *([variant] if variant else []), of])


def second_name(variant: str, group: Group) -> str:
    """Name of the piece with the second opinions of a group in a variant."""
    return survival_name(variant, f"_second/{group.name}")


def arms_of(latents: int, tokens: int) -> dict[str, dict[str, Any]]:
    """Kinds of crosscoders of this size, by what they have that the plain one has not.

    `auxk` is what the other two stand beside: they need it, and it alone changes what is found.
    """
    auxk = {"auxk_alpha": 1 / 32, "dead_after": max(1, tokens // 20)}
    own = {"exclusive": max(0.05, 1 / latents)}
    return {"auxk": auxk, "exclusive": auxk | own, "delta": auxk | {"delta": 1.0}}


class Version(NamedTuple):
    """A variant of the subject."""

    label: str
    variant: VariantSpec
    about: Mapping[str, Any]
    """its settings as JSON"""
    made_from: Sequence[Any]
    """all of the spec that decides it"""


def read_version(variant: VariantSpec, study: Study) -> Version:
    """A variant, and all of the spec that decides what it is."""
    about = variant.model_dump(mode="json", exclude_defaults=True) | {"method": variant.method}
    same = getattr(variant, "equal_perplexity", None)
    of = next((v for v in study.spec.variant if v.label == same), None)
    decides = [v and v.model_dump(mode="json") for v in (variant, of)]
    # of sites that are read together, a row that is too long at one is left out at all
    together = study.spec.read if study.spec.activations.max_norm is not None else None
    made_from = [VERSION, study.spec.data, together, *decides]
    return Version(variant.label, variant, about, made_from)


def summarise(study: Study, groups: Sequence[Group], versions: Sequence[Version]) -> None:
    """Make `survival/_summary`: latents.parquet, curves.parquet, survival.json."""
    store = study.store
    names = [survival_name(v.label, run) for v in versions for g in groups for run in g.runs]
    names += [stability_name(group.name) for group in groups]
    entropies = [survival_name(label, "_subject") for label in (None, *(v.label for v in versions))]
    seconds = [second_name(version.label, group) for version in versions for group in groups]
    names += [name for name in (*entropies, *seconds) if store.has(name)]
    inputs = [SCHEMA, {name: store.checksum(name) for name in names}, [v.about for v in versions]]
    store.make(SUMMARY_PIECE, inputs, partial(_files, study, groups, versions))


def _files(study: Study, groups: Sequence[Group], versions: Sequence[Version]) -> dict[str, Any]:
    latents, curved, entries = [], [], []
    for version in versions:
        entry: dict[str, Any] = {
            "variant": version.label,
            "method": version.about["method"],
            "settings": dict(version.about),
            "share_removed": _removed(study.store, version),
            "cross_entropy": _cross_entropy(study.store, version.label),
            "groups": {},
        }
        for group in groups:
            rows, sites, numbers = _group(study, group, version)
            names = [pl.lit(v).alias(k) for k, v in _names(version, group).items()]
            latents.append(rows.select(*names, pl.all()))
            curved.append(curves(rows, sites).select(*names, pl.all()))
            entry["groups"][group.label] = numbers
        entries.append(entry)
    _beside_random(entries, versions, groups, study)
    whole = _cross_entropy(study.store, None)
    about = {
        "schema_version": SCHEMA,
        "reseed": version_of("reseed"),
        "study": study.folder.resolve().name,
        "survives": SURVIVES,
        "unit": "SAE runs (whole seeds where both vary); blocks for cross-entropy and for r",
        "whole": {"cross_entropy": whole},
        "variants": entries,
    }
    tables = {"latents.parquet": pl.concat(latents), "curves.parquet": pl.concat(curved)}
    return {**tables, "survival.json": about}


def _names(version: Version, group: Group) -> dict[str, str]:
    return {"variant": version.label, "group": group.label}


def latents_of(study: Study, group: Group, version: Version) -> tuple[pl.DataFrame, OverRuns]:
    """The latents of a group that fire in the whole, in a variant; and what averages over runs."""
    table = study.latent_table(group)
    every = pl.concat(
        study.store.table(survival_name(version.label, run), "latents.parquet").select(
            pl.lit(run).alias("run"), pl.all()
        )
        for run in group.runs
    )
    joined = [name for name in _JOINED if name in table.columns]
    known = table.select("run", pl.col("latent").cast(every.schema["latent"]), *joined)
    every = every.join(known, on=["run", "latent"], how="left", maintain_order="left")
    rows = with_strata(every).with_columns((pl.col("r") >= SURVIVES).alias("survives"))
    return rows, OverRuns(seeds_in(table))


def _group(
    study: Study, group: Group, version: Version
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Latents that fire in the whole, directions of the site, and the numbers of both."""
    store = study.store
    rows, over = latents_of(study, group, version)
    pieces = {run: survival_name(version.label, run) for run in group.runs}
    sites = store.table(pieces[group.runs[0]], "directions.parquet")
    fits = {run: store.document(piece, "fit.json") for run, piece in pieces.items()}
    numbers = group_numbers(rows, over, f"{version.label} {group.name}")
    second = second_name(version.label, group)
    told = {"second": store.document(second, "second.json")} if store.has(second) else {}
    return rows, sites, numbers | _fit(fits, over) | _directions(sites) | told


def _fit(fits: Mapping[str, Any], over: OverRuns) -> dict[str, Any]:
    """FVU and L0 on both versions, and how far the site has moved."""
    first = next(iter(fits.values()))
    out: dict[str, Any] = {
        name: {
            side: over.mean(
                {run: n for run, fit in fits.items() if (n := fit[side][name]) is not None}
            )
            for side in ("whole", "variant")
        }
        for name in ("fvu", "fvu_robust", "l0")
    }
    return out | {name: first[name] for name in ("site", "distance", "rows", "bundles")}


def _directions(sites: pl.DataFrame) -> dict[str, Any]:
    parts = sites.group_by("kind", maintain_order=True).agg(
        (pl.col("r") >= SURVIVES).mean().alias("share"), pl.len().alias("count")
    )
    rows = parts.iter_rows(named=True)
    return {
        "directions": {
            row["kind"]: {"value": row["share"], "directions": row["count"]} for row in rows
        }
    }


def _removed(store: Store, version: Version) -> float | None:
    """Share of the parameters of all structures that is gone; None where none is taken out."""
    if store.has(name := variant_name(version.label)):
        return store.document(name, "removed.json").get("share")
    return version.about.get("share")


def _cross_entropy(store: Store, variant: str | None) -> dict[str, Any] | None:
    """Of the next token in nats, over blocks, and how much more than the whole's on the same."""
    name, whole = survival_name(variant, "_subject"), survival_name(None, "_subject")
    if not store.has(name):
        return None
    own, other = (
        store.table(piece, "cross_entropy.parquet")["cross_entropy"].to_numpy()
        for piece in (name, whole)
    )
    known = np.isfinite(own) & np.isfinite(other)
    if not known.any():
        return None
    out = _over_blocks(own[known], name)
    out["perplexity"] = float(np.exp(out["value"]))
    if variant is not None:
        out["more_than_whole"] = _over_blocks((own - other)[known], f"{name} - whole")
    return out


def _over_blocks(values: NDArray[np.float64], name: str) -> dict[str, Any]:
    low, high = bootstrap_mean(values, _DRAWS, generator("survival-blocks", name))
    ends = [float(low), float(high)]
    return {"value": float(values.mean()), "interval_95": ends, "blocks": len(values)}


def _beside_random(
    entries: Sequence[dict[str, Any]],
    versions: Sequence[Version],
    groups: Sequence[Group],
    study: Study,
) -> None:
    """Set each pruned variant beside random structures at equal share and at equal perplexity."""
    by_label = {entry["variant"]: entry for entry in entries}
    pruned = [v for v in versions if isinstance(v.variant, PrunedSpec)]
    for version in pruned:
        spec = version.variant
        entry = by_label[version.label]
        for key, found in (
            ("random_at_equal_share", _same_share(spec, pruned)),
            ("random_at_equal_perplexity", _same_perplexity(version.label, pruned)),
        ):
            if found is None:
                continue
            for group in groups:
                own, other = (e["groups"][group.label] for e in (entry, by_label[found]))
                values = (numbers["survival"]["by_run"] for numbers in (own, other))
                mine, theirs = values
                difference = {run: mine[run] - theirs[run] for run in mine}
                over = OverRuns(seeds_in(study.latent_table(group)))
                own[key] = {"variant": found, "difference": over.mean(difference)}


def _same_share(spec: Any, pruned: Sequence[Version]) -> str | None:
    hits = [
        v.label
        for v in pruned
        if v.variant.method == "random"
        and spec.method != "random"
        and getattr(v.variant, "share", None) == spec.share is not None
    ]
    return hits[0] if hits else None


def _same_perplexity(label: str, pruned: Sequence[Version]) -> str | None:
    hits = [v.label for v in pruned if getattr(v.variant, "equal_perplexity", None) == label]
    return hits[0] if hits else None
