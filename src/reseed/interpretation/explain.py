"""From windows with marked tokens to a phrase that says what they share (arXiv 2410.13928)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from reseed.interpretation.examples import Examples, latents_in, random_items
from reseed.interpretation.prompts import prompts
from reseed.interpretation.prompts.marking import (
    active_tokens,
    check_for_explaining,
    fires,
    listing,
    mark,
    marked,
    one_line,
    spread,
)
from reseed.interpretation.prompts.replies import read_explanation
from reseed.interpretation.records import (
    Asker,
    Example,
    Explanation,
    Failure,
    Item,
    Latent,
    Message,
    Reply,
    Request,
)
from reseed.interpretation.refine.detection import Detector
from reseed.interpretation.refine.gain import gain
from reseed.interpretation.refine.records import Refined
from reseed.interpretation.refine.stage import refine_all
from reseed.interpretation.results import explanation_rows
from reseed.interpretation.sample import SamplePlan, partners
from reseed.seeds import digest
from reseed.spec.interpretation import ExplainSpec, InterpretationSpec, RefineSpec
from reseed.store import Store

_REPEATED = 60
"""Marked stretches that are repeated after the texts, at the most."""

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


RANDOM, PARTNER = "random", "partner"
"""Kinds of explained latents that are not in the sample: see `explain_sample`."""


def explain_sample(
    store: Store,
    latents: pl.DataFrame,
    plan: SamplePlan,
    spec: InterpretationSpec,
    asker: Asker,
    likely: Callable[[Sequence[Latent]], Mapping[Latent, Sequence[str]]] | None = None,
) -> tuple[pl.DataFrame, str | None]:
    """Explain a sample of latents, a second member of each family in it, and random latents.

    Args:
        store: of the study.
        latents: of the group, see docs/latent_table.md.
        plan: the sample.
        spec: how.
        asker: explains.
        likely: from latents to the tokens that each makes likely; None to show none.

    Returns:
        Columns of `reseed.interpretation.results.EXPLANATIONS`; what refining gained, if asked for.

    Raises:
        SpecError: if there are no examples of text.
        StoreError: if the evidence is missing or damaged.
    """
    mates = partners(plan, latents, spec.seed)
    of = [*latents_in(plan.latents), *latents_in(mates)]
    kinds = [*plan.latents["kind"], *[PARTNER] * len(mates)]
    examples = Examples(store, of)
    items = [examples.to_explain(latent, spec) for latent in of]
    if RANDOM in spec.controls:
        made = random_items(items[: len(plan.latents)], "explain", spec)
        items, kinds = [*items, *made], [*kinds, *[RANDOM] * len(made)]
    shown = None if likely is None else likely(of)
    found = explain(asker, items, spec.explain, top_logits=shown)
    gained = None
    if spec.refine is not None:
        found, gained = _refined(examples, found, asker, spec, spec.refine)
    return explanation_rows([item.of for item in items], kinds, found), gained


def _refined(
    examples: Examples,
    found: Sequence[Explanation | Failure],
    asker: Asker,
    spec: InterpretationSpec,
    asked: RefineSpec,
) -> tuple[list[Explanation | Failure], str]:
    """The best explanations that the search found, judged on examples that it did not see."""
    places = [n for n, one in enumerate(found) if isinstance(one, Explanation)]
    places = [n for n in places if found[n].of in examples]  # pyright: ignore[reportAttributeAccessIssue]
    starts: list[tuple[Item, Sequence[Example]]] = []
    for place in places:
        explanation = found[place]
        assert isinstance(explanation, Explanation)
        item = examples.to_score(explanation.of, "score", spec)
        judge = examples.to_score(explanation.of, "judge", spec).examples
        starts.append((replace(item, explanation=explanation), judge))
    detector = Detector(asker, spec.detection)
    results = refine_all(
        starts,
        asker=asker,
        scorer=detector.score,
        mistakes=detector.mistakes,
        spec=asked,
        calls_to_score=-(-2 * spec.examples // spec.detection.batch),
    )
    out = list(found)
    for place, one in zip(places, results, strict=True):
        if isinstance(one, Refined):
            out[place] = one.best.explanation
    return out, gain(results).says
