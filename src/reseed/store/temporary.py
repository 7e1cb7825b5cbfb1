"""What is not in its place yet: names that nobody else takes, locked while somebody works on them.

Several processes, on one machine or on many, may make the same thing at once: each in a folder of
its own, and a rename puts one of them in place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

from reseed.errors import StoreError, explained

BUILDING = ".reseed-building"
"""Ending of what is not in its place yet; no name that a person would give."""
OLD = ".reseed-old"
"""Ending of what is being replaced."""
_TRIES = 100
_DELETIONS = 4

_MARKED = re.compile(r".*\.([0-9a-f]{8})-[0-9a-f]{12}\.reseed-(building|old)")


@cache
def this_machine() -> str:
    """Eight letters for the running system: other after a restart, the same in all containers."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:  # no Linux
        text = f"{os.uname().nodename}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def beside(path: Path, ending: str) -> Path:
    """A name that nobody else takes, beside a path, marked as ours by its ending."""
    return path.with_name(f"{path.name}.{this_machine()}-{secrets.token_hex(6)}{ending}")


def take_out(path: Path, now: Callable[[], float], age: float) -> bool:
    """Delete what `beside` has named, unless somebody works on it; whether it was deleted.

    On this machine the lock of whoever does tells. Of other machines, and where the file system
    locks no folders, it must be `age` seconds old. The lock is held meanwhile: whoever has just
    made it and comes for its lock now finds it taken, or the name gone, and makes another
    (`locked_beside`).
    """
    mark = _MARKED.fullmatch(path.name)
    if mark is None:
        return False
    try:
        if path.is_symlink():
            path.unlink()
            return True
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        held = _held(handle)
        if held or (held is None or mark[1] != this_machine()) and _age(path, now) <= age:
            return False
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    finally:
        os.close(handle)
    return True


def _age(path: Path, now: Callable[[], float]) -> float:
    inner = [path, *path.rglob("*")] if path.is_dir() else [path]
    return now() - max(entry.lstat().st_mtime for entry in inner)


def _held(handle: int) -> bool | None:
    """Whether another has locked a file or folder, and if not, lock it; None if unknown."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def locked_beside(final: Path, make: Callable[[Path], object], how: int) -> tuple[Path, int]:
    """What is to come to a place, made under a name of this process's own, and open and locked.

    Args:
        final: the place.
        make: makes it at a path.
        how: to open it, as `os.open` takes it.
    """
    for _ in range(_TRIES):
        path = beside(final, BUILDING)
        make(path)
        with contextlib.suppress(FileNotFoundError):  # taken out before it had its lock
            handle = os.open(path, how)
            if taken(handle) and path.exists():
                return path, handle
            os.close(handle)
    raise StoreError(f"what is built beside {final} is deleted again and again")


def taken(handle: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of an open file or folder, unless another has it."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a network's file system that locks no folders
        return error.errno in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP)
    return True


def now_at(folder: Path) -> float:
    """The time by the clock of the file system of a folder, in seconds since 1970."""
    probe = beside(folder / "clock", BUILDING)
    with explained(folder):
        handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            return os.fstat(handle).st_mtime  # another may have swept its name already
        finally:
            os.close(handle)
            probe.unlink(missing_ok=True)


def delete(folder: Path) -> None:
    """Delete a folder of ours, as far as that can be; what is left is swept at the next start.

    Two clients of a network's file system may have renamed one folder to a name of each, and then
    take its files from under each other: another try finds it empty.
    """
    for _ in range(_DELETIONS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def fsync(path: Path) -> None:
    """Push a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep_beside(final: Path) -> None:
    """Take out what killed processes of this machine left beside a place."""
    for path in final.parent.glob(glob.escape(final.name) + ".*"):
        take_out(path, lambda: 0.0, 0.0)


def sweep_below(root: Path, now: Callable[[], float], age: float) -> None:
    """`take_out` for all below a folder."""
    for folder, inner, files in os.walk(root):  # which bears that folders vanish meanwhile
        for name in [*inner, *files]:
            if name.endswith((BUILDING, OLD)):
                take_out(Path(folder, name), now, age)


@contextlib.contextmanager
def built_beside(final: Path) -> Generator[Path, None, None]:
    """A folder of this process alone beside a place; gone at the end, unless it was moved."""
    folder, handle = locked_beside(final, lambda path: path.mkdir(parents=True), os.O_RDONLY)
    try:
        yield folder
    finally:
        delete(folder)
        os.close(handle)


def move_into_place(
    building: Path, final: Path, stands: Callable[[], bool] = lambda: False
) -> bool:
    """Rename a sealed folder to its place.

    Of several that come at once the first stays, where `stands` says of what is there that it is as
    good; else what is there is replaced.

    Returns:
        Whether it was moved; what was not is left where it is.
    """
    old = beside(final, OLD)
    with explained(final):
        for _ in range(_TRIES):
            try:
                os.rename(building, final)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
            else:
                fsync(final.parent)
                delete(old)
                return True
            if stands():
                delete(old)
                return False
            # what is replaced is gone for the moment of two renames, and deleted only then
            delete(old)
            with contextlib.suppress(FileNotFoundError):
                os.rename(final, old)
        raise StoreError(f"{final} is replaced again and again by other processes")


def free(path: Path) -> bool:
    """Whether no process holds the lock of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return taken(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)
