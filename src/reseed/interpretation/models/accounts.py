"""Who asked how much: totals by purpose, and a budget that is never overdrawn by much.

Tokens of a question that is under way are guessed and set aside until its answer says more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from reseed.errors import BudgetError
from reseed.interpretation.models.instruments import guessed_tokens
from reseed.interpretation.records import Reply, Request
from reseed.spec.llm import BudgetSpec, Prices

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one purpose used. Equal questions count once, whichever run asked them."""

    purpose: str
    asked: int = 0
    """questions answered by the model in this process"""
    remembered: int = 0
    """questions answered by the journal"""
    failed: int = 0
    """questions without an answer; they are asked again by the next run"""
    prompt_tokens: int = 0
    """of all answers, remembered ones too: what a first run pays"""
    reply_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """that the model took for the questions asked, one after the other"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a journal has cost so far."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """The sum."""
        return Spent(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            cost=self.cost + other.cost,
        )

    @classmethod
    def of(cls, reply: Reply) -> Spent:
        """What one reply cost."""
        return cls(calls=1, tokens=reply.prompt_tokens + reply.reply_tokens, cost=reply.cost)


class Accounts:
    """Totals by purpose; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, Account] = {}

    def replied(self, purpose: str, reply: Reply, seconds: float | None) -> None:
        """Count an answer; `seconds` is None if the journal gave it."""
        new = seconds is not None
        with self._lock:
            old = self._of.get(purpose, Account(purpose=purpose))
            self._of[purpose] = replace(
                old,
                asked=old.asked + new,
                remembered=old.remembered + (not new),
                prompt_tokens=old.prompt_tokens + reply.prompt_tokens,
                reply_tokens=old.reply_tokens + reply.reply_tokens,
                cost=old.cost + reply.cost,
                seconds=old.seconds + (seconds or 0.0),
            )

    def failed(self, purpose: str) -> None:
        """Count a question that got no answer."""
        with self._lock:
            old = self._of.get(purpose, Account(purpose=purpose))
            self._of[purpose] = replace(old, failed=old.failed + 1)

    def all(self) -> Mapping[str, Account]:
        """Purpose to its account, in the order of first use."""
        with self._lock:
            return dict(self._of)


class Budget:
    """What may still be spent.

    Args:
        limits: None is no limit.
        spent: by earlier runs of the same journal.
        prices: to guess the cost of a question.
    """

    def __init__(self, limits: BudgetSpec, spent: Spent, prices: Prices | None = None) -> None:
        self._limits, self._prices = limits, prices or Prices()
        self._spent, self._set_aside = spent, Spent()
        self._changed = threading.Condition()

    @property
    def spent(self) -> Spent:
        """So far, earlier runs included."""
        return self._spent

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

    def settle(self, guess: Spent, reply: Reply | None) -> None:
        """Replace what was set aside by what it cost; None for a question without answer."""
        with self._changed:
            back = Spent(calls=-guess.calls, tokens=-guess.tokens, cost=-guess.cost)
            left = self._set_aside.plus(back)
            self._set_aside = left if left.calls else Spent()  # no rounding is left behind
            if reply is not None:
                self._spent = self._spent.plus(Spent.of(reply))
            self._changed.notify_all()

    def stop(self, answered: int, left: int) -> BudgetError:
        """What to tell the person when it does not suffice."""
        limits, spent = self._limits, self._spent
        said = [
            f"{name} = {limit:g} ({used:g} used)"
            for name, limit, used in (
                ("max_calls", limits.max_calls, spent.calls),
                ("max_tokens", limits.max_tokens, spent.tokens),
                ("max_cost", limits.max_cost, spent.cost),
            )
            if limit is not None
        ]
        return BudgetError(
            f"the budget {', '.join(said)} does not suffice for the next question: {answered} of "
            f"{answered + left} are answered, {left} are not asked. All answers are kept; raise "
            "the budget and run the same command again."
        )

    def _fits(self, sum_: Spent) -> bool:
        limits = self._limits
        return (
            (limits.max_calls is None or sum_.calls <= limits.max_calls)
            and (limits.max_tokens is None or sum_.tokens <= limits.max_tokens)
            and (limits.max_cost is None or sum_.cost <= limits.max_cost)
        )
