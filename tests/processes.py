"""Processes that tests start: ended whatever happens, and waited for by what they do."""

import contextlib
import os
import signal
import subprocess
import sys
import time

RESEED = (sys.executable, "-m", "reseed.cli")
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@contextlib.contextmanager
def child(*command, **more):
    """A process, killed at the end of the block with all that it has started.

    Args:
        command: words.
        more: of `subprocess.Popen`; left out, stdout has what it prints.
    """
    process = subprocess.Popen(
        [*map(str, command)], **{**PIPES, **more}, start_new_session=True, bufsize=-1
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


@contextlib.contextmanager
def children(*commands, **more):
    """`child` for each of some commands."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(child(*command, **more)) for command in commands]


@contextlib.contextmanager
def forks(*processes):
    """Start processes of `multiprocessing`; those that are left at the end are killed."""
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def until(condition, *processes, seconds=240.0):
    """What a condition gives once it gives something true; none of these may end before.

    Raises:
        AssertionError: with what a process has said that has ended; or if the time is up.
    """
    last = time.monotonic() + seconds
    while not (value := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < last, f"not within {seconds} s"
        time.sleep(0.05)
    return value
