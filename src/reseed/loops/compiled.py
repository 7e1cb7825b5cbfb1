"""Compiling by numba, and threads that run what was compiled side by side.

Machine code is kept beside the source, so only the first use on a machine takes the seconds to
compile. Where that cannot be written, or is shared with other machines, it is kept in a folder of
this machine and its kind of processor; where none can be, every process compiles.

A product over all threads waits for whichever of them lost its core, and its threads stay awake
between products. Here every thread works alone: it takes the next piece of work, products of one
thread and compiled loops, when it is done with one.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from llvmlite.binding import get_host_cpu_name
from numba import config, njit
from numba.core.caching import FunctionCache, NullCache

import reseed.loops as loops

F = TypeVar("F", bound=Callable[..., Any])

_SHARED = (
    "nfs", "lustre", "gpfs", "ceph", "beegfs", "cifs", "smb", "afs", "gfs2", "ocfs2", "panfs",
    "pvfs", "fuse.",
)  # fmt: skip
"""How names of file systems begin that several machines may see at once."""
_MOUNTS = Path("/proc/self/mountinfo")


def kept_elsewhere(source: Path) -> Path | None:
    """Where machine code is kept; None where numba's own place is good: beside the source.

    Machines of a cluster that share a checkout would write the same files over each other.
    """
    if os.access(source, os.W_OK) and not _seen_by_others(source):
        return None
    processor = os.environ.get("NUMBA_CPU_NAME") or get_host_cpu_name()
    name = f"numba-{socket.gethostname()}-{processor}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    user = f"reseed-{os.getuid()}" if hasattr(os, "getuid") else "reseed"
    for base in (home / "reseed", Path(tempfile.gettempdir()) / user):
        if base.is_absolute() and not _seen_by_others(base) and _own(base):
            return base / name
    return None


def _seen_by_others(path: Path) -> bool:
    """Whether a path, or what is there of it, lies on a file system of a network."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    kinds: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_text("utf-8", "replace").splitlines():
            about, _, kind = line.partition(" - ")
            kinds[about.split()[4].replace("\\040", " ")] = kind.split()[0]
    inner = path.resolve()
    kind = next((kinds[str(at)] for at in (inner, *inner.parents) if str(at) in kinds), "")
    return kind.startswith(_SHARED)


def _own(folder: Path) -> bool:
    """Make a folder, if it can be; whether it is nobody else's: what is in it is executed."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        own = not hasattr(os, "getuid") or about.st_uid == os.getuid()
        return own and folder.is_dir() and not folder.is_symlink() and not about.st_mode & 0o022
    return False


_numba: Any = config
if not _numba.CACHE_DIR and (_folder := kept_elsewhere(Path(__file__).parent)) is not None:
    _numba.CACHE_DIR = str(_folder)


def compiled(function: F) -> F:
    """Compile a loop; it runs without the interpreter's lock."""
    return _compiled(function)


def reordered(function: F) -> F:
    """The same, with sums in any order, so that several run at once."""
    return _compiled(function, fastmath=_ANY_ORDER)


def arithmetic(function: F) -> F:
    """The same, with division as in NumPy: checks for zero would keep several from running."""
    return _compiled(function, fastmath=_ANY_ORDER, error_model="numpy")


_ANY_ORDER = {"reassoc", "contract", "nsz"}


def _compiled(function: F, **settings: Any) -> F:
    loop: Any = njit(nogil=True, **settings)(function)
    try:
        loop._cache = _Kept(function)
    except (RuntimeError, OSError):  # no folder to keep it in: a container, another user's home
        loop._cache = _NotKept()
    return loop


class _Kept(FunctionCache):
    """Machine code on the disk; where that is full or read-only by now, code of this process."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for these types; None if it is to be made."""
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except OSError:
            pass
        except _UNREADABLE:
            with contextlib.suppress(OSError):
                self.flush()
        if found is None:
            _tell("once on this machine")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was made."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


_UNREADABLE = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, TypeError)
"""What a damaged file raises, or one that names what this version no longer has."""


class _NotKept(NullCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """There is none."""
        _tell("in every process, since no folder can keep them (NUMBA_CACHE_DIR names one)")


def _tell(how_often: str) -> None:
    """Say why nothing seems to happen, the first time that loops are compiled in a process."""
    if loops.says is not None and not _told:
        _told.append(how_often)
        loops.says(f"compiling loops for this processor: up to 20 seconds, {how_often}")


_told: list[str] = []


Stretch = Callable[[int, int], None]
"""Does a piece of work: from the first of some rows or latents to one past the last."""


def stretches(work: Stretch, count: int, size: int, threads: int) -> None:
    """Do a piece of work for each stretch of so many.

    Args:
        work: called once for each stretch.
        count: of all.
        size: of a stretch.
        threads: as `run`.
    """
    pieces = range(math.ceil(count / size))
    run(lambda piece: work(piece * size, min(count, (piece + 1) * size)), pieces, threads)


def run(work: Callable[[int], None], pieces: Sequence[int], threads: int) -> None:
    """Do a piece of work for each number; which thread does which must not matter.

    Args:
        work: called once for each.
        pieces: numbers.
        threads: at the most; torch's own products take one thread each inside.
    """
    if threads <= 1 or not pieces:
        for piece in pieces:
            work(piece)
        return
    left, lock = iter(pieces), threading.Lock()

    def take() -> None:
        while True:
            with lock:
                piece = next(left, None)
            if piece is None:
                return
            work(piece)

    # this thread works too: one that only waits can have the others share a core for milliseconds
    tasks = [_pool(threads - 1).submit(take) for _ in range(min(threads, len(pieces)) - 1)]
    with _one_thread():
        try:
            take()
        finally:
            for task in tasks:
                task.result()


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Products of torch that this thread makes take one thread."""
    import torch  # whose products run beside the loops; who compiles loops alone needs none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    import torch

    before = torch.get_num_threads()
    ready = threading.Barrier(threads + 1)

    def alone() -> None:
        # torch's number belongs to the thread that sets it, once that thread has asked for it
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="reseed", initializer=alone)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool
