"""What is made of finished studies without training: a prediction, a file of all latents.

The table of latents as a file for others: one row a latent, with a version.

The columns are described in docs/latent_table.md.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from reseed.errors import SpecError, nearest
from reseed.matching.stage import load_snapshot
from reseed.prediction.fit import Prediction, predict
from reseed.prediction.rows import Labelled, own_p95
from reseed.runs import Group, pair_name, pairs_of
from reseed.stability.latents import shared_edges
from reseed.stability.shares import PairTable
from reseed.store import write_bytes
from reseed.study import Study


def _tables(study: Study, group: Group) -> list[PairTable]:
    last = f"{group.steps[-1]:08d}.parquet"
    return [
        PairTable(pair, study.store.table(pair_name(pair), last)) for pair in pairs_of(group.runs)
    ]


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
    check_target(path, overwrite=overwrite)
    wanted = format_of(path, kind)
    frames = [study.latents_of(one) for one in study.groups_named(group)]
    every = public(pl.concat(frames, how="diagonal"))
    table = select(every, where, columns)
    write(table, path, wanted)
    return table, len(every)


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
        for one in study.groups_named(group if apply is None or len(train) == 1 else None)
    ]
    if apply is None:
        return predict(learned)
    if isinstance(apply, pl.DataFrame):
        return predict(learned, apply)
    there = [_labelled(apply, one, one.label) for one in apply.groups_named(None)]
    table = pl.concat(
        [one.latents.select(pl.lit(one.name).alias("group"), pl.all()) for one in there],
        how="diagonal_relaxed",
    )
    return predict(learned, table, there)


def _labelled(study: Study, group: Group, name: str) -> Labelled:
    latents = study.latent_table(group)
    spread = pl.concat(
        [own_p95(load_snapshot(study.store, run, group.steps[-1]).W_dec, run) for run in group.runs]
    )
    tables = _tables(study, group)
    edges = {"run_a": pl.String, "latent_a": pl.Int64, "run_b": pl.String, "latent_b": pl.Int64}
    shared = shared_edges(tables, study.spec.matching.tau) if tables else pl.DataFrame(schema=edges)
    joined = latents.join(spread, on=["run", "latent"], how="left", maintain_order="left")
    return Labelled(name, joined, shared)


Format = Literal["parquet", "csv", "jsonl"]

VERSION_NAME = "latent_table_version"

VERSION = 1
"""Rises when a column changes its name, its unit or its meaning; not when one is added."""

_EXAMPLE = '--where "alive AND n_matched >= 2 AND firing_rate BETWEEN 0.001 AND 0.1"'


def public(latents: pl.DataFrame) -> pl.DataFrame:
    """The table of latents as others read it: what could not be told (NaN) is null.

    Args:
        latents: as in `Study.latents`; columns not known here are kept.
    """
    return latents.with_columns(pl.selectors.float().fill_nan(None))


def select(
    table: pl.DataFrame, where: str | None = None, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Some rows and some columns of a table.

    Args:
        table: from `public`.
        where: a condition on columns in SQL, e.g. `"alive AND n_matched >= 2"`; rows for which it
            is null are left out. It can name columns and use SQL's functions of them, and nothing
            else: it reads no file and no other table.
        columns: which columns, in this order; all if left out.

    Raises:
        SpecError: if the condition cannot be read or is none, or a column is unknown.
    """
    for name in columns or ():
        if name not in table.columns:
            raise SpecError(
                f"no column {name!r} in the table of latents; {nearest(name, table.columns)}"
            )
    if columns is not None and len(set(columns)) < len(columns):
        raise SpecError(f"columns = {list(columns)} names a column twice")
    kept = table if where is None else table.filter(_condition(table, where))
    return kept if columns is None else kept.select(columns)


def _condition(table: pl.DataFrame, where: str) -> pl.Expr:
    """The condition as an expression that was found to say yes or no of each row."""
    try:
        condition = pl.sql_expr(where)
    except pl.exceptions.PolarsError as error:
        raise SpecError(
            f"the condition {where!r} cannot be read: {_first_line(error)}. It is one SQL "
            f"condition on columns, e.g. {_EXAMPLE}"
        ) from None
    for name in condition.meta.root_names():
        if name.startswith("_POLARS_TMP"):
            raise SpecError(f"the condition {where!r} has a sub-query; it can only name columns")
        if name not in table.columns:
            raise SpecError(
                f"the condition {where!r} names {name!r}, which is no column; "
                f"{nearest(name, table.columns)}. Text stands in single quotes."
            )
    try:
        found = table.select(condition.alias("keep"))
    except pl.exceptions.PolarsError as error:
        raise SpecError(
            f"the condition {where!r} cannot be applied: {_first_line(error)}. The types of the "
            "columns are in docs/latent_table.md"
        ) from None
    if found.schema["keep"] != pl.Boolean or not condition.meta.root_names():
        raise SpecError(
            f"the condition {where!r} does not say yes or no of a row (it gives "
            f"{found.schema['keep']}); compare a column with something, e.g. {_EXAMPLE}"
        )
    if len(found) != len(table):
        raise SpecError(f"the condition {where!r} says the same of all rows; compare each row")
    return condition


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0].rstrip(".")


def format_of(path: Path, wanted: str | None = None) -> Format:
    """The format that was asked for, or that the name's ending says.

    Raises:
        SpecError: if it is none of the three.
    """
    known = get_args(Format)
    for one in known:
        if wanted == one or (wanted is None and path.suffix.lower() == f".{one}"):
            return one
    if wanted is not None:
        raise SpecError(f"format {wanted!r}: {nearest(wanted, known)}")
    raise SpecError(
        f"{path} does not say its format; end its name with .{', .'.join(known)}, or give --format"
    )


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that cannot take the file, before any work.

    Raises:
        SpecError: if it is a folder, or a file that may not be replaced.
    """
    if path.is_dir():
        raise SpecError(f"{path} is a folder; name the file to write, e.g. {path}/latents.parquet")
    if path.exists() and not overwrite:
        raise SpecError(
            f"{path} exists already and was left as it is; give --overwrite (overwrite=True) to "
            "replace it, or another name"
        )


def write(table: pl.DataFrame, path: Path, kind: Format) -> None:
    """Write a table; it appears whole or not at all.

    Parquet keeps all types and has the version in its metadata. JSONL and CSV get it as a last
    column; in CSV a nested column is JSON in a text column, and null is an empty field.

    Raises:
        StoreError: if the disk is full or the folder read-only.
    """
    buffer = io.BytesIO()
    if kind == "parquet":
        table.write_parquet(buffer, metadata={VERSION_NAME: str(VERSION)})
    else:
        marked = table.with_columns(pl.lit(VERSION).alias(VERSION_NAME))
        if kind == "jsonl":
            marked.write_ndjson(buffer)
        else:
            _flat(marked).write_csv(buffer)
    write_bytes(path, buffer.getvalue())


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Nested columns as JSON text."""
    nested = [name for name, kind in table.schema.items() if kind.is_nested()]
    return table.with_columns(
        # a struct around it, since only structs are encoded; its own name is cut off again
        pl.when(pl.col(name).is_not_null())
        .then(
            pl.struct(pl.col(name).alias("x"))
            .struct.json_encode()
            .str.strip_prefix('{"x":')
            .str.strip_suffix("}")
        )
        .alias(name)
        for name in nested
    )
