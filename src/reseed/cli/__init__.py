"""The command line: each command is a few lines around one door."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from reseed.cli import latents, saes, studies
from reseed.errors import ReseedError, SpecError, extra_missing
from reseed.screen import Screen

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
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # where there is ASCII alone, ? for the rest
                stream.reconfigure(errors="replace")
        try:
            app()
        finally:
            if sys.stdout:  # here, since at its exit Python does not say that the disk is full
                sys.stdout.flush()
    except (ReseedError, ImportError, MemoryError, RecursionError, UnicodeError, OSError) as error:
        message = _message(error)
        if message is None:
            raise
        if os.environ.get("RESEED_DEBUG") == "1":
            traceback.print_exc()
        _complain(message)
        missing = SpecError.exit_code if isinstance(error, ImportError) else 1
        sys.exit(getattr(error, "exit_code", missing))


def _message(error: Exception) -> str | None:
    """What a person is told of an error; None for a missing module that no extra brings."""
    where = "RESEED_DEBUG=1 shows where it happened."
    if isinstance(error, ReseedError):
        return str(error)
    if isinstance(error, ImportError):
        absent = error.__cause__ or error  # `needs_train` has put the extra's name into a new one
        known = isinstance(absent, ModuleNotFoundError)
        return extra_missing(absent, "this command") if known else None
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this; what was done is kept. {where}"
    if isinstance(error, RecursionError):
        return f"something that was read is nested too deeply ({error}). {where}"
    if isinstance(error, UnicodeError):
        return f"a text or the name of a file cannot be encoded or decoded ({error}). {where}"
    assert isinstance(error, OSError)
    try:
        Path.cwd()
    except OSError:
        return f"the current folder has been deleted; change to one that exists. {where}"
    name = f" ({error.filename})" if error.filename else ""
    return f"reading or writing failed: {error.strerror or error}{name}. {where}"


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        text = Text.assemble(("reseed:", "bold red"), f" {message}")
        Screen(stderr=True).print(text, soft_wrap=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # what could not be written is let go: Python would try again at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
