"""What happens, as data: a line of JSON each in `events.jsonl`, and a bar or lines for people.

The work calls `Events`; it never prints. On a terminal long work shows a bar with rate and time
left; elsewhere one line a minute. Other sinks (wandb, TensorBoard) are adapters with one method.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

import reseed.loops as loops
from reseed.errors import Interrupted, explained, no_link
from reseed.screen import Screen

EVENTS_FILE = "events.jsonl"
EVENTS_FOLDER = "events"
"""Of files of processes that work beside each other, one each."""

_LINE_EVERY_SECONDS = 60.0
_PROGRESS_EVERY_SECONDS = 5.0
"""Between two events that say how far long work has come, for `reseed status`."""


class Sink(Protocol):
    """Takes every event; an adapter to another service implements this one method."""

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        """Take one event."""
        ...


class JsonlSink:
    """Appends events to a file, one JSON object a line, with the time in seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def emit(self, kind: str, fields: dict[str, Any]) -> None:
        """Append one line."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields})
        with (
            explained(self.path),
            open(self.path, "a", encoding="utf-8", opener=no_link) as handle,
        ):
            handle.write(line + "\n")


class Task:
    """Long work under way: call `advance` as it goes."""

    def __init__(self, total: float, report: Callable[[Task], None]) -> None:
        self.total, self.done, self.note = total, 0.0, ""
        self.started = time.monotonic()
        self._report = report

    @property
    def rate(self) -> float:
        """Units a second since the start of this task in this process."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def advance(self, amount: float, note: str = "") -> None:
        """Say that `amount` more is done; `note` is shown beside the bar."""
        self.done += amount
        self.note = note or self.note
        self._report(self)


class Events:
    """Where the work reports to."""

    def __init__(self, *sinks: Sink, console: Screen | None = None) -> None:
        self._sinks = sinks
        self._console = console

    def emit(self, kind: str, **fields: Any) -> None:
        """Record one event."""
        for sink in self._sinks:
            sink.emit(kind, fields)

    def say(self, text: str) -> None:
        """Show a line to the person, and record it."""
        self.emit("said", text=text)
        if self._console:
            self._console.print(text)

    @contextlib.contextmanager
    def task(self, name: str, total: float, unit: str) -> Generator[Task, None, None]:
        """Long work with a known size, shown as a bar or as a line a minute."""
        if self._console is None:
            shown: contextlib.AbstractContextManager[Callable[[Task], None]] = (
                contextlib.nullcontext(lambda _: None)
            )
        elif self._console.is_terminal:
            shown = self._bar(name, total, unit)
        else:
            shown = self._lines(name, unit)
        with shown as report, self._recorded(name, total, unit, report) as task:
            yield task

    @contextlib.contextmanager
    def short(self, name: str) -> Generator[None, None, None]:
        """Work that is over soon, or whose size is not known: recorded, not shown."""
        with self._recorded(name, 1, "pieces", lambda _: None) as task:
            yield
            task.advance(1)

    @contextlib.contextmanager
    def _recorded(
        self, name: str, total: float, unit: str, report: Callable[[Task], None]
    ) -> Generator[Task, None, None]:
        self.emit("started", task=name, total=total, unit=unit)
        last = time.monotonic()

        def both(task: Task) -> None:
            nonlocal last
            report(task)
            if time.monotonic() - last >= _PROGRESS_EVERY_SECONDS:
                last = time.monotonic()
                rate = float(f"{task.rate:.4g}")
                self.emit("progress", task=name, done=task.done, total=total, unit=unit, rate=rate)

        task = Task(total, both)
        yield task
        seconds = time.monotonic() - task.started
        self.emit("finished", task=name, done=task.done, seconds=round(seconds, 3))

    @contextlib.contextmanager
    def _bar(
        self, name: str, total: float, unit: str
    ) -> Generator[Callable[[Task], None], None, None]:
        # what names the work gives way to the bar and its numbers where a line has no room for all
        note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        columns = (
            TextColumn("{task.description:<10}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20, table_column=Column(width=20)),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[rate]}",
                style="cyan",
                markup=False,
                table_column=Column(no_wrap=True, min_width=12),
            ),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=note),
        )
        with Progress(*columns, console=self._console, expand=True) as bars:
            row: TaskID = bars.add_task(name, total=total, rate="", note="")

            def report(task: Task) -> None:
                rate = f"{_short(task.rate)} {unit}/s"
                bars.update(row, completed=task.done, rate=rate, note=task.note)

            yield report

    @contextlib.contextmanager
    def _lines(self, name: str, unit: str) -> Generator[Callable[[Task], None], None, None]:
        assert self._console is not None
        console, last = self._console, time.monotonic()

        def report(task: Task) -> None:
            nonlocal last
            if time.monotonic() - last < _LINE_EVERY_SECONDS:
                return
            last = time.monotonic()
            left = (task.total - task.done) / task.rate if task.rate else 0.0
            console.print(
                f"{name}: {_short(task.done)} of {_short(task.total)} {unit}, "
                f"{_short(task.rate)}/s, {left:.0f} s left  {task.note}",
                soft_wrap=True,
            )

        console.print(f"{name}: started")
        yield report


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.3g}{suffix}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def read_events(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """The events of these kinds in a study's folder, oldest first; lines that are cut are left out.

    Those of all processes; of each machine by its own clock. The last session begins with the last
    event of kind `session`.
    """
    wanted, out = [f'"event": "{kind}"' for kind in kinds], list[dict[str, Any]]()
    for path in [folder / EVENTS_FILE, *sorted((folder / EVENTS_FOLDER).glob("*.jsonl"))]:
        with (
            contextlib.suppress(FileNotFoundError),
            open(path, encoding="utf-8", errors="replace") as lines,
        ):
            for line in lines:
                if any(kind in line for kind in wanted):
                    with contextlib.suppress(ValueError):
                        out.append(json.loads(line))
    out.sort(key=lambda event: event.get("time", 0.0))
    return [event for event in out if event.get("event") in kinds]


class Stop:
    """Knows whether somebody asked the work to stop.

    Outside `deferred` the request is an `Interrupted` at once: pieces are written whole, so nothing
    is lost. Inside `deferred` the work asks `check` where it has saved what it has.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = self._listens = False

    @contextlib.contextmanager
    def listening(self) -> Generator[Stop, None, None]:
        """Take the two signals in this block; elsewhere than in the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._hear) for s in (signal.SIGINT, signal.SIGTERM)}
        self._listens = True
        try:
            yield self
        finally:
            self._listens = False
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def deferred(self) -> Generator[None, None, None]:
        """In this block a signal is only noted; at the latest the block's end stops the work."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def end(self) -> None:
        """Ask for it as a signal does, from any thread."""
        if self._listens:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.requested = signal.SIGTERM

    def check(self) -> None:
        """Stop here if it was asked for."""
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _hear(self, signum: int, _frame: FrameType | None) -> None:
        again, self.requested = self.requested is not None, signum
        if again or not self._deferred:
            raise Interrupted(signum)


def events_of(folder: Path, progress: bool, sinks: Sequence[Sink] = ()) -> Events:
    """Events of the work in a folder: to `events.jsonl`, to other sinks, and to the terminal."""
    console = Screen(stderr=True) if progress else None
    loops.says = console.print if console else None
    return Events(JsonlSink(folder / EVENTS_FILE), *sinks, console=console)


@contextlib.contextmanager
def session(
    folder: Path, progress: bool, sinks: Sequence[Sink] = ()
) -> Generator[tuple[Events, Stop], None, None]:
    """The events of `events_of`, and what listens for signals as long as the block runs."""
    with Stop().listening() as stop:
        yield events_of(folder, progress, sinks), stop
