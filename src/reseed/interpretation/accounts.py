"""Who asked how much: totals by purpose, and a budget that is never overdrawn by much.

Tokens of a question that is under way are guessed and set aside until its answer says more.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from reseed.errors import BudgetError
from reseed.interpretation.client_spec import BudgetSpec, Prices
from reseed.interpretation.fakes import guessed_tokens
from reseed.interpretation.records import Reply, Request


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
