"""From windows with marked tokens to a phrase that says what they share (arXiv 2410.13928)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from reseed.interpretation import prompts
from reseed.interpretation.example_sets import check_for_explaining, fires, spread
from reseed.interpretation.marking import active_tokens, listing, mark, marked, one_line
from reseed.interpretation.records import (
    Asker,
    Explanation,
    Failure,
    Item,
    Latent,
    Message,
    Reply,
    Request,
)
from reseed.interpretation.replies import read_explanation
from reseed.records import Spec
from reseed.seeds import digest

_REPEATED = 60
"""Marked stretches that are repeated after the texts, at the most."""


class ExplainSpec(Spec):
    """What an explainer is shown and how it is asked. The defaults are those of Delphi."""

    examples: Annotated[int, Field(ge=1)] = 40
    """Windows shown, as evenly over the quantiles of activation as there are."""
    listed: bool = True
    """Whether marked tokens are listed with their strength from 1 to 10."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Tokens above this share of the largest activation of their window are marked."""
    ask_last: bool = False
    """Whether what is marked is repeated after the texts, with the question behind. Models of about
    a billion parameters then say what they see; else they copy the worked examples."""
    shots: Annotated[int, Field(ge=0, le=len(prompts.EXPLAIN_SHOTS))] = 3
    """Worked examples before the question."""
    reasoning: bool = False
    """Whether the model reasons before it answers."""
    top_logits: Annotated[int, Field(ge=0)] = 10
    """Tokens made likely that are shown, if they are given."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Annotated[int, Field(ge=1)] = 256
    seed: int = 0
    """Tells repeated questions at a temperature above 0 apart."""


SMALL = ExplainSpec(examples=10, listed=False, ask_last=True, top_logits=0, max_tokens=48)
"""For models of about a billion parameters, which lose the thread in forty windows."""


def explain(
    asker: Asker,
    items: Sequence[Item],
    settings: ExplainSpec = ExplainSpec(),  # noqa: B008  (frozen)
    *,
    top_logits: Mapping[Latent, Sequence[str]] | None = None,
) -> list[Explanation | Failure]:
    """Explain latents, all in one batch of questions.

    Args:
        asker: the model.
        items: latents with examples of the split `explain`; those in which the latent does not fire
            are not shown.
        settings: what is shown.
        top_logits: of latents, the tokens that each makes likely, most likely first.

    Returns:
        one result for each item, in order. A reply that does not say what was asked for is a
        failure that keeps its text; nothing is put in its place.

    Raises:
        SpecError: if an item has examples of another split, or activations that cannot be right.
    """
    check_for_explaining(items)
    requests = [explain_request(item, settings, (top_logits or {}).get(item.of)) for item in items]
    asked = [one for one in requests if isinstance(one, Request)]
    replies = iter(asker.ask(asked) if asked else [])
    results: list[Explanation | Failure] = []
    for item, request in zip(items, requests, strict=True):
        answer = request if isinstance(request, Failure) else next(replies)
        results.append(_explanation(item, answer, asker.name, settings))
    return results


def explain_request(
    item: Item, settings: ExplainSpec, top_logits: Sequence[str] | None = None
) -> Request | Failure:
    """The question about one latent; a failure if it fires in none of the examples."""
    firing = [example for example in item.examples if fires(example)]
    shown = spread(firing, settings.examples, item.of, "explain-examples")
    if not shown:
        return Failure(reason="no example in which the latent fires; there is nothing to explain")
    largest = max(example.strength for example in shown)
    windows = [
        _window(
            example.tokens,
            places := active_tokens(example, settings.threshold),
            listing(example, places, largest) if settings.listed else None,
        )
        for example in shown
    ]
    likely = None
    if settings.top_logits and top_logits:
        likely = ", ".join(f'"{one_line(token)}"' for token in top_logits[: settings.top_logits])
    question = _question(windows, likely, settings.ask_last)
    return Request(
        messages=_conversation(question, settings, likely is not None),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        schema=_schema(settings.reasoning),
        purpose="explain",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    text: str
    marked: Sequence[str]
    listed: str | None


def _window(tokens: Sequence[str], places: Collection[int], listed: str | None) -> _Window:
    return _Window(text=mark(tokens, places), marked=marked(tokens, places), listed=listed)


def _question(windows: Sequence[_Window], likely: str | None, ask_last: bool) -> str:
    lines: list[str] = []
    for number, window in enumerate(windows, 1):
        lines.append(f"Text {number}: {window.text}")
        if window.listed is not None:
            lines.append(f"Strengths: {window.listed}")
    if likely is not None:
        lines.append(f"Made likely: {likely}")
    if ask_last:
        every = [f'"{one}"' for window in windows for one in window.marked]
        lines += ["", f"Marked: {', '.join(every[:_REPEATED])}", "", prompts.COMMON]
    return "\n".join(lines)


def _conversation(question: str, settings: ExplainSpec, logits: bool) -> tuple[Message, ...]:
    system = prompts.EXPLAIN.format(listed=prompts.LISTED if settings.listed else "")
    system += (prompts.LOGITS if logits else "") + (prompts.THINK if settings.reasoning else "")
    form = '{"reasoning": "...", "explanation": "..."}'
    system += " Reply with JSON: " + (form if settings.reasoning else '{"explanation": "..."}')
    shots = [_shot(shot, settings, logits) for shot in prompts.EXPLAIN_SHOTS[: settings.shots]]
    return prompts.turns(system, shots, question)


def _shot(shot: prompts.Shot, settings: ExplainSpec, logits: bool) -> tuple[str, str]:
    phrase, windows, likely, reasoning = shot
    shown: list[_Window] = []
    for tokens, strengths in windows:
        listed = ", ".join(f'("{tokens[i]}", {n})' for i, n in strengths.items())
        shown.append(_window(tokens, strengths, listed if settings.listed else None))
    answer = {"reasoning": reasoning} if settings.reasoning else {}
    return (
        _question(shown, likely if logits else None, settings.ask_last),
        json.dumps({**answer, "explanation": phrase}, ensure_ascii=False),
    )


def _schema(reasoning: bool) -> dict[str, Any]:
    keys = ["reasoning", "explanation"] if reasoning else ["explanation"]
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }


def _explanation(
    item: Item, answer: Reply | Failure, model: str, settings: ExplainSpec
) -> Explanation | Failure:
    if isinstance(answer, Failure):
        return answer
    read = read_explanation(answer.text)
    if isinstance(read, Failure):
        why = "; the reply was cut off" if answer.finish == "length" else ""
        return Failure(reason=read.reason + why, text=read.text)
    text, reasoning = read
    if answer.finish == "length" and not answer.text.rstrip().endswith(("}", "```")):
        return Failure(reason="the explanation was cut off", text=answer.text)
    return Explanation(
        of=item.of, text=text, model=model, reasoning=reasoning, settings=settings_digest(settings)
    )


def settings_digest(settings: ExplainSpec) -> str:
    """Digest of the settings and of the fixed parts of the prompt."""
    fixed = _conversation("", settings, logits=True)
    return digest([settings.model_dump(mode="json"), [m.content for m in fixed]], 16)
