"""A chat model in this process, through transformers.

What people and corpora wrote is encoded as ordinary text: the spelling of a special token inside a
message (`<|im_end|>`) cannot end the message. Everything is in float64 after the logits, so that
equal logits give equal replies.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reseed.errors import SubjectError
from reseed.interpretation.models import without_system
from reseed.interpretation.models.causal import Logprobs, load_local, write
from reseed.interpretation.records import Failure, Message, Reply, Request, TokenChoice
from reseed.seeds import digest, generator
from reseed.spec.llm import LocalSpec
from reseed.subjects.language.model import CausalModel
from reseed.subjects.language.tokenizer import quiet_transformers

PLAIN_STOP = "\n\nUser:"
"""With the plain form, a reply ends before the model speaks for the user."""

_MARK = "\ue000{}\ue001"  # private use: no text has it, no template changes it

_MARKED = re.compile("\ue000(\\d+)\ue001")

_NAMES = {"user": "User: ", "assistant": "Assistant: ", "system": ""}


def has_template(causal: CausalModel) -> bool:
    """Whether the model's tokenizer brings a chat template; else the plain form is used."""
    return bool(getattr(causal.wrapped, "chat_template", None))


def chat_ids(causal: CausalModel, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation, up to where the model's reply begins.

    Without a chat template it is written out plainly: the system message alone, then paragraphs
    `User: ...` and `Assistant: ...`, and `Assistant:` at the end, after the BOS token if there is
    one. A template that refuses the conversation, or loses a message, is a `SubjectError`.
    """
    if not has_template(causal):
        shown = [f"{_NAMES[m.role]}{m.content}" for m in messages]
        ids = causal.tokenizer.encode(["\n\n".join([*shown, "Assistant:"])])[0]
        return [*([] if causal.tokenizer.bos is None else [causal.tokenizer.bos]), *ids]
    text = _templated(causal, [m.role for m in messages])
    if text is None and any(m.role == "system" for m in messages):
        messages = without_system(messages)
        text = _templated(causal, [m.role for m in messages])
    if text is None:
        raise SubjectError(
            f"{causal.name}: its chat template refuses a conversation of "
            f"{', '.join(m.role for m in messages)}. Take an instruct model whose template knows "
            "these roles."
        )
    return _filled(causal, text, messages)


def _templated(causal: CausalModel, roles: Sequence[str]) -> str | None:
    """The template with marks for the contents, or None if it refuses the roles."""
    from jinja2 import TemplateError

    marks = [{"role": role, "content": _MARK.format(i)} for i, role in enumerate(roles)]
    wrapped: Any = causal.wrapped
    try:
        with quiet_transformers():
            text = wrapped.apply_chat_template(marks, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return None
    places = [int(i) for i in _MARKED.findall(str(text))]
    return str(text) if places == list(range(len(roles))) else None


def _filled(causal: CausalModel, text: str, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = []
    for index, part in enumerate(_MARKED.split(text)):
        if index % 2:
            ids += causal.tokenizer.encode([messages[int(part)].content])[0]
        elif part:
            ids += [int(i) for i in causal.wrapped.encode(part, add_special_tokens=False)]
    return ids


@dataclass(slots=True)
class _Cache:
    """Keys and values of the last conversation; the next one may begin alike."""

    ids: list[int] = field(default_factory=list[int])
    values: Any = None

    def reuse(self, ids: list[int]) -> list[int]:
        """Cut to what a conversation shares with the last one; give the ids that are new."""
        pairs = zip(self.ids, ids, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.ids), len(ids)))
        shared = min(shared, len(ids) - 1)  # one is needed to predict from
        if self.values is None or not _can_be_cut(self.values) or shared < 1:
            self.ids, self.values = [], None
            return ids
        if shared < len(self.ids):
            self.values.crop(shared - len(self.ids))  # negative: how many to take away
            del self.ids[shared:]
        return ids[shared:]


@dataclass(slots=True)
class _Written:
    """A reply as it grows."""

    ids: list[int] = field(default_factory=list[int])
    choices: list[TokenChoice] = field(default_factory=list[TokenChoice])
    finish: str = "length"


class LocalModel:
    """An `LLM` of the transformers library: greedy at temperature 0, else seeded sampling.

    One question at a time. What a conversation shares with the one before (few-shot examples that
    stand first) is not computed again. It cannot be held to a JSON schema; the schema is left
    aside. Log-probabilities are those at temperature 1.
    """

    def __init__(self, causal: CausalModel) -> None:
        self._causal = causal
        self._lock = threading.Lock()
        self._cache = _Cache()

    @classmethod
    def load(cls, spec: LocalSpec) -> LocalModel:
        """Load a model; errors are those of `load_causal`."""
        return cls(load_local(spec))

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._causal.name

    def reply(self, request: Request) -> Reply | Failure:
        """One answer; a failure if the conversation is too long for the model."""
        ids = chat_ids(self._causal, request.messages)
        context = self._causal.context
        if context is not None and len(ids) + request.max_tokens > context:
            return Failure(
                reason=f"{len(ids)} tokens of prompt and {request.max_tokens} of reply are more "
                f"than the {context} that the model takes"
            )
        with self._lock, torch.inference_mode():
            cache, self._cache = self._cache, _Cache()  # lost if anything goes wrong half-way
            reply = self._written(ids, request, cache)
            if isinstance(reply, Reply):
                self._cache = cache
        return reply

    def _written(self, ids: list[int], request: Request, cache: _Cache) -> Reply | Failure:
        draws = generator("local-reply", request.seed, digest(ids, 16))
        written = _Written()

        def pick(logits: Tensor) -> int | None:
            logprobs = torch.log_softmax(logits.to("cpu", torch.float64), -1).numpy()
            return self._pick(logprobs, request, draws, written)

        news = cache.reuse(ids)
        read, cache.values = write(self._causal.model, news, pick, request.max_tokens, cache.values)
        cache.ids += read
        if written.finish == "NaN":
            return Failure(reason="the model gives NaN for this conversation")
        return Reply(
            text=self._text(written.ids),
            prompt_tokens=len(ids),
            reply_tokens=len(written.ids) + (written.finish == "stop"),
            finish=written.finish,
            choices=tuple(written.choices),
        )

    def _pick(
        self, logprobs: Logprobs, request: Request, draws: np.random.Generator, written: _Written
    ) -> int | None:
        """The next token, written down; None at the end of the reply."""
        if not np.isfinite(logprobs.max()):
            written.finish = "NaN"
            return None
        token = _choose(logprobs, request.temperature, draws)
        if token in self._causal.ends:
            written.finish = "stop"
            return None
        written.ids.append(token)
        if request.top_logprobs > 0:
            written.choices.append(self._choice(logprobs, token, request.top_logprobs))
        if not has_template(self._causal) and PLAIN_STOP in self._all_text(written.ids):
            written.finish = "stop"
            return None
        return token

    def _choice(self, logprobs: Logprobs, chosen: int, count: int) -> TokenChoice:
        count = min(count, len(logprobs))
        best = np.argpartition(-logprobs, count - 1)[:count]
        best = best[np.lexsort((best, -logprobs[best]))]
        alternatives: dict[str, float] = {}
        for token in best:  # spellings may coincide; the likeliest wins
            alternatives.setdefault(self._spelt(int(token)), max(float(logprobs[token]), -9999.0))
        logprob = max(float(logprobs[chosen]), -9999.0)
        return TokenChoice(token=self._spelt(chosen), logprob=logprob, alternatives=alternatives)

    def _spelt(self, token: int) -> str:
        return self._causal.tokenizer.pieces([token])[0]

    def _all_text(self, ids: list[int]) -> str:
        return "".join(self._causal.tokenizer.pieces(ids))

    def _text(self, ids: list[int]) -> str:
        text = self._all_text(ids)
        if has_template(self._causal):
            return text
        return text.split(PLAIN_STOP)[0].removeprefix(" ")


def _choose(logprobs: Logprobs, temperature: float, draws: np.random.Generator) -> int:
    if temperature <= 0:
        return int(np.argmax(logprobs))
    scaled = logprobs / temperature
    sums = np.cumsum(np.exp(scaled - scaled.max()))
    place = draws.random() * sums[-1]
    return min(int(np.searchsorted(sums, place, side="right")), len(sums) - 1)


def _can_be_cut(values: Any) -> bool:
    """Whether every layer keeps all positions; layers with a window or a state do not."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(values, "layers", None)
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
