"""Who works in a folder: processes on one machine or many, known to each other by small files.

A worker is a file `work/ID.process`, locked as long as its process lives and touched every half
minute. On the same machine the lock says whether a worker is alive; on another the age of the file
does, by the clock of the file system and not by that of any machine. Claims save double work; what
is right never depends on them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from reseed.errors import StoreError, explained
from reseed.store.files import write_bytes
from reseed.store.temporary import (
    BUILDING,
    beside,
    free,
    locked_beside,
    now_at,
    sweep_below,
    this_machine,
)

FOLDER = "work"
_CLAIMS = f"{FOLDER}/claims"
_STOP = f"{FOLDER}/stop"
"""File that asks all to stop."""
_SIZE = 512
"""Bytes of the file of a process, so that it is written over in one go."""

_ASKED_EVERY = 3.0
_TOUCHED_EVERY = 30.0
_SILENT = 600.0
"""Seconds after which a worker on another machine is taken to be dead."""

_OLD = 86_400.0
"""Seconds after which what a worker of another machine left behind is swept."""
_TRIES = 100


class Known(NamedTuple):
    """A worker as others see it."""

    id: str
    about: dict[str, Any]
    alive: bool
    silent: float
    """seconds since it was last heard of"""


class Process:
    """This process in one folder.

    Args:
        root: the folder of the study.
        asked: called when all are asked to stop, see `ask_to_stop`.
        about: what others are shown, e.g. the part that is made.
    """

    def __init__(self, root: Path, asked: Callable[[], None] | None = None, **about: Any) -> None:
        self.id = f"{this_machine()}-{secrets.token_hex(4)}"
        self._root, self._path, self._asked = root, _file(root, self.id), asked
        self._about = {"host": socket.gethostname(), "process": os.getpid(), **about}
        self._handle = self._entered()
        self._ended = threading.Event()
        threading.Thread(target=self._touch, daemon=True, name="heartbeat").start()

    def _entered(self) -> int:
        """Its file, which has its lock before others see it: without one they take it for dead."""

        def make(path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)

        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):  # the last of the others has just left
                path, handle = locked_beside(self._path, make, os.O_RDWR)
                try:
                    os.pwrite(handle, self._text(), 0)
                    os.replace(path, self._path)
                except BaseException:
                    os.close(handle)  # whoever sweeps next takes out what is no longer locked
                    raise
                return handle
        raise StoreError(f"{self._path.parent} is deleted again and again")

    def say(self, **about: Any) -> None:
        """Show others something else."""
        self._about |= about
        os.pwrite(self._handle, self._text(), 0)  # in place: the lock is that of this very file

    def _text(self) -> bytes:
        return json.dumps(self._about).ljust(_SIZE).encode()

    def _touch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(_ASKED_EVERY):
            if self._asked is not None and _is_asked(self._root):
                self._asked()
                self._asked = None
            if time.monotonic() - last >= _TOUCHED_EVERY:
                last = time.monotonic()
                with contextlib.suppress(OSError):
                    os.utime(self._handle)  # the time is the server's

    def end(self) -> None:
        """Say that this worker is gone."""
        self._ended.set()
        os.close(self._handle)
        with contextlib.suppress(OSError):  # the lock is gone, so that others see it all the same
            for claim in _listed(self._root / _CLAIMS):
                if _owner(claim) == self.id:
                    claim.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        for folder in (self._root / _CLAIMS, self._root / FOLDER):
            with contextlib.suppress(OSError):  # where others are, or nobody ever claimed anything
                folder.rmdir()

    # -- claims ----------------------------------------------------------------------------------

    def claim(self, part: str) -> bool:
        """Take a part of the work, unless a living worker has it: of several that come one has it.

        That of a dead one falls to whoever claims to be its heir.
        """
        path = self._claim_file(part)
        with explained(path):
            for _ in range(_TRIES):
                with contextlib.suppress(FileNotFoundError):  # given back, or the folder with it
                    if self._put_claim(path, os.link):
                        return True
                    owner = path.read_text("utf-8")
                    if owner == self.id or alive(self._root, owner):
                        return owner == self.id
                    return self._inherit(part, owner)
        return False

    def _inherit(self, part: str, dead: str) -> bool:
        path, heir = self._claim_file(part), f"{part} after {dead}"
        if not self.claim(heir):
            return False
        try:
            return _owner(path) == dead and self._put_claim(path, os.replace)
        finally:
            self.release(heir)

    def _put_claim(self, path: Path, put: Callable[[Path, Path], None]) -> bool:
        """Put a claim in its place, whole; False if one is there that may not be replaced."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = beside(path, BUILDING)
        try:
            new.write_text(self.id, "utf-8")
            put(new, path)
        except FileExistsError:
            return False
        finally:
            new.unlink(missing_ok=True)
        return True

    def _claim_file(self, part: str) -> Path:
        return self._root / _CLAIMS / part.replace("/", ",")

    def release(self, part: str) -> None:
        """Give a part back, done or not."""
        path = self._claim_file(part)
        with contextlib.suppress(OSError):  # then it ends with this process
            if _owner(path) == self.id:
                path.unlink(missing_ok=True)


_CURRENT: dict[tuple[int, Path], Process] = {}


@contextlib.contextmanager
def working(
    root: Path, asked: Callable[[], None] | None = None, **about: Any
) -> Generator[Process, None, None]:
    """This process as a worker in a folder, see `Process`; inside such a block, the same one."""
    key = os.getpid(), root.absolute()
    if key in _CURRENT:
        yield _CURRENT[key]
        return
    with explained(root):
        worker = _CURRENT[key] = Process(root, asked, **about)
    try:
        yield worker
    finally:
        del _CURRENT[key]
        worker.end()


def alive(root: Path, worker: str) -> bool:
    """Whether a worker of this id still works in a folder."""
    path = _file(root, worker)
    try:
        if worker.partition("-")[0] == this_machine():
            return not free(path)
        return now_at(path.parent) - path.stat().st_mtime < _SILENT
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error})") from error


def workers(root: Path) -> list[Known]:
    """All workers that a folder knows of, the dead ones that were never swept among them."""
    out: list[Known] = []
    for path in _listed(root / FOLDER, ".process"):
        with contextlib.suppress(OSError, ValueError):
            about, silent = json.loads(path.read_text("utf-8")), now_at(path.parent)
            silent -= path.stat().st_mtime
            out.append(Known(path.stem, about, alive(root, path.stem), max(0.0, silent)))
    return out


def ask_to_stop(root: Path, wait: float) -> list[str]:
    """Ask all who work in a folder to end; who has not, after so many seconds of waiting."""
    last = time.monotonic() + wait
    while left := [called(worker) for worker in workers(root) if worker.alive]:
        if time.monotonic() > last:
            break
        write_bytes(root / _STOP, b"")  # anew each time, since only a young one is obeyed
        time.sleep(_ASKED_EVERY / 12)
    (root / _STOP).unlink(missing_ok=True)
    return left


def _is_asked(root: Path) -> bool:
    """Whether somebody asks now; whoever was killed while asking has left an old file."""
    with contextlib.suppress(FileNotFoundError):
        then = (root / _STOP).stat().st_mtime
        return now_at(root / FOLDER) - then < _TOUCHED_EVERY
    return False


def called(worker: Known) -> str:
    """What a worker is called in messages."""
    return f"process {worker.about['process']} on {worker.about['host']}"


def owner_of(root: Path, part: str) -> str | None:
    """The worker that has claimed a part; None if there is none."""
    return _owner(root / _CLAIMS / part.replace("/", ",")) or None


def sweep(root: Path) -> None:
    """Take out what dead processes left behind: half-made pieces, workers, claims.

    What belongs to a process of another machine must be a day old, by the file system's clock.
    """
    if not root.is_dir():
        return
    now = cache(lambda: now_at(root))
    sweep_below(root, now, _OLD)
    for path in _listed(root / FOLDER, ".process"):
        dead = not alive(root, path.stem)
        same = path.stem.partition("-")[0] == this_machine()
        with contextlib.suppress(FileNotFoundError):
            if dead and (same or now() - path.stat().st_mtime > _OLD):
                path.unlink()
    # where others work an heir may take over a young claim at this moment
    alone = not any(alive(root, path.stem) for path in _listed(root / FOLDER, ".process"))
    for claim in _listed(root / _CLAIMS):
        with contextlib.suppress(FileNotFoundError):
            old = alone or now() - claim.stat().st_mtime > _OLD
            if old and not alive(root, _owner(claim)):
                claim.unlink()


def _file(root: Path, worker: str) -> Path:
    return root / FOLDER / f"{worker}.process"


def _listed(folder: Path, ending: str = "") -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(ending)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _owner(claim: Path) -> str:
    try:
        return claim.read_text("utf-8")
    except OSError:
        return ""
