"""SIGINT and SIGTERM: at once where stopping is harmless, at the next safe place elsewhere."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

from reseed.errors import Interrupted


class Stop:
    """Knows whether somebody asked the work to stop.

    Outside `deferred` the request is an `Interrupted` at once: pieces are written whole, so nothing
    is lost. Inside `deferred` the work asks `check` where it has saved what it has.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = False

    @contextlib.contextmanager
    def listening(self) -> Generator[Stop, None, None]:
        """Take the two signals in this block; elsewhere than in the main thread do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._hear) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def deferred(self) -> Generator[None, None, None]:
        """In this block a signal is only noted; it stops the work at the block's end at the latest.

        Raises:
            Interrupted: with the signal's number.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def check(self) -> None:
        """Stop here if it was asked for.

        Raises:
            Interrupted: with the signal's number.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _hear(self, signum: int, _frame: FrameType | None) -> None:
        again, self.requested = self.requested is not None, signum
        if again or not self._deferred:
            raise Interrupted(signum)
