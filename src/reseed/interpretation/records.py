"""What explaining and scoring hand to each other. Read without torch.

A failure is never a value: whatever asks a model gives what was asked for or a `Failure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

Split = Literal["explain", "score", "judge"]
"""What an example may be used for; the documents of two splits are disjoint."""
Kind = Literal["firing", "random", "neighbour"]
"""Whether the latent fires in it; if not, whether it is any place or one where a latent fires that
is near to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A window of text and how strongly one latent fires at each of its tokens."""

    split: Split
    kind: Kind
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    """of each token; 0 where the latent is silent or the position was left out"""
    document: int
    block: int
    position: int
    """in the block, of the token that the window was chosen for"""
    quantile: int | None = None
    """from 0, weakest; None if it does not fire"""

    @property
    def text(self) -> str:
        """The window as one string."""
        return "".join(self.tokens)

    @property
    def strength(self) -> float:
        """The largest activation in the window."""
        return max(self.activations, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """One latent of one run, by name."""

    run: str
    latent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a latent fires on, in words."""

    of: Latent
    text: str
    model: str
    """that wrote it"""
    reasoning: str | None = None
    settings: str = ""
    """digest of prompt and settings"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no result, with what came instead."""

    reason: str
    text: str | None = None
    """the reply that could not be used"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question to a model. Equal requests have equal replies in a journal."""

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    """tells repeated questions at a temperature above 0 apart"""
    top_logprobs: int = 0
    """alternatives of each token of the reply that are asked for; 0 for none"""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the reply, for servers that can hold a model to it"""
    purpose: str = ""
    """what it is for, e.g. `"explain"`; for accounts, not part of the question"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """A token of a reply and what else it might have been."""

    token: str
    logprob: float
    alternatives: Mapping[str, float] = field(default_factory=dict[str, float])
    """token to log-probability, natural logarithm"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a model said."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    finish: str = "stop"
    """`"stop"`, `"length"` or what else the server says"""
    choices: tuple[TokenChoice, ...] = ()
    """one for each token of the reply, if log-probabilities were asked for"""
    cost: float = 0.0
    """in the currency of the prices given; 0 without"""


class LLM(Protocol):
    """Anything that answers a request: a server, a local model, a fake."""

    @property
    def name(self) -> str:
        """The model, as written into results."""
        ...

    def reply(self, request: Request) -> Reply | Failure:
        """One answer; may be called from several threads at once."""
        ...


class Asker(Protocol):
    """Many questions to one model; replies that are known already cost nothing."""

    @property
    def name(self) -> str:
        """The model, as written into results."""
        ...

    def ask(self, requests: list[Request]) -> list[Reply | Failure]:
        """Answers in the order of the requests; a failure for each that got none."""
        ...


T = TypeVar("T")
R = TypeVar("R")


def ask_about(
    asker: Asker,
    things: Sequence[T | Failure],
    questions: Callable[[T], Sequence[Request]],
    result: Callable[[T, list[Reply | Failure]], R],
) -> list[R | Failure]:
    """Ask the questions about several things all together, and make something of the answers.

    Args:
        asker: the model.
        things: what is asked about; failures are passed on.
        questions: about one thing.
        result: from a thing and the answers to its questions, in their order.
    """
    each = [() if isinstance(thing, Failure) else questions(thing) for thing in things]
    requests = [request for some in each for request in some]
    replies = iter(asker.ask(requests) if requests else [])
    return [
        thing if isinstance(thing, Failure) else result(thing, [next(replies) for _ in some])
        for thing, some in zip(things, each, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What a scorer is given: a latent, what is said of it, and examples it was not made from."""

    of: Latent
    explanation: Explanation | None
    """None for scorers that need none"""
    examples: tuple[Example, ...]


Interval = tuple[float, float]
"""95 %, low and high"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well an explanation, or a latent by itself, did on examples."""

    of: Latent
    scorer: str
    value: float
    """the number that this scorer is known for"""
    chance: float
    """what `value` is if there is nothing to find"""
    interval: Interval | None
    """of `value`; None if there are too few answers"""
    balanced_accuracy: float | None = None
    auroc: float | None = None
    auroc_interval: Interval | None = None
    positives: int = 0
    """answers about examples in which the latent fires"""
    negatives: int = 0
    failed: int = 0
    """questions without a usable answer; they are in no number above"""
    failures: tuple[Failure, ...] = ()
    """why, one for each reply that could not be used"""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """what else belongs to the number, e.g. the right answers by quantile; JSON"""
