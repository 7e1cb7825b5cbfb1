"""Many questions to one model, through a journal: nothing is asked twice, a stop loses nothing.

Answers are in the journal before anybody sees them. A question without an answer is asked again by
the next run, though what it cost is in the journal too. A reply that makes no sense is an answer,
and is remembered.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from reseed.events import Events
from reseed.interpretation.models import BilledFailure
from reseed.interpretation.models.chat import open_model
from reseed.interpretation.models.journal import Journal, question_key, question_record, reply_from
from reseed.interpretation.models.limits import Budget, Spent, portion, spent
from reseed.interpretation.records import LLM, Asker, Failure, Reply, Request
from reseed.spec.llm import BudgetSpec, LocalSpec, ModelSpec, Prices

GRACE_SECONDS = 10.0
"""How long a stop waits for questions under way, which are paid for."""

_SILENT_SECONDS = 3.0
"""A server that answers none of them for so long is not waited for."""

_LISTEN_SECONDS = 0.1
"""A wait without end would hear a signal only when the next answer comes."""

Answered = tuple[str, Reply | Failure, float]
"""Key of a question, its answer, and the seconds that it took."""


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
    """of all answers, remembered ones and unusable ones too: what a first run pays"""
    reply_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    """that the model took for the questions asked, one after the other"""

    def plus(self, answer: Reply | Failure, seconds: float | None) -> Account:
        """With one more answer and the seconds that it took; None if the journal gave it."""
        failed, new = isinstance(answer, Failure), seconds is not None
        return replace(
            self,
            asked=self.asked + (new and not failed),
            remembered=self.remembered + (not new),
            failed=self.failed + failed,
            prompt_tokens=self.prompt_tokens + getattr(answer, "prompt_tokens", 0),
            reply_tokens=self.reply_tokens + getattr(answer, "reply_tokens", 0),
            cost=self.cost + spent(answer).cost,
            seconds=self.seconds + (0.0 if failed or seconds is None else seconds),
        )


class JournaledAsker:
    """An `Asker`: answers from the journal where it has them, else from the model, in threads.

    The very first question is put alone, so that a wrong key or model name is found before any
    other is asked. `close` it, or use it in a `with` block.

    Args:
        model: who answers what the journal does not know; its `close`, if any, is called.
        journal: open; several askers may share it, since answers belong to the model's name.
        concurrency: questions under way at once; 1 for a local model.
        prices: of the model; left out, replies cost what the model says.
        budget: what may be spent over the life of the journal on this model.
        events: shows progress.
    """

    def __init__(
        self,
        model: LLM,
        journal: Journal,
        *,
        concurrency: int = 1,
        prices: Prices | None = None,
        budget: BudgetSpec | None = None,
        events: Events | None = None,
    ) -> None:
        self._model, self._journal, self._prices = model, journal, prices
        self._concurrency, self._events = concurrency, events or Events()
        self._budget = Budget(budget or BudgetSpec(), journal.spent(model.name), prices)
        self._accounts: dict[str, Account] = {}
        self._said: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._asking = threading.Lock()
        self._tried = False
        if journal.torn:
            self._events.say(
                f"{journal.path.name}: {journal.torn} bytes of an unfinished line dropped; what "
                "they held is asked again"
            )

    def __enter__(self) -> JournaledAsker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._model.name

    def accounts(self) -> Mapping[str, Account]:
        """Purpose to what it used, in the order of first use."""
        return dict(self._accounts)

    def said(self) -> Mapping[str, Counter[str]]:
        """Purpose to how often each reply came."""
        return dict(self._said)

    def knows(self, key: str) -> bool:
        """Whether a question has an answer."""
        return key in self._journal

    def close(self) -> None:
        """Let go of the model's connections; push the journal to the disk and let go of it."""
        close: Callable[[], None] | None = getattr(self._model, "close", None)
        if close is not None:
            close()
        self._journal.close()

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """Answers in the order of the requests; equal ones are asked once."""
        keys = [question_key(self.name, request) for request in requests]
        questions: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            questions.setdefault(key, request)
        answers: dict[str, Reply | Failure] = {}
        with self._asking:
            for key, request in questions.items():
                record = self._journal.answer(key)
                if record is not None:
                    answers[key] = reply_from(record)
                    self._count(request.purpose, answers[key], None)
            left = {key: request for key, request in questions.items() if key not in answers}
            if left:
                answers |= self._asked(left)
        return [answers[key] for key in keys]

    def _count(self, purpose: str, answer: Reply | Failure, seconds: float | None) -> None:
        account = self._accounts.get(purpose, Account(purpose=purpose))
        self._accounts[purpose] = account.plus(answer, seconds)
        if isinstance(answer, Reply):
            self._said[purpose][answer.text.strip()] += 1

    def _asked(self, questions: Mapping[str, Request]) -> dict[str, Reply | Failure]:
        purposes = {request.purpose for request in questions.values()} - {""}
        name = f"ask {purposes.pop()}" if len(purposes) == 1 else "ask"
        answers: dict[str, Reply | Failure] = {}
        failed, cost = 0, 0.0
        with (
            self._events.task(name, len(questions), "questions") as task,
            closing(self._come(questions)) as come,
        ):
            for key, answer, seconds in come:
                answers[key] = answer
                self._count(questions[key].purpose, answer, seconds)
                failed += isinstance(answer, Failure)
                cost += spent(answer).cost
                task.advance(1, f"{failed} failed, cost {cost:.3g}")
        if len(answers) < len(questions):
            raise self._budget.stop(len(answers), len(questions) - len(answers))
        return answers

    def _come(self, questions: Mapping[str, Request]) -> Generator[Answered]:
        """Answers as they come, in no order; fewer if the budget does not suffice for all.

        A stop or an error waits for what is under way, which goes into the journal.
        """
        items = iter(questions.items())
        pool = ThreadPoolExecutor(self._concurrency)
        under_way: set[Future[Answered | None]] = set()
        try:
            while True:
                room = (self._concurrency if self._tried else 1) - len(under_way)
                under_way |= {pool.submit(self._put, *item) for item in islice(items, room)}
                if not under_way:
                    return
                done, under_way = wait(under_way, _LISTEN_SECONDS, FIRST_COMPLETED)
                for future in done:
                    answered = future.result()
                    self._tried = True
                    if answered is None:
                        items = iter(())
                    else:
                        yield answered
        finally:
            try:
                _wait_while_answers_come(under_way)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _put(self, key: str, request: Request) -> Answered | None:
        """Put one question; what was said is in the journal when this returns.

        None if the budget does not suffice.
        """
        guess, cost = self._budget.guess(request), Spent()
        if not self._budget.take(guess):
            return None
        try:
            started = time.monotonic()
            answer = self._priced(self._model.reply(request))
            seconds = time.monotonic() - started
            cost = spent(answer)
            if cost.calls:
                self._journal.add(
                    key,
                    question_record(request),
                    **{"answer" if isinstance(answer, Reply) else "failure": asdict(answer)},
                    model=self.name,
                    purpose=request.purpose,
                    seconds=round(seconds, 3),
                )
            return key, answer, seconds
        finally:
            self._budget.settle(guess, cost)

    def _priced(self, answer: Reply | Failure) -> Reply | Failure:
        if self._prices is not None and isinstance(answer, Reply | BilledFailure):
            cost = self._prices.cost(answer.prompt_tokens, answer.reply_tokens)
            answer = replace(answer, cost=cost)
        choices = answer.choices if isinstance(answer, Reply) else ()
        logprobs = [[choice.logprob, *choice.alternatives.values()] for choice in choices]
        if isinstance(answer, Reply) and not all(map(math.isfinite, chain(*logprobs))):
            return BilledFailure.of(answer, "a log-probability in the reply is not finite")
        return answer


def _wait_while_answers_come(under_way: set[Future[Answered | None]]) -> None:
    """Let questions end that are paid for, as long as the server is not silent."""
    last = time.monotonic() + GRACE_SECONDS
    while under_way and time.monotonic() < last:
        done, under_way = wait(under_way, _SILENT_SECONDS, FIRST_COMPLETED)
        if not done:
            return


def open_asker(
    spec: ModelSpec,
    journal: Path,
    budget: BudgetSpec | None = None,
    events: Events | None = None,
    of: int = 1,
) -> JournaledAsker:
    """The model of a spec behind a journal; use it in a `with` block.

    Args:
        spec: which model.
        journal: file, e.g. `STUDY/journals/explain.jsonl`; made if it is missing.
        budget: see `JournaledAsker`, as for the events.
        events: show progress.
        of: shares, of which this one may spend an equal part of what is left of the budget.
    """
    model, kept = open_model(spec), Journal(journal)
    server = not isinstance(spec, LocalSpec)
    return JournaledAsker(
        model,
        kept,
        concurrency=spec.concurrency if server else 1,
        prices=spec.prices if server else None,
        budget=budget and portion(budget, kept.spent(model.name), of),
        events=events,
    )


def replies(asker: Asker) -> Mapping[str, Counter[str]]:
    """Purpose to how often each reply came, of an asker that counts them."""
    return asker.said() if isinstance(asker, JournaledAsker) else {}


def accounts(asker: Asker) -> dict[str, Any]:
    """Purpose to calls, tokens and cost, of an asker that counts them."""
    every = asker.accounts() if isinstance(asker, JournaledAsker) else {}
    return {purpose: asdict(account) for purpose, account in every.items()}
