"""A chat model behind any OpenAI-compatible server: vLLM, llama.cpp, OpenRouter and the like."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from reseed.interpretation.models.instruments import guessed_tokens
from reseed.interpretation.models.transport import Gate, Refused, Server
from reseed.interpretation.records import Failure, Reply, Request, TokenChoice
from reseed.spec.llm import ServerSpec

if TYPE_CHECKING:
    import httpx


_KEPT = 2_000

_FLOOR = -9999.0
"""What OpenAI writes for a probability too small to name; others write null or -Infinity."""


class HTTPModel:
    """An `LLM` that asks `POST base_url/chat/completions`.

    A server that refuses a JSON schema is asked with the older way of writing it, then without;
    which way worked is kept for the next question. Tokens are guessed (4 characters each) if the
    server does not count them.

    Args:
        spec: where the server is, which model, how patient to be.
        transport: of httpx, in place of the network.
        gate: holds requests back; for tests.

    Raises:
        ImportError: naming the extra, if httpx is missing.
        SpecError: if the variable with the key is not set.
    """

    def __init__(
        self,
        spec: ServerSpec,
        *,
        transport: httpx.BaseTransport | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._spec = spec
        self._server = Server(spec, transport=transport, gate=gate)
        self._way = 0 if spec.structured else len(_WAYS) - 1

    @property
    def name(self) -> str:
        """The model, as the server calls it."""
        return self._spec.model

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def reply(self, request: Request) -> Reply | Failure:
        """One answer.

        Raises:
            ModelError: if the server refuses the key or the model, or is gone.
        """
        first = self._way if request.schema is not None else len(_WAYS) - 1
        for way in range(first, len(_WAYS)):
            payload = self._payload(request) | _WAYS[way](request.schema or {})
            came = self._server.post("/chat/completions", payload)
            if not isinstance(came, Refused):
                if request.schema is not None and isinstance(came, dict):
                    self._way = max(self._way, way)
                return came if isinstance(came, Failure) else read_reply(came, request)
            if way == len(_WAYS) - 1:
                return Failure(reason=f"HTTP {came.status}: not taken", text=came.text)
        raise AssertionError("the last way returns")

    def _payload(self, request: Request) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self._spec.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stream": False,
        }
        if request.temperature > 0:
            payload["seed"] = request.seed
        if request.top_logprobs > 0:
            payload |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return payload


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    about = {"name": "reply", "schema": dict(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": about}}


def _json_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_object", "schema": dict(schema)}}


def _no_format(_schema: Mapping[str, Any]) -> dict[str, Any]:
    return {}


_WAYS: tuple[Callable[[Mapping[str, Any]], dict[str, Any]], ...] = (
    _json_schema,
    _json_object,
    _no_format,
)
"""Of asking for JSON: OpenAI's and vLLM's; llama-cpp-python's; not at all."""


def read_reply(body: Mapping[str, Any], request: Request) -> Reply | Failure:
    """The reply in the JSON of a server; a failure with the JSON's text if it is not there."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        return _unusable("the answer has no choices", body)
    choice = cast(Any, choices[0])
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return _unusable("the answer has no message", body)
    content = message.get("content")
    if content is None:  # a refusal, or a model that only thought: it was said, and is paid for
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        return _unusable("the content of the answer is no text", body)
    text = whole_characters(content)
    try:
        tokens = _tokens(choice.get("logprobs")) if request.top_logprobs else ()
    except (TypeError, ValueError, KeyError, AttributeError):
        return _unusable("the log-probabilities of the answer cannot be read", body)
    usage = body.get("usage")
    usage = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
    prompt = sum(guessed_tokens(m.content) for m in request.messages)
    return Reply(
        text=text,
        prompt_tokens=_count(usage.get("prompt_tokens"), prompt),
        reply_tokens=_count(usage.get("completion_tokens"), guessed_tokens(text)),
        finish=str(choice.get("finish_reason") or "stop"),
        choices=tokens,
        cost=_cost(usage.get("cost")),
    )


def whole_characters(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON may hold but no file can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unusable(reason: str, body: Mapping[str, Any]) -> Failure:
    return Failure(reason=reason, text=whole_characters(repr(dict(body)))[:_KEPT])


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


def _count(value: Any, otherwise: int) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
    return int(value) if good else otherwise


def _cost(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if good and math.isfinite(value) and value >= 0 else 0.0
