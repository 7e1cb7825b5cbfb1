"""Threads that work through a list, and stop in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

GRACE_SECONDS = 10.0
"""How long a stop waits for work under way, which is paid for."""
_LISTEN_SECONDS = 0.1


class Halt(Exception):  # noqa: N818  (an ending, not an error)
    """Raised by work that should be the last: no more is begun, what is under way ends."""


class Crew(Generic[In, Out]):
    """Works through items in threads.

    The threads are daemons: a second Ctrl-C leaves at once, whatever a server does.

    Args:
        items: taken in order.
        work: called with each, from several threads.
        threads: how many.

    Attributes:
        halted: whether work raised `Halt`.
    """

    def __init__(self, items: Iterable[In], work: Callable[[In], Out], threads: int) -> None:
        self.halted = False
        self._items, self._work = iter(items), work
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._came: SimpleQueue[tuple[Out] | BaseException | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def results(self) -> Generator[Out, None, None]:
        """Results as they come, in no order. Close it: a stop waits for what is under way.

        Raises:
            BaseException: the first that work raised, once all else under way has ended.
        """
        raised: BaseException | None = None
        for thread in self._threads:
            thread.start()
        try:
            working = len(self._threads)
            while working:
                try:  # a wait without end would hear a signal only when the next result comes
                    came = self._came.get(timeout=_LISTEN_SECONDS)
                except Empty:
                    continue
                if came is None:
                    working -= 1
                elif isinstance(came, BaseException):
                    raised = raised or came
                else:
                    yield came[0]
        except BaseException:
            self._leave()
            raise
        if raised is not None:
            raise raised

    def _leave(self) -> None:
        self._stop.set()
        until = time.monotonic() + GRACE_SECONDS
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with self._taking:
                    item = next(self._items)
                self._came.put((self._work(item),))
        except StopIteration:
            pass
        except Halt:
            self.halted = True
            self._stop.set()
        except BaseException as error:  # noqa: BLE001  (handed to the thread that asked)
            self._stop.set()
            self._came.put(error)
        finally:
            self._came.put(None)
