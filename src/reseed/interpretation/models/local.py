"""A chat model in this process, through transformers.

Everything is in float64 after the logits, so that equal logits give equal replies.

A conversation as token ids of a local model.

What people and corpora wrote is encoded as ordinary text: the spelling of a special token inside a
message (`<|im_end|>`) cannot end the message.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reseed.errors import SubjectError
from reseed.interpretation.records import Failure, Message, Reply, Request, TokenChoice
from reseed.seeds import digest, generator
from reseed.spec.llm import LocalSpec
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.model import CausalModel, load_causal
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
    one.

    Raises:
        SubjectError: if the template refuses the conversation, or loses a message of it.
    """
    if not has_template(causal):
        shown = [f"{_NAMES[m.role]}{m.content}" for m in messages]
        ids = causal.tokenizer.encode(["\n\n".join([*shown, "Assistant:"])])[0]
        return [*([] if causal.tokenizer.bos is None else [causal.tokenizer.bos]), *ids]
    text = _templated(causal, [m.role for m in messages])
    if text is None and any(m.role == "system" for m in messages):
        messages = _without_system(messages)
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
    found = [int(i) for i in _MARKED.findall(str(text))]
    return str(text) if found == list(range(len(roles))) else None


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The system message at the head of the first user message: some templates know none."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    if not rest or rest[0].role != "user":
        return [Message(role="user", content=system), *rest]
    return [Message(role="user", content=f"{system}\n\n{rest[0].content}"), *rest[1:]]


def _filled(causal: CausalModel, text: str, messages: Sequence[Message]) -> list[int]:
    ids: list[int] = []
    for index, part in enumerate(_MARKED.split(text)):
        if index % 2:
            ids += causal.tokenizer.encode([messages[int(part)].content])[0]
        elif part:
            ids += [int(i) for i in causal.wrapped.encode(part, add_special_tokens=False)]
    return ids


Logprobs = NDArray[np.float64]
"""[vocabulary], natural logarithm"""


@dataclass(slots=True)
class _Cache:
    """Keys and values of the last conversation; the next one may begin alike."""

    ids: list[int] = field(default_factory=list[int])
    values: Any = None


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

    Args:
        causal: the model.
        name: as written into results; the model's own if left out.
    """

    def __init__(self, causal: CausalModel, name: str | None = None) -> None:
        self._causal, self._name = causal, name or causal.name
        self._lock = threading.Lock()
        self._cache = _Cache()

    @classmethod
    def load(cls, spec: LocalSpec) -> LocalModel:
        """Load a model.

        Raises:
            SpecError: if a package is missing.
            SubjectError: if the model cannot be loaded.
        """
        return cls(load_causal(as_subject(spec), spec.device))

    @property
    def name(self) -> str:
        """The model, as written into results."""
        return self._name

    def reply(self, request: Request) -> Reply | Failure:
        """One answer; a failure if the conversation is too long for the model.

        Raises:
            SubjectError: if the chat template of the model refuses the conversation.
        """
        ids = chat_ids(self._causal, request.messages)
        context = self._causal.context
        if context is not None and len(ids) + request.max_tokens > context:
            return Failure(
                reason=f"{len(ids)} tokens of prompt and {request.max_tokens} of reply are more "
                f"than the {context} that the model takes"
            )
        with self._lock, torch.inference_mode():
            try:
                written = self._write(ids, request)
            except BaseException:
                self._cache = _Cache()  # its values may be half of one pass, half of another
                raise
        if written is None:
            return Failure(reason="the model gives NaN for this conversation")
        return Reply(
            text=self._text(written.ids),
            prompt_tokens=len(ids),
            reply_tokens=len(written.ids) + (written.finish == "stop"),
            finish=written.finish,
            choices=tuple(written.choices),
        )

    def _write(self, ids: list[int], request: Request) -> _Written | None:
        draws = generator("local-reply", request.seed, digest(ids, 16))
        written, news = _Written(), self._reuse(ids)
        for _ in range(request.max_tokens):
            logprobs = self._step(news)
            if not np.isfinite(logprobs.max()):
                return None
            chosen = _choose(logprobs, request.temperature, draws)
            if chosen in self._causal.ends:
                written.finish = "stop"
                break
            written.ids.append(chosen)
            if request.top_logprobs > 0:
                written.choices.append(self._choice(logprobs, chosen, request.top_logprobs))
            if not has_template(self._causal) and PLAIN_STOP in self._all_text(written.ids):
                written.finish = "stop"
                break
            news = [chosen]
        return written

    def _reuse(self, ids: list[int]) -> list[int]:
        """Cut the cache to what this conversation shares with it; give the ids that are new."""
        cache = self._cache
        both = zip(cache.ids, ids, strict=False)
        shared = next((i for i, (a, b) in enumerate(both) if a != b), min(len(cache.ids), len(ids)))
        shared = min(shared, len(ids) - 1)  # one is needed to predict from
        if cache.values is None or not _can_be_cut(cache.values) or shared < 1:
            self._cache = _Cache()
            return ids
        if shared < len(cache.ids):
            cache.values.crop(shared - len(cache.ids))  # negative: how many to take away
            del cache.ids[shared:]
        return ids[shared:]

    def _step(self, news: list[int]) -> Logprobs:
        model: Any = self._causal.model
        device = next(self._causal.model.parameters()).device
        out = model(
            input_ids=torch.tensor([news], device=device),
            past_key_values=self._cache.values,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache.values = out.past_key_values
        self._cache.ids += news
        return torch.log_softmax(out.logits[0, -1].to("cpu", torch.float64), -1).numpy()

    def _choice(self, logprobs: Logprobs, chosen: int, count: int) -> TokenChoice:
        count = min(count, len(logprobs))
        best = np.argpartition(-logprobs, count - 1)[:count]
        best = best[np.lexsort((best, -logprobs[best]))]
        alternatives: dict[str, float] = {}
        for one in best:  # spellings may coincide; the likeliest wins
            alternatives.setdefault(self._spelt(int(one)), max(float(logprobs[one]), -9999.0))
        logprob = max(float(logprobs[chosen]), -9999.0)
        return TokenChoice(token=self._spelt(chosen), logprob=logprob, alternatives=alternatives)

    def _spelt(self, one: int) -> str:
        return self._causal.tokenizer.pieces([one])[0]

    def _all_text(self, ids: list[int]) -> str:
        return "".join(self._causal.tokenizer.pieces(ids))

    def _text(self, ids: list[int]) -> str:
        text = self._all_text(ids)
        if has_template(self._causal):
            return text
        return text.split(PLAIN_STOP)[0].removeprefix(" ")


def as_subject(spec: LocalSpec) -> LanguageModelSpec:
    """How the loaders name the same model."""
    return LanguageModelSpec(model=spec.model, revision=spec.revision, dtype=spec.dtype)


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
