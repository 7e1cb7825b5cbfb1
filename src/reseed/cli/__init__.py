"""The command line: each command is a few lines around one door."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from reseed.cli import latents, saes, studies
from reseed.errors import ReseedError, SpecError, extra_missing

app = typer.Typer(
    name="reseed",
    help="Which features of a sparse autoencoder come back when it is trained again, "
    "and which belong to the random seed?",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 a run failed; 2 it cannot be done as written; 3 the folder is "
    "busy, damaged, full or another study's; 130 or 143 stopped by a signal (run it again to "
    "continue).",
)

for command in (*studies.COMMANDS, *latents.COMMANDS, *saes.COMMANDS):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reseed {version_of('reseed')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """Entry point: turns errors into a message and an exit code."""
    try:
        app()
    except ReseedError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        message = extra_missing(error, "this")
        if message is None:
            raise
        _complain(message)
        sys.exit(SpecError.exit_code)


def _complain(message: str) -> None:
    text = f"[bold red]reseed:[/bold red] {escape(message)}"
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
