"""The table of latents as a file for others: one row a latent, with a version.

The columns are described in docs/latent_table.md.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from reseed.errors import SpecError, nearest
from reseed.evidence.display.logits import FILE as LOGITS
from reseed.runs import Group, logits_name
from reseed.store import write_bytes
from reseed.study import Study

Format = Literal["parquet", "csv", "jsonl"]

VERSION_NAME = "latent_table_version"

VERSION = 1
"""Rises when a column changes its name, its unit or its meaning; not when one is added."""

_EXAMPLE = '--where "alive AND n_matched >= 2 AND firing_rate BETWEEN 0.001 AND 0.1"'


def export(
    study: Study,
    path: str | os.PathLike[str],
    *,
    where: str | None = None,
    group: str | None = None,
    columns: Sequence[str] | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> pl.DataFrame:
    """Write one row for each latent, all of them or some; columns in docs/latent_table.md.

    Args:
        study: with results.
        path: the file; `.parquet`, `.csv` or `.jsonl` unless `format` says it.
        where: a condition in SQL, e.g. `"alive AND n_matched >= 2"`.
        group: label or name; this group only.
        columns: which, in this order.
        format: `"parquet"`, `"csv"` or `"jsonl"`.
        overwrite: whether a file that is there may be replaced.

    Returns:
        The table as written.

    Raises:
        SpecError: if a name, the condition or the format is unknown, or the file exists.
        StoreError: if the study has no results, or the file cannot be written.
    """
    kind = check_target(Path(path), format, overwrite=overwrite)
    tables = [_with_tokens(study, runs) for runs in study.groups_named(group)]
    table = select(public(pl.concat(tables, how="diagonal")), where, columns)
    write(table, Path(path), kind)
    return table


def _with_tokens(study: Study, group: Group) -> pl.DataFrame:
    """The table of a group with `top_tokens` and `bottom_tokens` of the runs that have logits."""
    known = [
        study.store.table(logits_name(run), LOGITS).select(
            pl.lit(run).alias("run"), pl.col("latent").cast(pl.Int64),
            pl.col("top").alias("top_tokens"), pl.col("bottom").alias("bottom_tokens"),
        )
        for run in group.runs
        if study.store.has(logits_name(run))
    ]  # fmt: skip
    table, tokens = study.latents_of(group), pl.concat(known) if known else pl.DataFrame()
    if not len(tokens):
        return table
    return table.join(tokens, on=["run", "latent"], how="left", maintain_order="left")


def public(latents: pl.DataFrame) -> pl.DataFrame:
    """The table of latents as others read it: what could not be told (NaN) is null."""
    return latents.with_columns(pl.selectors.float().fill_nan(None))


def select(
    table: pl.DataFrame, where: str | None = None, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Some rows and some columns of a table, both as in `export`.

    Rows for which the condition is null are left out. It can name columns and use SQL's functions
    of them, and nothing else: it reads no file and no other table.
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
                f"the condition {where!r} names {name!r}, which is no column "
                f"({nearest(name, table.columns)}). Text stands in single quotes."
            )
    try:
        keep = table.select(condition.alias("keep"))["keep"]
    except pl.exceptions.PolarsError as error:
        raise SpecError(
            f"the condition {where!r} cannot be applied: {_first_line(error)}. The types of the "
            "columns are in docs/latent_table.md"
        ) from None
    if keep.dtype != pl.Boolean or not condition.meta.root_names():
        raise SpecError(
            f"the condition {where!r} does not say yes or no of a row (it gives "
            f"{keep.dtype}); compare a column with something, e.g. {_EXAMPLE}"
        )
    if len(keep) != len(table):
        raise SpecError(f"the condition {where!r} says the same of all rows; compare each row")
    return condition


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0].rstrip(".")


def format_of(path: Path, wanted: str | None = None) -> Format:
    """The format that was asked for, or that the name's ending says."""
    known = get_args(Format)
    for name in known:
        if wanted == name or (wanted is None and path.suffix.lower() == f".{name}"):
            return name
    if wanted is not None:
        raise SpecError(f"format {wanted!r}: {nearest(wanted, known)}")
    raise SpecError(
        f"{path} does not say its format; end its name with .{', .'.join(known)}, or give --format"
    )


def check_target(path: Path, wanted: str | None = None, *, overwrite: bool) -> Format:
    """The format to write, after a place that cannot take the file was refused."""
    if path.is_dir():
        raise SpecError(f"{path} is a folder; name the file to write, e.g. {path}/latents.parquet")
    if path.exists() and not overwrite:
        raise SpecError(
            f"{path} exists already and was left as it is; give --overwrite (overwrite=True) to "
            "replace it, or another name"
        )
    return format_of(path, wanted)


def write(table: pl.DataFrame, path: Path, kind: Format) -> None:
    """Write a table; it appears whole or not at all.

    Parquet keeps all types and has the version in its metadata. JSONL and CSV get it as a last
    column; in CSV a nested column is JSON in a text column, and null is an empty field.
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
