"""A chat model behind any OpenAI-compatible server: vLLM, llama.cpp, OpenRouter and the like."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from reseed.errors import ModelError
from reseed.interpretation.models import BilledFailure, guessed_tokens, without_system
from reseed.interpretation.models.limits import Gate, quoted
from reseed.interpretation.models.server import GIVE_UP, Refused, Server
from reseed.interpretation.prompts.replies import whole_characters
from reseed.interpretation.records import LLM, Failure, Reply, Request, TokenChoice
from reseed.spec.llm import LocalSpec, ModelSpec, ServerSpec

if TYPE_CHECKING:
    import httpx

_KEPT = 2_000

_FLOOR = -9999.0
"""What OpenAI writes for a probability too small to name; others write null or -Infinity."""

_TOO_LONG = re.compile(r"context|too long|too many tokens", re.IGNORECASE)
_OF_THE_QUESTION = re.compile(rf"{_TOO_LONG.pattern}|moderat|flagged|filter|policy", re.IGNORECASE)
"""A refusal of one question for what it says, not for how questions are put."""

_TEMPERATURE = re.compile(
    r"temperature.{0,80}(support|permit|allow|must be|positive|valid|default)"
    r"|(support|permit|unrecogni[sz]ed|unknown|invalid|extra).{0,80}temperature",
    re.IGNORECASE | re.DOTALL,
)
_SYSTEM = re.compile(
    r"system.{0,20}(role|message|prompt|instruction)|developer instruction|roles? must alternate",
    re.IGNORECASE,
)


def open_model(spec: ModelSpec) -> LLM:
    """The model that a spec names; a local one is loaded here. Errors are those of the class."""
    if isinstance(spec, LocalSpec):
        from reseed.interpretation.models.local import LocalModel

        return LocalModel.load(spec)
    return ServerModel(spec)


def _formats(schema: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How JSON is asked for: OpenAI and vLLM; llama-cpp-python. A third way is not to ask."""
    about = {"name": "reply", "schema": dict(schema), "strict": True}
    return (
        {"type": "json_schema", "json_schema": about},
        {"type": "json_object", "schema": dict(schema)},
    )


_UNFORMATTED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manner:
    """How a server wants to be asked."""

    format: int
    """place in `_formats`"""
    limit: str = "max_tokens"
    temperature: bool = True
    """whether one may be named"""
    system: bool = True
    """whether there may be a system message"""

    def adapted(self, refusal: str, request: Request) -> _Manner | None:
        """Another manner to ask in after a refusal; None if there is none left."""
        if self.limit in refusal and self.limit == "max_tokens" and not _TOO_LONG.search(refusal):
            return replace(self, limit="max_completion_tokens")
        if self.temperature and _TEMPERATURE.search(refusal):
            return replace(self, temperature=False)
        system = any(message.role == "system" for message in request.messages)
        if self.system and system and _SYSTEM.search(refusal):
            return replace(self, system=False)
        if request.schema is not None and self.format < _UNFORMATTED:
            return replace(self, format=self.format + 1)
        return None


class ServerModel(Server[ServerSpec]):
    """An `LLM` that asks `POST base_url/chat/completions`.

    A server that refuses a JSON schema, `max_tokens`, the temperature or system messages is asked
    in another manner, which is kept for the next question. Tokens are guessed (4 characters each)
    if the server does not count them. Arguments are those of `Server`.
    """

    def __init__(
        self,
        spec: ServerSpec,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(spec, transport=transport, gate=gate)
        self._manner = _Manner(format=0 if spec.structured else _UNFORMATTED)
        self._taken, self._refusals = False, 0

    def reply(self, request: Request) -> Reply | Failure:
        """One answer; a `ModelError` if there will be none to any question."""
        first = manner = self._manner
        while True:
            came = self.post("/chat/completions", self._payload(request, manner))
            if not isinstance(came, Refused):
                break
            other = manner.adapted(came.text, request)
            if other is None:
                return self._refused(came)
            manner = other
        if isinstance(came, Failure):
            billed = isinstance(came, BilledFailure)
            return replace(came, **_bill(request, request.max_tokens, {})) if billed else came
        self._taken = True
        if manner is not first:
            self._manner = manner
        return read_reply(came, request)

    def _payload(self, request: Request, manner: _Manner) -> dict[str, Any]:
        messages = request.messages if manner.system else without_system(request.messages)
        payload: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            manner.limit: request.max_tokens,
            "stream": False,
        }
        if manner.temperature:
            payload["temperature"] = request.temperature
        if request.temperature > 0:
            payload["seed"] = request.seed
        if request.top_logprobs > 0:
            payload |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.schema is not None and manner.format < _UNFORMATTED:
            payload["response_format"] = _formats(request.schema)[manner.format]
        return payload

    def _refused(self, refusal: Refused) -> Failure:
        if not self._taken and not _OF_THE_QUESTION.search(refusal.text):
            self._refusals += 1
            if self._refusals >= GIVE_UP:
                raise ModelError(
                    f"{self.place} has refused {self._refusals} questions and taken none "
                    f"(HTTP {refusal.status}), so no more are asked.{quoted(refusal.text)}"
                )
        return Failure(reason=f"HTTP {refusal.status}: not taken", text=refusal.text)


def read_reply(body: Mapping[str, Any], request: Request) -> Reply | Failure:
    """The reply in the JSON of a server; a failure with the JSON's text if it is not there."""
    usage = body.get("usage")
    usage = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
    try:
        text, finish, tokens = _answer(body, request)
    except _Unusable as why:
        text = whole_characters(repr(dict(body)))[:_KEPT]
        bill = _bill(request, request.max_tokens, usage)
        return BilledFailure(reason=str(why), text=text, **bill)
    bill = _bill(request, guessed_tokens(text), usage)
    return Reply(text=text, finish=finish, choices=tokens, **bill)


class _Unusable(Exception):  # noqa: N818  (never leaves this file)
    """Why an answer is no reply."""


def _answer(body: Mapping[str, Any], request: Request) -> tuple[str, str, tuple[TokenChoice, ...]]:
    """Text, why it ends, and its tokens."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _Unusable("the answer has no choices")
    choice = cast(Any, choices[0])
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise _Unusable("the answer has no message")
    message = cast(dict[str, Any], message)
    content = message.get("content")
    if content is None:  # a refusal, or a model that only thought: it was said, and is paid for
        content = message.get("refusal") or ""
    if isinstance(content, list):  # in parts, of which some are thoughts
        parts = [cast(dict[str, Any], part) for part in content if isinstance(part, dict)]
        texts = [part.get("text") for part in parts if part.get("type") in ("text", "output_text")]
        content = "".join(map(str, texts)) if texts and None not in texts else content
    if not isinstance(content, str):
        raise _Unusable("the content of the answer is no text")
    try:
        tokens = _tokens(choice.get("logprobs")) if request.top_logprobs else ()
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise _Unusable("the log-probabilities of the answer cannot be read") from None
    return whole_characters(content), str(choice.get("finish_reason") or "stop"), tokens


def _tokens(logprobs: Any) -> tuple[TokenChoice, ...]:
    if not logprobs:
        return ()
    return tuple(
        TokenChoice(
            token=whole_characters(str(item["token"])),
            logprob=_logprob(item["logprob"]),
            alternatives={
                whole_characters(str(other["token"])): _logprob(other["logprob"])
                for other in reversed(item.get("top_logprobs") or [])  # the likeliest wins
            },
        )
        for item in logprobs["content"] or []
    )


def _logprob(value: Any) -> float:
    number = _FLOOR if value is None else float(value)
    if math.isnan(number) or number > 0.01:
        raise ValueError("no log-probability")
    return max(number, _FLOOR)


# -- what an answer costs --------------------------------------------------------------------------


def _bill(request: Request, reply_tokens: int, usage: Mapping[str, Any]) -> dict[str, Any]:
    """What the server counted; what it did not is guessed."""
    prompt = sum(guessed_tokens(message.content) for message in request.messages)
    return {
        "prompt_tokens": _count(usage.get("prompt_tokens"), prompt),
        "reply_tokens": _count(usage.get("completion_tokens"), reply_tokens),
        "cost": _cost(usage.get("cost")),
    }


def _count(value: Any, otherwise: int) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
    return int(value) if good else otherwise


def _cost(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return float(value) if good else 0.0
