"""The door: studies shown in a browser on this machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from reseed.errors import Interrupted, SpecError
from reseed.explore.app import make_app
from reseed.explore.pages.display import display_view
from reseed.explore.pages.principal_axes import map_view
from reseed.explore.pages.table_view import (
    feature_view,
    histograms_data,
    latents_view,
    nearest_view,
    texts_data,
)
from reseed.explore.pages.try_text import try_view
from reseed.explore.pages.two_runs import pair_view
from reseed.explore.shelf import shelves
from reseed.explore.tables.layout import Folder
from reseed.explore.tables.of_comparison import FILE as COMPARISON
from reseed.explore.tables.of_comparison import ComparisonFolder
from reseed.explore.tables.of_study import StudyFolder
from reseed.study import Study

HOST, PORT = "127.0.0.1", 8765
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


VIEWS = {
    "latents": latents_view,
    "feature/{_latent:int}/{_run:path}": feature_view,
    "display/{_latent:int}/{_run:path}": display_view,
    "nearest/{_latent:int}/{_run:path}": nearest_view,
    "map": map_view,
    "pair": pair_view,
    "try": try_view,
}
"""Last part of an address, which begins with its template, to what it shows."""

DATA = {"histograms": histograms_data, "texts": texts_data}
"""Last part of an address to what it gives as JSON."""


def folder_at(path: Path) -> Folder:
    """The study or the comparison at a path.

    Raises:
        SpecError: if it is neither.
        StoreError: if it cannot be read.
    """
    if (path / COMPARISON).exists():
        return ComparisonFolder(path)
    study = Study.load(path)
    study.check_folder()
    return StudyFolder(study)


def app_of(folders: Sequence[Folder], host: str = HOST) -> Starlette:
    """The app over folders, for the host names of `host`."""
    hosts = _LOCAL if is_local(host) else (*_LOCAL, host)
    return make_app(shelves(folders), VIEWS, DATA, ["*"] if _is_any(host) else hosts)


def explore(
    folders: Sequence[Folder],
    *,
    host: str = HOST,
    port: int = PORT,
    started: Callable[[str], object] = lambda _: None,
) -> None:
    """Serve the explorer until a signal ends it.

    Args:
        folders: to show; each may still be computed.
        host: address to listen on.
        port: 0 for any that is free.
        started: is told the address once it listens.

    Raises:
        SpecError: if the port is taken or the host is none of this machine.
    """
    app = app_of(folders, host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()  # who is told the address may ask at once
        except (OSError, OverflowError) as error:
            raise SpecError(
                f"the explorer cannot listen on {host}, port {port}: {error}. If another program "
                "has the port (another explorer?), choose one with `--port`, or `--port 0` for any "
                "that is free."
            ) from error
        port = listening.getsockname()[1]
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        with contextlib.suppress(Interrupted, KeyboardInterrupt):  # a signal is how it ends
            uvicorn.Server(config).run(sockets=[listening])


def is_local(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_any(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
