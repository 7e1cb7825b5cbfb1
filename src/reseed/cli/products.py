"""The commands that make something of finished studies; each a few lines around its door."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from reseed.errors import SpecError
from reseed.study import Study

StudyPath = Annotated[
    Path,
    typer.Argument(help="The study's TOML file, or the folder of its results.", metavar="STUDY"),
]

GroupName = Annotated[
    str | None, typer.Option("--group", help="Label or name of one group of runs.")
]

_TABLES = (".parquet", ".csv", ".jsonl")


def consensus(
    study: StudyPath,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the results; else the TOML's name without ending."),
    ] = None,
    group: GroupName = None,
    least: Annotated[
        float | None,
        typer.Option("--least", help="Smallest reproducibility of a family; 0.5 if left out."),
    ] = None,
    found_in: Annotated[
        int | None,
        typer.Option("--found-in", help="Smallest number of runs that a family is found in."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Latents that fire at a time; else the group's.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="Of the refit; else a quarter of a training's.")
    ] = None,
    same_width: Annotated[
        bool,
        typer.Option(
            "--same-width/--no-same-width", help="Train one SAE of the same width beside it."
        ),
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Make one SAE of the families that come back, refit its encoder, and evaluate it.

    Kept in the study's folder as `consensus/...`; run again, it is only shown.
    """
    from reseed.pipeline import doors

    made = doors.consensus(
        Study.load(study, out),
        group=group,
        least=least,
        found_in=found_in,
        k=k,
        tokens=tokens,
        same_width=same_width,
        progress=not quiet,
    )
    about, console = made.about, Console()
    console.print(
        f"{about['families']:,} families of {len(about['runs'])} runs of {about['group']}, "
        f"{about['rule']}",
        highlight=False,
    )
    console.print(_evaluation(made.evaluation))
    if about["same_width_missing"] is not None:
        console.print(f"same width: none, {about['same_width_missing']}", highlight=False)
    console.print(f"SAE: [bold]{made.path}[/bold]", soft_wrap=True, highlight=False)


def _evaluation(rows: pl.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="on held-out tokens", title_justify="left")
    table.add_column("")
    for head in ("latents", "trained on", "FVU", "L0", "dead"):
        table.add_column(head, justify="right")
    for row in rows.iter_rows(named=True):
        cells = [
            _with_range(row, metric, form)
            for metric, form in (("fvu", ".4f"), ("l0", ".1f"), ("dead", ".1%"))
        ]
        table.add_row(row["sae"], f"{row['latents']:,}", f"{row['tokens']:,}", *cells)
    return table


def _with_range(row: dict[str, Any], name: str, form: str) -> str:
    middle, low, high = (row[f"{name}{end}"] for end in ("", "_lo", "_hi"))
    spread = low is not None and f"{low:{form}}" != f"{high:{form}}"
    return f"{middle:{form}}" + (f" ({low:{form}} to {high:{form}})" if spread else "")


def predict(
    studies: Annotated[
        list[Path],
        typer.Argument(help="Studies to learn from: TOML files or folders.", metavar="STUDY..."),
    ],
    apply: Annotated[
        Path | None,
        typer.Option("--apply", help="A study, or a file of latents, to predict instead."),
    ] = None,
    group: GroupName = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for the predictions: .parquet, .csv or .jsonl."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Predict the reproducibility of latents from what single runs show, against frequency alone.

    Needs no torch.
    """
    from reseed.pipeline import doors
    from reseed.prediction import stage as files

    if out is not None:
        kind = files.format_of(out)
        files.check_target(out, overwrite=overwrite)
    found = doors.predict(
        [Study.load(one) for one in studies],
        None if apply is None else _target(apply),
        group=group,
    )
    console = Console()
    console.print(_skill(found.skill, f"on runs not seen; learned from {found.runs} runs"))
    console.print(_each(found.each))
    console.print(_reliability(found.reliability))
    if found.transfer is not None:
        console.print(_skill(found.transfer, "where it was applied"))
    console.print(found.says, highlight=False)
    if out is not None:
        files.write(found.latents, out, kind)  # pyright: ignore[reportPossiblyUnboundVariable]
        console.print(f"{len(found.latents):,} latents: [bold]{out}[/bold]", soft_wrap=True)


def _target(path: Path) -> Study | pl.DataFrame:
    if path.suffix not in _TABLES or not path.is_file():
        return Study.load(path)
    readers = dict(zip(_TABLES, (pl.read_parquet, pl.read_csv, pl.read_ndjson), strict=True))
    try:
        return readers[path.suffix](path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SpecError(f"{path} cannot be read as a table: {error}") from error


def _skill(rows: pl.DataFrame, title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("")
    for head in ("frequency alone", "everything", "gain (95 %)"):
        table.add_column(head, justify="right")
    for row in rows.iter_rows(named=True):
        known = row["gain"] is not None
        gain = f"{row['gain']:+.4f}" if known else "–"
        if row["lo"] is not None:
            gain += f" ({row['lo']:+.4f} to {row['hi']:+.4f})"
        values = [f"{row[n]:.4f}" if known else "–" for n in ("frequency", "full")]
        table.add_row(row["metric"].replace("_", " "), *values, gain)
    return table


def _each(rows: pl.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="frequency and one feature more", title_justify="left")
    for head in ("", "gain in log-loss (95 %)", "AUROC"):
        table.add_column(head, justify="right" if head else "left")
    for row in rows.iter_rows(named=True):
        gain = "–" if row["gain"] is None else f"{row['gain']:+.4f}"
        if row["lo"] is not None:
            gain += f" ({row['lo']:+.4f} to {row['hi']:+.4f})"
        area = "–" if row["auroc"] is None else f"{row['auroc']:.3f}"
        table.add_row(row["feature"], gain, area)
    return table


def _reliability(rows: pl.DataFrame) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="said and found, runs not seen", title_justify="left")
    for head in ("said", "found (95 %)", "trials"):
        table.add_column(head, justify="right")
    for row in rows.iter_rows(named=True):
        ends = "" if row["lo"] is None else f" ({row['lo']:.1%} to {row['hi']:.1%})"
        table.add_row(
            f"{row['predicted']:.1%}", f"{row['observed']:.1%}{ends}", f"{row['trials']:,}"
        )
    return table


def export(
    study: StudyPath,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    where: Annotated[
        str | None,
        typer.Option("--where", help="A condition in SQL, e.g. 'alive AND n_matched >= 2'."),
    ] = None,
    group: GroupName = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Which columns, with commas between.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="parquet, csv or jsonl; else the name's ending.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write one row for each latent, whole or filtered. Needs no torch."""
    from reseed.prediction.stage import export_latents

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    table, every = export_latents(
        Study.load(study), out, where=where, group=group, columns=names, kind=kind,
        overwrite=overwrite,
    )  # fmt: skip
    Console().print(
        f"{len(table):,} of {every:,} latents, {table.width} columns: [bold]{out}[/bold]",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
