"""What is made of finished studies without training: a prediction, a file of all latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from reseed.errors import SpecError, StoreError, nearest
from reseed.matching.stage import load_snapshot, pair_name, pairs_of
from reseed.stability import export as latent_table
from reseed.stability.latents import shared_edges
from reseed.stability.predict import Labelled, own_p95
from reseed.stability.prediction import Prediction, predict
from reseed.stability.shares import PairTable
from reseed.stability.stage import Group, stability_name
from reseed.study import Study

# -- groups ----------------------------------------------------------------------------------------


def groups_of(study: Study, name: str | None) -> list[Group]:
    """The groups of a study with results, or the one of this name or label.

    Raises:
        StoreError: if the study has not come this far.
        SpecError: if there is no such group.
    """
    groups = study.groups()
    if not groups:
        raise StoreError(f"{study.folder} has no finished runs yet; `reseed run` makes them")
    if name is None:
        return groups
    known = {label: g for g in groups for label in (g.name, g.label)}
    if name not in known:
        labels = [g.label for g in groups]
        raise SpecError(f"no group {name!r} in {study.folder}; {nearest(name, labels)}")
    return [known[name]]


def _tables(study: Study, group: Group) -> list[PairTable]:
    last = f"{group.steps[-1]:08d}.parquet"
    return [
        PairTable(pair, study.store.table(pair_name(pair), last)) for pair in pairs_of(group.runs)
    ]


def latents_of(study: Study, group: Group) -> pl.DataFrame:
    """The table of latents of a group.

    Raises:
        StoreError: if the study has not come this far, or it is damaged.
    """
    return study.store.table(stability_name(group.name), "latents.parquet")


# -- the file of all latents -----------------------------------------------------------------------


def export_latents(
    study: Study,
    path: Path,
    *,
    where: str | None = None,
    group: str | None = None,
    columns: Sequence[str] | None = None,
    kind: str | None = None,
    overwrite: bool = False,
) -> tuple[pl.DataFrame, int]:
    """Write the table of latents; gives it, and how many rows there were to choose from.

    Raises:
        SpecError, StoreError: as `reseed.export`.
    """
    latent_table.check_target(path, overwrite=overwrite)
    wanted = latent_table.format_of(path, kind)
    frames = [study.latents_of(one) for one in groups_of(study, group)]
    every = latent_table.public(pl.concat(frames, how="diagonal"))
    table = latent_table.select(every, where, columns)
    latent_table.write(table, path, wanted)
    return table, len(every)


# -- the prediction --------------------------------------------------------------------------------


def predict_from(
    train: Sequence[Study], apply: Study | pl.DataFrame | None, group: str | None
) -> Prediction:
    """Learn from the groups of some studies, and apply to another study or a table.

    Raises:
        SpecError, StoreError: as `reseed.predict`.
    """
    learned = [
        _labelled(study, one, f"{study.folder.name}: {one.label}")
        for study in train
        for one in groups_of(study, group if apply is None or len(train) == 1 else None)
    ]
    if apply is None:
        return predict(learned)
    if isinstance(apply, pl.DataFrame):
        return predict(learned, apply)
    there = [_labelled(apply, one, one.label) for one in groups_of(apply, None)]
    table = pl.concat(
        [one.latents.select(pl.lit(one.name).alias("group"), pl.all()) for one in there],
        how="diagonal_relaxed",
    )
    return predict(learned, table, there)


def _labelled(study: Study, group: Group, name: str) -> Labelled:
    latents = latents_of(study, group)
    spread = pl.concat(
        [own_p95(load_snapshot(study.store, run, group.steps[-1]).W_dec, run) for run in group.runs]
    )
    tables = _tables(study, group)
    edges = {"run_a": pl.String, "latent_a": pl.Int64, "run_b": pl.String, "latent_b": pl.Int64}
    shared = shared_edges(tables, study.spec.matching.tau) if tables else pl.DataFrame(schema=edges)
    joined = latents.join(spread, on=["run", "latent"], how="left", maintain_order="left")
    return Labelled(name, joined, shared)
