"""A model that answers by rule: for tests, dry runs and controls."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from reseed.interpretation.records import Failure, Reply, Request

CHARACTERS_A_TOKEN = 4
"""What is assumed where nobody counts tokens; English text has about so many."""


def guessed_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS_A_TOKEN)


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
