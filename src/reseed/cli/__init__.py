"""The command line: each command is a few lines around one door.

Here is only what turns errors into a sentence and an exit code. The commands, and what they import,
are loaded inside of it, so that a signal while they load ends as well as any other.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from pathlib import Path
from types import FrameType

from reseed.errors import Interrupted, ReseedError, SpecError, extra_missing

_WHERE = "RESEED_DEBUG=1 shows where it happened."


def main() -> None:
    """Entry point: whatever happens ends in one of the exit codes that the help names."""
    try:
        with _signals():
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, io.TextIOWrapper):  # where there is ASCII alone, ? for others
                    stream.reconfigure(errors="replace")
            Path.cwd()  # torch's libraries end the process where it is gone
            from reseed.cli import app
            from reseed.training.shards.launch import ranks

            try:
                with ranks() as is_first:
                    if is_first:
                        app.app()
            finally:
                if sys.stdout:  # here, since at its exit Python does not say that the disk is full
                    sys.stdout.flush()
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  (the door of the program)
        # also what is no Exception: a panic of Polars, Ctrl-C while modules are loaded
        if os.environ.get("RESEED_DEBUG") == "1":
            traceback.print_exc()
        _complain(_message(error))
        sys.exit(_exit_code(error))


@contextlib.contextmanager
def _signals() -> Generator[None, None, None]:
    """Ctrl-C and SIGTERM end a command alike; stages that save on a signal take it themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum)

    before = {signum: signal.signal(signum, hear) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    missing = SpecError.exit_code if isinstance(error, ImportError) else 1
    return int(getattr(error, "exit_code", missing))


def _message(error: BaseException) -> str:
    """What a person is told of an error."""
    if isinstance(error, ReseedError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return str(Interrupted(signal.SIGINT))
    if isinstance(error, ImportError):
        absent = error.__cause__ or error  # `needs_train` has put the extra's name into a new one
        known = isinstance(absent, ModuleNotFoundError) and extra_missing(absent, "this command")
        return known or f"a module cannot be loaded: {error}. {_WHERE}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this; what was done is kept. {_WHERE}"
    if isinstance(error, RecursionError):
        return f"something that was read is nested too deeply ({error}). {_WHERE}"
    if isinstance(error, UnicodeError):
        return f"a text or the name of a file cannot be encoded or decoded ({error}). {_WHERE}"
    if isinstance(error, OSError):
        return _of_system(error)
    return (
        f"{type(error).__name__}: {' '.join(str(error).split())[:300]}. This is a fault of reseed "
        f"or of a library that it uses; what was done is kept. {_WHERE}"
    )


def _of_system(error: OSError) -> str:
    try:
        Path.cwd()
    except OSError:
        return f"the current folder has been deleted; change to one that exists. {_WHERE}"
    name = f" ({str(error.filename)[:300]})" if error.filename else ""
    return f"reading or writing failed: {error.strerror or error}{name}. {_WHERE}"


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):
        from rich.text import Text

        from reseed.screen import Screen

        text = Text.assemble(("reseed:", "bold red"), f" {message}")
        Screen(stderr=True).print(text, soft_wrap=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # what could not be written is let go: Python would try again at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
