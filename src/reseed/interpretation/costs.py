"""What a score costs: calls and tokens a latent, counted on the prompts themselves.

Beside it the same question as the released pipeline puts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reseed.interpretation.records import Failure, Reply, Request

Counter = Callable[[str], int]
"""Tokens of a text."""

_EACH_MESSAGE = 4
"""Tokens that a chat template puts around a message, about."""


def quarter(text: str) -> int:
    """A quarter of the characters, rounded up: about the tokens of English text."""
    return -(-len(text) // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of some questions together."""

    calls: int = 0
    prompt_tokens: int = 0
    repeated_tokens: int = 0
    """of `prompt_tokens`: those that begin a prompt as they began the one before; a server that
    keeps prefixes does not read them again"""
    reply_tokens: int = 0

    def per(self, latents: int) -> Mapping[str, float]:
        """Each number for one latent."""
        return {name: getattr(self, name) / latents for name in self.__slots__}

    def times(self, latents: int) -> Cost:
        """Of so many latents like these."""
        return Cost(**{name: getattr(self, name) * latents for name in self.__slots__})


class DryRun:
    """An `Asker` that asks nobody: it keeps the requests and answers that it did not ask.

    Give it to a scorer to learn what the scorer would ask. `replies` makes up replies instead, with
    the right form and no sense, for what is asked in steps.
    """

    name = "dry run"

    def __init__(self, *, replies: bool = False) -> None:
        self.requests: list[Request] = []
        self._replies = replies

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """Keep the requests."""
        self.requests += requests
        if self._replies:
            return [
                Reply(text=made_up(one), prompt_tokens=0, reply_tokens=0, finish="stop")
                for one in requests
            ]
        return [Failure(reason="dry run; nothing was asked") for _ in requests]

    def cost(self, count: Counter = quarter) -> Cost:
        """Of everything that would have been asked."""
        return cost_of(self.requests, count)


class DryInstrument:
    """An `Embedder`, `Likelihood` and `Chooser` in one that computes nothing and counts.

    One embedded text, one text whose log-probabilities are wanted and one pass are a call each.
    """

    name = "dry run"

    def __init__(self, count: Counter = quarter) -> None:
        self._count = count
        self.calls = 0
        self.tokens = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.floating]:
        """[N, 1] ones."""
        self._saw(*texts)
        return np.ones((len(texts), 1))

    def logprobs(self, prefix: str, text: str) -> NDArray[np.floating]:
        """[1] zero."""
        self._saw(prefix + text)
        return np.zeros(1)

    def many(self, pairs: Sequence[tuple[str, str]]) -> list[NDArray[np.floating]]:
        """[1] zero for each."""
        return [self.logprobs(prefix, text) for prefix, text in pairs]

    def choices(self, parts: Sequence[str], options: Sequence[str]) -> NDArray[np.floating]:
        """[N, C] zeros."""
        self._saw("".join(parts))
        return np.zeros((len(parts), len(options)))

    def cost(self) -> Cost:
        """Of everything that would have been computed; nothing is generated."""
        return Cost(calls=self.calls, prompt_tokens=self.tokens)

    def _saw(self, *texts: str) -> None:
        self.calls += len(texts)
        self.tokens += sum(map(self._count, texts))


def cost_of(requests: Sequence[Request], count: Counter = quarter) -> Cost:
    """Calls and tokens of requests; replies are taken to have the form asked for.

    Args:
        requests: in the order in which they are sent.
        count: tokens of a text.
    """
    prompts = ["\n".join(message.content for message in one.messages) for one in requests]
    around = sum(_EACH_MESSAGE * len(one.messages) for one in requests)
    before = ["", *prompts][: len(prompts)]
    same = [commonprefix([a, b]) for a, b in zip(before, prompts, strict=True)]
    return Cost(
        calls=len(requests),
        prompt_tokens=around + sum(map(count, prompts)),
        repeated_tokens=sum(map(count, filter(None, same))),
        reply_tokens=sum(count(made_up(one)) for one in requests),
    )


def made_up(request: Request) -> str:
    """A reply of the form asked for and of usual length, without sense."""
    value = _made_up(request.schema or {"type": "string"})
    return value if isinstance(value, str) else json.dumps(value)


def _made_up(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return {name: _made_up(one) for name, one in schema["properties"].items()}
    if kind == "array":
        return [_made_up(schema["items"])] * int(schema.get("minItems", 1))
    if kind == "integer":
        return int(schema.get("minimum", 0))
    if kind == "string":
        return "words that together say in one short phrase what the unit responds to"
    return None


# -- the released pipeline -------------------------------------------------------------------------

DELPHI_COMMIT = "3c2e139"
DELPHI_FIXED = {"explain": (8, 2477), "detection": (8, 2195), "fuzzing": (8, 2639)}
"""Messages and characters of a prompt without its examples, counted in EleutherAI/delphi."""
DELPHI_INTRUDER = (8, 1414)
_DELPHI_BATCH = 5
_DELPHI_LISTED = 11
"""It lists the first eleven active tokens of a window."""


def delphi_cost(
    question: str, texts: Sequence[str], marks: Sequence[int], count: Counter = quarter
) -> Cost:
    """What the released pipeline asks for the same question about the same texts.

    Args:
        question: `"explain"`, `"detection"`, `"fuzzing"` or `"intruder"`.
        texts: the windows: those to explain from, or those to judge (an intruder question has four
            windows and one).
        marks: of each text, how many tokens are marked and listed.
        count: tokens of a text.

    Raises:
        KeyError: for another question.
    """
    messages, letters = DELPHI_INTRUDER if question == "intruder" else DELPHI_FIXED[question]
    fixed = count("x" * letters) + _EACH_MESSAGE * messages
    calls = 1 if question == "explain" else ceil(len(texts) / _DELPHI_BATCH)
    shown = sum(count(text) for text in texts)
    if question == "explain":
        # ("token" : 7), for each that is listed, and `Activations: ` before them
        shown += sum(3 + 7 * min(marked, _DELPHI_LISTED) for marked in marks)
        reply = count("[EXPLANATION]: words that say in one short phrase what the latent is")
    else:
        shown += sum(count(f"Example {i % _DELPHI_BATCH}: ") for i in range(len(texts)))
        reply = count("[RESPONSE]: 2" if question == "intruder" else "[1,0,0,1,0]")
    # an explanation of sixty characters stands in each prompt that needs one
    phrase = 0 if question in ("explain", "intruder") else count("x" * 60)
    return Cost(
        calls=calls,
        prompt_tokens=calls * (fixed + phrase) + shown,
        repeated_tokens=(calls - 1) * (fixed + phrase),
        reply_tokens=calls * reply,
    )


def table(rows: Mapping[str, tuple[Cost, Cost | None]]) -> str:
    """Costs as a Markdown table: ours, and the released pipeline's where it asks the same."""
    head = "| | calls | prompt | of it repeated | reply | Delphi: calls | prompt | reply |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for name, (own, other) in rows.items():
        first = (own.calls, own.prompt_tokens, own.repeated_tokens, own.reply_tokens)
        second = ("-", "-", "-")
        if other is not None:
            second = tuple(f"{n:,}" for n in (other.calls, other.prompt_tokens, other.reply_tokens))
        cells = [name, *(f"{n:,}" for n in first), *second]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
