"""The command that shows studies in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

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


COMMANDS = (explore,)
"""In the order of the help."""
