"""Parts as processes of this machine, each on GPUs of its own where there are some."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from reseed.cluster.engine import Door, EngineSpec, Needs, variables
from reseed.errors import StoreError
from reseed.events import Events

_POLL_SECONDS = 0.1
_SAVING_SECONDS = 60.0
"""After which a process that was told to stop is killed."""

_ENDED_BY_SIGNAL = (130, 143)


class Local:
    """Up to `workers` processes at a time.

    Each runs `reseed work --part`, since a door's own process must be able to stop at a signal
    without taking this one with it.
    """

    def __init__(self, spec: EngineSpec, logs: Path) -> None:
        self._spec, self._logs = spec, logs

    def run(
        self, door: Door, folder: Path, parts: Sequence[str], needs: Needs, events: Events
    ) -> None:
        """See `Engine.run`."""
        del door  # the command finds it
        self._logs.mkdir(parents=True, exist_ok=True)
        waiting, free = list(parts), list(range(self._spec.workers))
        running: dict[int, tuple[subprocess.Popen[bytes], str]] = {}
        with _stopped_at_the_end(running):
            while waiting or running:
                while waiting and free:
                    slot, part = free.pop(0), waiting.pop(0)
                    running[slot] = self._start(folder, part, slot, needs), part
                time.sleep(_POLL_SECONDS)
                for slot, (process, part) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[slot]
                    free.append(slot)
                    if process.returncode:
                        self._ended(part, process.returncode, events)

    def _start(self, folder: Path, part: str, slot: int, needs: Needs) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **variables(self._spec)}
        if needs.gpus:
            first = slot * needs.gpus
            cards = ",".join(str(first + number) for number in range(needs.gpus))
            environment["CUDA_VISIBLE_DEVICES"] = cards
        command = [sys.executable, "-m", "reseed.cli", "work", str(folder), "--part", part]
        command += ["--device", needs.device, "--ranks", str(needs.ranks)]
        with open(self._log(part), "ab") as log:
            # in a session of its own: a Ctrl-C in the terminal reaches this process only, which
            # then asks each to save and to stop
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _log(self, part: str) -> Path:
        return self._logs / f"{part.replace(' ', '-').replace('/', '-of-')}.log"

    def _ended(self, part: str, code: int, events: Events) -> None:
        if code in (1, 2, 3):  # a sentence of ours, that trying again will not change
            text = self._log(part).read_text("utf-8", "replace").strip().splitlines()
            sentence = "\n".join(text[-6:]) or f"exit code {code}"
            raise StoreError(f"part {part!r} failed:\n{sentence}")
        why = "stopped" if code in _ENDED_BY_SIGNAL else f"ended with {code}"
        events.say(f"part {part!r} {why}; it is started again")


@contextlib.contextmanager
def _stopped_at_the_end(
    running: dict[int, tuple[subprocess.Popen[bytes], str]],
) -> Generator[None, None, None]:
    """Whatever ends this block, no process that it has started goes on alone."""
    try:
        yield
    finally:
        for process, _ in running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        last = time.monotonic() + _SAVING_SECONDS
        for process, _ in running.values():
            try:
                process.wait(max(0.1, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
