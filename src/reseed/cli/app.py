"""All commands, as typer has them."""

from __future__ import annotations

from typing import Annotated

import typer

import reseed.cli.cluster as cluster
import reseed.cli.explore as explore
import reseed.cli.latents as latents
import reseed.cli.publish as publish
import reseed.cli.saes as saes
import reseed.cli.studies as studies
import reseed.cli.survival as survival

app = typer.Typer(
    name="reseed",
    help="Which features of a sparse autoencoder come back when it is trained again, "
    "and which belong to the random seed?",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 a run failed; 2 it cannot be done as written; 3 the folder is "
    "busy, damaged, full or another study's; 130 or 143 stopped by a signal (run it again to "
    "continue).",
)

for room in (studies, cluster, latents, survival, explore, publish, saes):
    for command in room.COMMANDS:
        app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as version_of

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
