"""Arguments and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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

DeviceName = Annotated[
    str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1, or auto.")
]

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


def load_study(path: Path | str, out: Path | None = None) -> "Study":
    """A study as it stands; what it needs is loaded here, since the help of commands needs none."""
    from reseed.study import Study

    return Study.load(path, out)


def open_study(path: Path, out: Path | None = None) -> "Study":
    """A study whose results are shown, with a word if it was edited after they were made."""
    from reseed.cli.tables import warn
    from reseed.screen import Screen

    study = load_study(path, out)
    study.check_folder()
    warn(Screen(stderr=True), study.edited())
    return study
