"""What answers, embeds, finds likely and is steered: protocols and a fake, read without torch.

T tokens, N texts, D dimensions of the site that is steered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reseed.interpretation.records import Failure, Message, Reply, Request

Numbers = NDArray[np.float64]


def guessed_tokens(text: str) -> int:
    """About how many tokens a text has: four characters each, as in English."""
    return -(-len(text) // 4)


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The system message at the head of the first user message: some templates know none."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    if not rest or rest[0].role != "user":
        return [Message(role="user", content=system), *rest]
    return [Message(role="user", content=f"{system}\n\n{rest[0].content}"), *rest[1:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledFailure(Failure):
    """An answer that cannot be used but has to be paid for."""

    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0

    @classmethod
    def of(cls, reply: Reply, reason: str) -> BilledFailure:
        """A reply that cannot be used."""
        return cls(
            reason=reason,
            text=reply.text,
            prompt_tokens=reply.prompt_tokens,
            reply_tokens=reply.reply_tokens,
            cost=reply.cost,
        )


@dataclass(slots=True)
class Scripted:
    """An `LLM` that gives what a function makes of the request. Tokens are guessed, cost is 0.

    The function must depend on the request alone, or a rerun from a journal differs.

    Example:
        >>> Scripted(lambda request: "cats").reply(Request(messages=())).text
        'cats'
    """

    answer: Callable[[Request], str | Failure]
    name: str = "scripted"
    asked: list[Request] = field(default_factory=list[Request])
    """every request, in the order of arrival"""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def reply(self, request: Request) -> Reply | Failure:
        """What the function says."""
        with self._lock:
            self.asked.append(request)
        text = self.answer(request)
        if isinstance(text, Failure):
            return text
        prompt = sum(guessed_tokens(message.content) for message in request.messages)
        return Reply(text=text, prompt_tokens=prompt, reply_tokens=guessed_tokens(text))


class Embedder(Protocol):
    """Turns texts into vectors whose cosine says how alike they are."""

    @property
    def name(self) -> str:
        """The model, as written into results."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.floating]:
        """[N, dimensions]; rows need not have length 1."""
        ...


class Likelihood(Protocol):
    """How probable a language model finds a text."""

    @property
    def name(self) -> str:
        """The model, as written into results."""
        ...

    def logprobs(self, prefix: str, text: str) -> NDArray[np.floating]:
        """[T] natural log-probability of each token of `text`, after `prefix`; none if empty.

        The text is cut into tokens by itself, so that it has the same tokens after any prefix.
        """
        ...

    def many(self, pairs: Sequence[tuple[str, str]]) -> Sequence[NDArray[np.floating]]:
        """`logprobs` of many pairs of prefix and text, in their order."""
        ...


class Steerable(Protocol):
    """A subject to whose activations a direction can be added while it writes."""

    def generate(
        self, prompts: Sequence[str], direction: Numbers | None, strength: float
    ) -> list[str]:
        """What it writes after each prompt, without the prompt.

        Args:
            prompts: what it continues.
            direction: `[D]`, added at each position; None for the subject as it is.
            strength: by which the direction is multiplied.
        """
        ...

    def kl(self, prompts: Sequence[str], direction: Numbers, strength: float) -> float:
        """Mean KL(steered || clean) of the next token over all positions of prompts, in nats."""
        ...
