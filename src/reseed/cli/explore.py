"""The command that shows studies in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from reseed.cli.options import GroupName, Quiet, StudyPath, open_study
from reseed.screen import Screen, bold


def explore(
    studies: Annotated[
        list[Path],
        typer.Argument(
            help="TOML files or folders of studies, finished or not; folders of `compare`.",
            metavar="STUDY",
        ),
    ],
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8765,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; any but this machine's own is open to others."),
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look through latents over all runs in a browser: search, sort, compare, note.

    Works offline, writes nothing into a study, and ends with Ctrl-C.
    """
    from reseed.explore.server import explore, folder_at, is_local

    opened = [folder_at(path) for path in studies]
    screen = Screen()
    if not is_local(host):
        Screen(stderr=True).print(
            f"{host} can be reached from other machines: whoever can connect reads these studies "
            "and writes notes. There is no password.",
            style="yellow",
            soft_wrap=True,
        )

    def started(address: str) -> None:
        screen.print("Explorer: ", bold(address, "  (Ctrl-C ends it)"), sep="", soft_wrap=True)
        if browser:
            webbrowser.open(address)

    explore(opened, host=host, port=port, started=started)


def umap(study: StudyPath, group: GroupName = None, quiet: Quiet = False) -> None:
    """Lay out the decoder rows of a study by UMAP, for the map of `reseed explore`.

    At most 6,000 latents of a group, equally many of each run; the same ones at the same places
    whenever it is made.
    """
    from reseed.events import events_of
    from reseed.explore.neighbour_map import make_map

    opened, screen = open_study(study), Screen()
    events = events_of(opened.folder, not quiet)
    with opened.locked("reseed umap"):
        for runs in opened.groups_named(group):
            made = make_map(opened, runs, events)
            screen.print(bold(runs.label, ": map made" if made else ": has its map"), sep="")


COMMANDS = (explore, umap)
"""In the order of the help."""
