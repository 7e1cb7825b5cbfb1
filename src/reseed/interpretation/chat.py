"""A conversation as token ids of a local model.

What people and corpora wrote is encoded as ordinary text: the spelling of a special token inside a
message (`<|im_end|>`) cannot end the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reseed.errors import SubjectError
from reseed.interpretation.records import Message
from reseed.subjects.causal import CausalModel
from reseed.subjects.quiet import quiet_transformers

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
