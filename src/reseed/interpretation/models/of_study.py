"""Models behind the journals of a study: for all questions, or for a share of them.

Several processes ask a share each and read what all were told. Which share a question is of follows
from its key alone, so that no two ask the same one and none needs to know of the others. Each
writes a journal of its own, `PURPOSE.PROCESS.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from reseed.errors import BudgetError
from reseed.events import Events
from reseed.interpretation.models.asker import JournaledAsker, open_asker
from reseed.interpretation.models.journal import question_key
from reseed.interpretation.records import Asker, Failure, Reply, Request
from reseed.spec.llm import BudgetSpec, ModelSpec
from reseed.store import Store


@dataclass(frozen=True, slots=True)
class Share:
    """The `number`-th of `of` shares, counted from 1; with 0 nothing is asked."""

    number: int
    of: int
    process: str
    """whose journal it is"""

    def has(self, key: str) -> bool:
        """Whether a question is of this share."""
        return share_of(key, self.of) == self.number


def share_of(key: str, of: int) -> int:
    """Number of the share, from 1, of a question."""
    return int(key[:8], 16) % of + 1


class ShareAsker:
    """An `Asker` that asks the questions of its share; others it answers if a journal can.

    Args:
        asker: behind a journal that has read those of the others.
        share: what is asked.

    Attributes:
        left: keys of questions that nobody has answered yet.
    """

    def __init__(self, asker: JournaledAsker, share: Share) -> None:
        self._asker, self._share = asker, share
        self.left: set[str] = set()

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._asker.name

    @property
    def answered(self) -> int:
        """Questions that the model has answered here."""
        return sum(account.asked for account in self._asker.accounts().values())

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """Answers in the order of the requests; failures where others are asked, or nobody is."""
        keys = [question_key(self.name, request) for request in requests]
        by_key = dict(zip(keys, requests, strict=True))
        mine = [key for key in by_key if self._share.has(key) and not self._asker.knows(key)]
        with suppress(BudgetError):  # of this share; whoever makes the result says it of all
            self._asker.ask([by_key[key] for key in mine])
        known = [key for key in by_key if self._asker.knows(key)]
        self.left |= by_key.keys() - known
        self.left -= set(known)
        answers = dict(zip(known, self._asker.ask([by_key[key] for key in known]), strict=True))
        nothing = Failure(reason="nobody has answered it yet")
        return [answers.get(key, nothing) for key in keys]


JOURNALS = "journals"
"""Folder of a study with everything that models were asked and answered."""

AskerOf = Callable[[ModelSpec, str], Asker]
"""From a model and a purpose to what asks it; tests give a fake."""


def opener(store: Store, budget: BudgetSpec, events: Events, open_now: ExitStack) -> AskerOf:
    """What opens models behind journals of a study; closed with the stack."""

    def opened(model: ModelSpec, purpose: str) -> Asker:
        journal = store.path(JOURNALS) / f"{purpose}.jsonl"
        return open_now.enter_context(open_asker(model, journal, budget, events))

    return opened


def share_opener(
    store: Store, budget: BudgetSpec, events: Events, open_now: ExitStack, share: Share
) -> Callable[[ModelSpec, str], ShareAsker]:
    """The same for a share of the questions, behind a journal of this process.

    Of what is left of the budget each share may spend an equal part.
    """

    def opened(model: ModelSpec, purpose: str) -> ShareAsker:
        journal = store.path(JOURNALS) / f"{purpose}.{share.process}.jsonl"
        asker = open_asker(model, journal, budget, events, share.of)
        return ShareAsker(open_now.enter_context(asker), share)

    return opened
