"""Limits: when a server may be asked again, what may be spent, what of a reply may be shown."""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from reseed.errors import BudgetError, SpecError
from reseed.interpretation.models import BilledFailure, guessed_tokens
from reseed.interpretation.records import Failure, Reply, Request
from reseed.spec.llm import BudgetSpec, Connection, Prices

_SHOWN = 300
"""Characters of what a server said that a message repeats."""

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


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
    part = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
    if not re.fullmatch(f"(?:{part})+", text.strip()):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(part, text))


class Gate:
    """Holds all requests of a server back until a time that it named.

    Args:
        sleep: takes seconds; for tests, as is the clock.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep, self._clock, self._until = sleep, clock, 0.0

    def close(self, seconds: float) -> None:
        """Let nobody through for so long."""
        self._until = max(self._until, self._clock() + seconds)

    async def wait(self) -> None:
        """Return when the gate is open."""
        while (left := self._until - self._clock()) > 0:
            await self._sleep(left)


# -- of keys and what is shown ---------------------------------------------------------------------


def key_of(spec: Connection) -> str | None:
    """The key in the variable that a spec names, if it names one."""
    variable = spec.key_env
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SpecError(
            f"the environment variable {variable} (key_env of model {spec.model!r}) is "
            f"not set. Set it in the shell: export {variable}=..."
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise SpecError(f"what ${variable} holds cannot be a key: it has blanks or the like")
    return key


def hidden(text: str, key: str | None) -> str:
    """The text with `[key]` in place of a key, however JSON or a URL spells its characters."""
    if not key:
        return text
    codes = [f"{ord(character):02x}" for character in key]
    spellings = [
        rf"(?:\\*{re.escape(character)}|\\+(?i:u00{code})|%(?i:{code}))"
        for character, code in zip(key, codes, strict=True)
    ]
    return re.sub("".join(spellings), "[key]", text)


def shown(text: str) -> str:
    """The beginning of a text on one line, without what a terminal would obey."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:_SHOWN]


def quoted(text: str | None) -> str:
    """What the server said, for the end of a message."""
    return f" It says: {shown(text)}" if text and shown(text) else ""


# -- of what may be spent --------------------------------------------------------------------------


class Spent(NamedTuple):
    """What was spent on some questions, in the order of the limits of `BudgetSpec`."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def plus(self, other: Spent, sign: int = 1) -> Spent:
        """The sum, or with -1 the difference."""
        calls, tokens, cost = other
        return Spent(
            self.calls + sign * calls, self.tokens + sign * tokens, self.cost + sign * cost
        )


def spent(answer: Reply | Failure) -> Spent:
    """What one answer cost; nothing for a failure that is not billed."""
    if not isinstance(answer, Reply | BilledFailure):
        return Spent()
    return Spent(1, answer.prompt_tokens + answer.reply_tokens, answer.cost)


def portion(budget: BudgetSpec, spent: Spent, of: int) -> BudgetSpec:
    """What one of so many may bring the spending to, so that all together keep to the budget."""
    limits = zip(budget, spent, strict=True)
    each = {
        name: type(limit)(used + (limit - used) / of)
        for (name, limit), used in limits
        if limit is not None and limit > used
    }
    return budget.model_copy(update=each)


class Budget:
    """What may still be spent. May be used from several threads.

    What a question under way will cost is guessed and set aside until its answer says more.

    Args:
        limits: None is no limit.
        before: spent by earlier runs of the same journal.
        prices: to guess the cost of a question.
    """

    def __init__(self, limits: BudgetSpec, before: Spent, prices: Prices | None = None) -> None:
        self._limits, self._prices = limits, prices or Prices()
        self._spent, self._set_aside = before, Spent()
        self._changed = threading.Condition()

    def guess(self, request: Request) -> Spent:
        """At most about what a question will cost."""
        prompt = sum(guessed_tokens(message.content) + 4 for message in request.messages)
        cost = self._prices.cost(prompt, request.max_tokens)
        return Spent(calls=1, tokens=prompt + request.max_tokens, cost=cost)

    def take(self, guess: Spent) -> bool:
        """Set aside what a question may cost; False if there is not so much left.

        Waits while questions under way might still turn out cheaper than guessed.
        """
        with self._changed:
            while not self._fits(self._spent.plus(self._set_aside).plus(guess)):
                if self._set_aside.calls == 0:
                    return False
                self._changed.wait()
            self._set_aside = self._set_aside.plus(guess)
            return True

    def settle(self, guess: Spent, cost: Spent) -> None:
        """Replace what was set aside by what it cost."""
        with self._changed:
            left = self._set_aside.plus(guess, -1)
            self._set_aside = left if left.calls else Spent()  # no rounding is left behind
            self._spent = self._spent.plus(cost)
            self._changed.notify_all()

    def stop(self, answered: int, left: int) -> BudgetError:
        """What to tell the person when it does not suffice."""
        words = [
            f"{name} = {limit:g} ({used:g} used)"
            for (name, limit), used in zip(self._limits, self._spent, strict=True)
            if limit is not None
        ]
        return BudgetError(
            f"the budget {', '.join(words)} does not suffice for the next question: {answered} of "
            f"{answered + left} are answered, {left} are not asked. All answers are kept; raise "
            "the budget and run the same command again."
        )

    def _fits(self, total: Spent) -> bool:
        limits = zip(self._limits, total, strict=True)
        return all(limit is None or used <= limit for (_, limit), used in limits)
