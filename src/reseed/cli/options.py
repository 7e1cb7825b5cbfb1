"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reseed.cli.tables import warn
from reseed.screen import Screen
from reseed.study import Study

StudyPath = Annotated[
    Path,
    typer.Argument(help="The TOML file of a study, or the folder of its results.", metavar="STUDY"),
]

OutPath = Annotated[
    Path | None,
    typer.Option(help="Folder of the results.", show_default="name of the TOML file without .toml"),
]

EngineFile = Annotated[
    Path | None,
    typer.Option("--engine", help="A TOML file: workers, memory, price and more; docs/cluster.md."),
]

GroupName = Annotated[
    str | None,
    typer.Option(
        help="One group of runs: its name, or any part of its label that no other has.",
        show_default="all groups",
    ),
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]

Source = Annotated[
    str,
    typer.Argument(help="A file, a folder, or hf:OWNER/REPO/PATH@REVISION.", metavar="SOURCE"),
]

Format = Annotated[str | None, typer.Option(help="Format of the source, if several fit.")]

Inner = Annotated[str | None, typer.Option(help="Which SAE to read, if the source holds several.")]

Read = Annotated[
    list[str] | None,
    typer.Option(help="A setting for reading the format, NAME=VALUE, e.g. k=50."),
]


def words(text: str | None) -> list[str] | None:
    """Names that are separated by commas."""
    return None if text is None else [word.strip() for word in text.split(",")]


def open_study(path: Path, out: Path | None = None) -> Study:
    """A study whose results are shown, with a word if it was edited after they were made."""
    study = Study.load(path, out)
    study.check_folder()
    warn(Screen(stderr=True), study.edited())
    return study
