"""From windows with marked tokens to a phrase that says what they share (arXiv 2410.13928)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reseed.errors import SpecError
from reseed.interpretation.prompts import TEXTS, Shot, turns
from reseed.interpretation.prompts.replies import Explained, Reasoned, read_explanation, schema_of
from reseed.interpretation.prompts.windows import (
    active_tokens,
    check_for_explaining,
    fires,
    listing,
    mark,
    marked,
    one_line,
    spread,
)
from reseed.interpretation.records import (
    Asker,
    Explanation,
    Failure,
    Item,
    Latent,
    Message,
    Reply,
    Request,
    ask_about,
)
from reseed.records import Floats
from reseed.seeds import digest
from reseed.spec.interpretation import ExplainSpec

if TYPE_CHECKING:
    from reseed.subjects.language.model import CausalModel

_REPEATED = 60
"""Marked stretches that are repeated after the texts, at the most."""

SMALL = ExplainSpec(examples=10, listed=False, ask_last=True, top_logits=0, max_tokens=48)
"""For models of about a billion parameters, which lose the thread in forty windows."""


def explain_items(
    asker: Asker,
    items: Sequence[Item],
    settings: ExplainSpec = ExplainSpec(),  # noqa: B008  (frozen)
    *,
    top_logits: Mapping[Latent, Sequence[str]] | None = None,
) -> list[Explanation | Failure]:
    """Explain latents, all in one batch of questions.

    Args:
        asker: the model that explains.
        items: latents with examples of the split `explain`; those in which the latent does not fire
            are not shown.
        settings: what is shown.
        top_logits: of latents, the tokens that each makes likely, most likely first.

    Returns:
        one result for each item, in order. A reply that does not say what was asked for is a
        failure that keeps its text; nothing is put in its place.
    """
    check_for_explaining(items)
    likely = top_logits or {}
    requests = [explain_request(item, settings, likely.get(item.of)) for item in items]
    pairs = [
        request if isinstance(request, Failure) else (item, request)
        for item, request in zip(items, requests, strict=True)
    ]
    return ask_about(
        asker,
        pairs,
        lambda pair: [pair[1]],
        lambda pair, replies: _explanation(pair[0], replies[0], asker.name, settings),
    )


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
        schema=schema_of(Reasoned if settings.reasoning else Explained),
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
        stretches = [f'"{text}"' for window in windows for text in window.marked]
        lines += ["", f"Marked: {', '.join(stretches[:_REPEATED])}", "", TEXTS.common]
    return "\n".join(lines)


def _conversation(question: str, settings: ExplainSpec, logits: bool) -> tuple[Message, ...]:
    system = TEXTS.explain.format(listed=TEXTS.listed if settings.listed else "")
    system += (TEXTS.logits if logits else "") + (TEXTS.think if settings.reasoning else "")
    form = '{"reasoning": "...", "explanation": "..."}'
    system += " Reply with JSON: " + (form if settings.reasoning else '{"explanation": "..."}')
    shots = [_shot(shot, settings, logits) for shot in TEXTS.explain_shots[: settings.shots]]
    return turns(system, shots, question)


def _shot(shot: Shot, settings: ExplainSpec, logits: bool) -> tuple[str, str]:
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


_LIKELY = 20
"""Tokens kept of each latent; the explainer is shown as many as its settings say."""


def top_logits(
    subject: CausalModel, rows: Mapping[Latent, Floats], site: str
) -> dict[Latent, Sequence[str]]:
    """The tokens that each decoder row raises most, most first.

    Args:
        subject: with its head.
        rows: `[D]` of each latent.
        site: they write to, for messages.

    Raises:
        SpecError: if the site is not as wide as what the head reads.
    """
    import torch

    model: Any = subject.model
    head = model.get_output_embeddings().weight.detach().float()
    out: dict[Latent, Sequence[str]] = {}
    for latent, row in rows.items():
        if len(row) != head.shape[1]:
            raise SpecError(
                f"interpretation.top_logits: {site} has {len(row)} dimensions, but the head of "
                f"{subject.name} reads {head.shape[1]}; only sites that write to the residual "
                "stream make tokens likely in this way, so set it to false"
            )
        # constants are not taken out: only the order of the tokens counts
        best = torch.topk(head @ torch.from_numpy(row.copy()).float(), _LIKELY).indices
        out[latent] = subject.tokenizer.pieces(best.tolist())
    return out
