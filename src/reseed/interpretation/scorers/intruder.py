"""Intruder detection: which of five texts does not belong? It needs no explanation.

After "Evaluating SAE interpretability without explanations" (the follow-up of arXiv 2410.13928).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reseed.interpretation.controls import wrong_marks
from reseed.interpretation.prompts import TEXTS, turns
from reseed.interpretation.prompts.replies import numbers, read_numbers, schema_of
from reseed.interpretation.prompts.windows import (
    active_tokens,
    by_class,
    check_items,
    in_seeded_order,
    mark,
    missing_class,
    one_line,
)
from reseed.interpretation.records import (
    Asker,
    Example,
    Failure,
    Item,
    Latent,
    Reply,
    Request,
    Score,
    ask_about,
)
from reseed.interpretation.scorers.accuracy import rate
from reseed.seeds import generator
from reseed.spec.interpretation import SHOWN, IntruderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    of: Latent
    texts: Sequence[str]
    intruder: int
    quantile: int | None
    """None where quantiles with too few windows were put together"""


def score(
    asker: Asker,
    items: Sequence[Item],
    settings: IntruderSpec = IntruderSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """Show four windows of one quantile in which a latent fires and one in which it is silent.

    Args:
        asker: the model that judges.
        items: latents with examples, not of the split `explain`; explanations are not looked at.
        settings: what is asked.

    Returns:
        one result for each item, in order: `value` is the share of intruders found, chance 0.2,
        `positives` the questions answered, `about["by_quantile"]` right answers and answers of each
        quantile. Questions of one quantile share windows; the interval treats them as a cluster, so
        those of a single quantile count as one answer.
    """
    check_items(items)
    return ask_about(
        asker,
        [_questions(item, settings) for item in items],
        lambda questions: [_request(question, settings) for question in questions],
        _score,
    )


def _questions(item: Item, settings: IntruderSpec) -> list[_Question] | Failure:
    problem = missing_class(item)
    if problem is not None:
        return problem
    firing, silent = by_class(item.examples)
    groups = quantile_groups(firing)
    if not groups:
        return Failure(
            reason=f"{len(firing)} windows in which the latent fires; {SHOWN - 1} are needed"
        )
    places = {example: active_tokens(example, settings.threshold) for example in firing}
    patterns = [places[example] for example in firing]
    hosts = in_seeded_order("intruders", item.of, silent)[: settings.questions]
    wrong = wrong_marks(item, hosts, patterns, "copied") if settings.marked else [[]] * len(hosts)
    draw = generator("intruder-questions", item.of.run, item.of.latent)
    quantiles = list(groups)
    out: list[_Question] = []
    for number, (host, marks) in enumerate(zip(hosts, wrong, strict=True)):
        quantile = quantiles[number % len(quantiles)]
        chosen = draw.choice(len(groups[quantile]), SHOWN - 1, replace=False)
        shown = [groups[quantile][int(i)] for i in chosen]
        texts = [_text(example, places[example], settings) for example in shown]
        place = int(draw.integers(SHOWN))
        texts.insert(place, _text(host, marks, settings))
        out.append(_Question(of=item.of, texts=texts, intruder=place, quantile=quantile))
    return out


def quantile_groups(firing: Sequence[Example]) -> Mapping[int | None, list[Example]]:
    """Windows by quantile, weakest first; those of quantiles with fewer than four under None.

    Without a quantile that has four and without four to put together there are none.
    """
    groups: dict[int | None, list[Example]] = {}
    for example in sorted(firing, key=lambda e: -1 if e.quantile is None else e.quantile):
        groups.setdefault(example.quantile, []).append(example)
    large = {q for q, some in groups.items() if len(some) >= SHOWN - 1 and q is not None}
    loose = [example for q, some in groups.items() if q not in large for example in some]
    out: dict[int | None, list[Example]] = {q: groups[q] for q in groups if q in large}
    return {**out, None: loose} if len(loose) >= SHOWN - 1 else out


def _text(example: Example, places: Sequence[int], settings: IntruderSpec) -> str:
    return mark(example.tokens, places) if settings.marked else one_line(example.text)


def _request(question: _Question, settings: IntruderSpec) -> Request:
    marked = TEXTS.marked if settings.marked else ""
    system = TEXTS.intruder.format(marked=marked) + ' Reply with JSON, e.g. {"intruder": 3}'
    shots = [
        (_listed([_shown(text, settings) for text in texts]), json.dumps({"intruder": place}))
        for texts, place in TEXTS.intruder_shots[: settings.shots]
    ]
    return Request(
        messages=turns(system, shots, _listed(question.texts)),
        max_tokens=settings.max_tokens,
        schema=schema_of(numbers("intruder", None, 0, SHOWN - 1)),
        purpose="intruder",
    )


def _shown(text: str, settings: IntruderSpec) -> str:
    return text if settings.marked else text.replace("<<", "").replace(">>", "")


def _listed(texts: Sequence[str]) -> str:
    return "Texts:\n" + "\n".join(f"{number}: {text}" for number, text in enumerate(texts))


def _score(questions: Sequence[_Question], replies: Sequence[Reply | Failure]) -> Score | Failure:
    failures: list[Failure] = []
    right: list[tuple[_Question, bool]] = []
    for question, reply in zip(questions, replies, strict=True):
        answer = read_numbers(reply, "intruder", None, 0, SHOWN - 1)
        if isinstance(answer, Failure):
            failures.append(answer)
        else:
            right.append((question, answer[0] == question.intruder))
    if not right:
        return Failure(
            reason=f"none of {len(questions)} questions was answered; the first: "
            f"{failures[0].reason}",
            text=failures[0].text,
        )
    groups = [-1 if question.quantile is None else question.quantile for question, _ in right]
    share = rate([hit for _, hit in right], groups)
    tally: dict[str, list[int]] = {}
    for question, hit in right:
        name = "mixed" if question.quantile is None else str(question.quantile)
        entry = tally.setdefault(name, [0, 0])
        entry[0] += hit
        entry[1] += 1
    return Score(
        of=questions[0].of,
        scorer="intruder",
        value=share.value,
        chance=1 / SHOWN,
        interval=share.interval,
        positives=len(right),
        failed=len(failures),
        failures=tuple(failures),
        about={"by_quantile": tally},
    )
