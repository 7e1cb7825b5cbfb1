"""How long to wait before asking a server again: what it says, else longer and longer.

The clock and the sleep are arguments, so that tests need neither.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from reseed.seeds import generator

_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 60.0
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"


def backoff(attempt: int, key: str) -> float:
    """Seconds before attempt number `attempt` + 1: doubling, with jitter from the question's key.

    Between half and all of 0.5, 1, 2, ... 60 s. Questions that failed together come back apart.
    """
    longest = min(_FIRST_SECONDS * 2.0**attempt, _LONGEST_SECONDS)
    return longest * float(generator("backoff", key, attempt).uniform(0.5, 1.0))


def asked_to_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a refusal asks for, or None.

    `Retry-After` (seconds or a date) and `retry-after-ms` count first, then whatever limit of
    `x-ratelimit-*` has nothing left.

    Args:
        headers: with lower-case names.
        now: seconds since 1970.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    after = headers.get("retry-after", "").strip()
    seconds = _number(after)
    if seconds is None and after:
        try:
            seconds = max(parsedate_to_datetime(after).timestamp() - now, 0.0)
        except (ValueError, TypeError, OverflowError):
            seconds = None
    return used_up(headers, now) if seconds is None else seconds


def used_up(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until a limit with nothing left is reset, by `x-ratelimit-*`; None if none is.

    Understands OpenAI's pairs (`x-ratelimit-remaining-requests`, `-tokens` with durations like
    `6m0s` in `x-ratelimit-reset-...`) and the single one of others (`x-ratelimit-remaining` and
    `-reset` as seconds, or as a time in seconds or milliseconds since 1970).
    """
    waits: list[float] = []
    for what in ("", "-requests", "-tokens"):
        remaining = _number(headers.get(f"x-ratelimit-remaining{what}", ""))
        reset = _duration(headers.get(f"x-ratelimit-reset{what}", ""), now)
        if remaining is not None and remaining <= 0 and reset is not None:
            waits.append(reset)
    return max(waits, default=None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _duration(text: str, now: float) -> float | None:
    value = _number(text)
    if value is not None:
        if value > 1e11:  # milliseconds since 1970
            return max(value / 1e3 - now, 0.0)
        return max(value - now, 0.0) if value > 1e8 else value
    if not re.fullmatch(f"(?:{_PIECE})+", text.strip()):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, text))


class Gate:
    """Holds all threads back until a time that a server named.

    Args:
        sleep: takes seconds.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._until = 0.0

    def close(self, seconds: float) -> None:
        """Let nobody through for so long."""
        with self._lock:
            self._until = max(self._until, self._clock() + seconds)

    def wait(self) -> None:
        """Return when the gate is open."""
        while True:
            with self._lock:
                left = self._until - self._clock()
            if left <= 0:
                return
            self.sleep(left)
