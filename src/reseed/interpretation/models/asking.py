"""Many questions to one model, through a journal: nothing is asked twice, a stop loses nothing.

Answers are in the journal before anybody sees them. Failures are not: a question without an answer
is asked again by the next run. A reply that makes no sense is an answer, and is remembered.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reseed.events import Events
from reseed.interpretation.models.accounts import Account, Accounts, Budget, Crew, Halt, Spent
from reseed.interpretation.models.journal import Journal, entries
from reseed.interpretation.records import LLM, Failure, Reply, Request, TokenChoice
from reseed.seeds import digest
from reseed.spec.llm import BudgetSpec, Prices


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
        limits = budget or BudgetSpec()
        limited = any(limit is not None for limit in limits.model_dump().values())
        spent = spent_before(journal, model.name) if limited else Spent()
        self._budget = Budget(limits, spent, prices)
        self._accounts = Accounts()
        self._asking = threading.Lock()
        self._tried = False
        if journal.torn or journal.damaged:
            self._events.say(
                f"{journal.path.name}: {journal.torn} bytes of an unfinished line dropped, "
                f"{journal.damaged} damaged lines left out; what they held is asked again"
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
        return self._accounts.all()

    def close(self) -> None:
        """Push the journal to the disk and let go of it, and of the model's connections."""
        self._journal.close()
        close: Callable[[], None] | None = getattr(self._model, "close", None)
        if close is not None:
            close()

    def known(self, request: Request) -> bool:
        """Whether the journal has the answer already."""
        return question_key(self.name, request) in self._journal

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """Answers in the order of the requests; equal ones are asked once.

        Raises:
            BudgetError: if the budget does not suffice; what was answered is in the journal.
            ModelError: if the model refuses for good.
            StoreError: if the journal cannot be written.
        """
        keys = [question_key(self.name, request) for request in requests]
        questions: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            questions.setdefault(key, request)
        with self._asking:
            answers: dict[str, Reply | Failure] = {}
            left: dict[str, Request] = {}
            for key, request in questions.items():
                reply = self._remembered(key, request)
                if reply is None:
                    left[key] = request
                else:
                    answers[key] = reply
            if left:
                answers |= self._asked(left)
        return [answers[key] for key in keys]

    def _remembered(self, key: str, request: Request) -> Reply | None:
        found = self._journal.answer(key)
        if found is None:
            return None
        reply = reply_from(found)
        self._accounts.replied(request.purpose, reply, None)
        return reply

    def _asked(self, questions: Mapping[str, Request]) -> dict[str, Reply | Failure]:
        purposes = {request.purpose for request in questions.values()} - {""}
        name = f"ask {purposes.pop()}" if len(purposes) == 1 else "ask"
        todo = list(questions.items())
        parts = [(todo, self._concurrency)]
        if not self._tried:
            parts = [(todo[:1], 1), (todo[1:], self._concurrency)]
        answers: dict[str, Reply | Failure] = {}
        failed, cost = 0, 0.0
        with self._events.task(name, len(todo), "questions") as task:
            for items, threads in parts:
                crew = Crew(items, self._put, min(threads, len(items)))
                with contextlib.closing(crew.results()) as results:
                    for key, answer in results:
                        answers[key] = answer
                        failed += isinstance(answer, Failure)
                        cost += answer.cost if isinstance(answer, Reply) else 0.0
                        task.advance(1, f"{failed} failed, cost {cost:.3g}")
                self._tried = True
                if crew.halted:
                    raise self._budget.stop(len(answers), len(todo) - len(answers))
        return answers

    def _put(self, item: tuple[str, Request]) -> tuple[str, Reply | Failure]:
        """Put one question; the answer is in the journal when this returns."""
        key, request = item
        guess = self._budget.guess(request)
        if not self._budget.take(guess):
            raise Halt
        reply: Reply | None = None
        started = time.monotonic()
        try:
            answer = self._model.reply(request)
            seconds = time.monotonic() - started
            if isinstance(answer, Reply):
                answer = self._priced(answer)
            if isinstance(answer, Failure):
                self._accounts.failed(request.purpose)
                return key, answer
            about = {"model": self.name, "purpose": request.purpose, "seconds": round(seconds, 3)}
            self._journal.add(key, _question(request), reply_record(answer), **about)
            reply = answer
            self._accounts.replied(request.purpose, reply, seconds)
            return key, reply
        finally:
            self._budget.settle(guess, reply)

    def _priced(self, reply: Reply) -> Reply | Failure:
        numbers = [choice.logprob for choice in reply.choices]
        numbers += [v for choice in reply.choices for v in choice.alternatives.values()]
        if not all(map(math.isfinite, numbers)):
            return Failure(reason="a log-probability in the reply is not finite", text=reply.text)
        if self._prices is None:
            return reply
        return replace(reply, cost=self._prices.cost(reply.prompt_tokens, reply.reply_tokens))


def question_key(model: str, request: Request) -> str:
    """The key of a question in a journal: everything that decides the reply, and the model.

    The purpose does not, nor does the seed at temperature 0.
    """
    asked = _question(request)
    return digest({"model": model, **asked, "seed": request.seed if request.temperature else 0}, 32)


def _question(request: Request) -> dict[str, Any]:
    return {
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": float(request.temperature),
        "seed": request.seed,
        "top_logprobs": request.top_logprobs,
        "schema": None if request.schema is None else dict(request.schema),
    }


def reply_record(reply: Reply) -> dict[str, Any]:
    """A reply as JSON."""
    return {
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "reply_tokens": reply.reply_tokens,
        "finish": reply.finish,
        "cost": reply.cost,
        "choices": [[c.token, c.logprob, dict(c.alternatives)] for c in reply.choices],
    }


def reply_from(record: Mapping[str, Any]) -> Reply:
    """The reply of a record that `reply_record` made."""
    choices = tuple(
        TokenChoice(token=token, logprob=logprob, alternatives=alternatives)
        for token, logprob, alternatives in record["choices"]
    )
    return Reply(
        text=record["text"],
        prompt_tokens=record["prompt_tokens"],
        reply_tokens=record["reply_tokens"],
        finish=record["finish"],
        cost=record["cost"],
        choices=choices,
    )


def spent_before(journal: Journal, model: str) -> Spent:
    """What the answers of one model in a journal have cost."""
    total = Spent()
    for entry in entries(journal.path):
        if entry.get("model") == model:
            total = total.plus(Spent.of(reply_from(entry["answer"])))
    return total
