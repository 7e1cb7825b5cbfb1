"""Intruder detection: which of five texts does not belong? It needs no explanation.

After "Evaluating SAE interpretability without explanations" (the follow-up of arXiv 2410.13928).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reseed.interpretation.prompts import prompts
from reseed.interpretation.prompts.marking import (
    active_tokens,
    by_class,
    check_items,
    in_seeded_order,
    mark,
    missing_class,
    one_line,
)
from reseed.interpretation.prompts.replies import read_number
from reseed.interpretation.records import (
    Asker,
    Example,
    Failure,
    Item,
    Latent,
    Reply,
    Request,
    Score,
)
from reseed.interpretation.scorers import accuracy
from reseed.interpretation.scorers.fuzzing import wrong_marks
from reseed.seeds import generator
from reseed.spec.interpretation import SHOWN, IntruderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
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
        quantile. Questions of one quantile share windows; the interval treats them as a cluster.

    Raises:
        SpecError: if examples are of the split `explain`, of two splits, or contradict themselves.
    """
    check_items(items)
    asked = [_questions(item, settings) for item in items]
    flat = [one for many in asked if not isinstance(many, Failure) for one in many]
    requests = [_request(one, settings) for one in flat]
    replies = iter(asker.ask(requests) if requests else [])
    results: list[Score | Failure] = []
    for item, questions in zip(items, asked, strict=True):
        if isinstance(questions, Failure):
            results.append(questions)
        else:
            answers = [(one, _read(next(replies))) for one in questions]
            results.append(_score(item.of, answers))
    return results


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
    patterns = [active_tokens(example, settings.threshold) for example in firing]
    hosts = in_seeded_order("intruders", item.of, silent)[: settings.questions]
    wrong = wrong_marks(item, hosts, patterns, "copied") if settings.marked else [[]] * len(hosts)
    draw = generator("intruder-questions", item.of.run, item.of.latent)
    quantiles = list(groups)
    out: list[_Question] = []
    for number, (host, marks) in enumerate(zip(hosts, wrong, strict=True)):
        quantile = quantiles[number % len(quantiles)]
        chosen = draw.choice(len(groups[quantile]), SHOWN - 1, replace=False)
        texts = [_text(groups[quantile][int(i)], settings) for i in chosen]
        place = int(draw.integers(SHOWN))
        texts.insert(place, mark(host.tokens, marks) if settings.marked else one_line(host.text))
        out.append(_Question(texts=texts, intruder=place, quantile=quantile))
    return out


def quantile_groups(firing: Sequence[Example]) -> Mapping[int | None, list[Example]]:
    """Windows by quantile, weakest first; those of quantiles with fewer than four under None.

    Without a quantile that has four and without four to put together there are none.
    """
    groups: dict[int | None, list[Example]] = {}
    for example in sorted(firing, key=lambda e: -1 if e.quantile is None else e.quantile):
        groups.setdefault(example.quantile, []).append(example)
    loose = [e for q, some in groups.items() if len(some) < SHOWN - 1 or q is None for e in some]
    out: dict[int | None, list[Example]] = {
        q: some for q, some in groups.items() if len(some) >= SHOWN - 1 and q is not None
    }
    return {**out, None: loose} if len(loose) >= SHOWN - 1 else out


def _text(example: Example, settings: IntruderSpec) -> str:
    if not settings.marked:
        return one_line(example.text)
    return mark(example.tokens, active_tokens(example, settings.threshold))


def _request(question: _Question, settings: IntruderSpec) -> Request:
    marked = prompts.MARKED if settings.marked else ""
    system = prompts.INTRUDER.format(marked=marked) + ' Reply with JSON, e.g. {"intruder": 3}'
    shots = [
        (_listed([_shown(text, settings) for text in texts]), json.dumps({"intruder": place}))
        for texts, place in prompts.INTRUDER_SHOTS[: settings.shots]
    ]
    answer = {"type": "integer", "minimum": 0, "maximum": SHOWN - 1}
    return Request(
        messages=prompts.turns(system, shots, _listed(question.texts)),
        max_tokens=settings.max_tokens,
        schema={
            "type": "object",
            "properties": {"intruder": answer},
            "required": ["intruder"],
            "additionalProperties": False,
        },
        purpose="intruder",
    )


def _shown(text: str, settings: IntruderSpec) -> str:
    return text if settings.marked else text.replace("<<", "").replace(">>", "")


def _listed(texts: Sequence[str]) -> str:
    return "Texts:\n" + "\n".join(f"{number}: {text}" for number, text in enumerate(texts))


def _read(reply: Reply | Failure) -> int | Failure:
    if isinstance(reply, Failure):
        return reply
    return read_number(reply.text, "intruder", 0, SHOWN - 1)


def _score(of: Latent, answers: Sequence[tuple[_Question, int | Failure]]) -> Score | Failure:
    failures = tuple(answer for _, answer in answers if isinstance(answer, Failure))
    read = [(one, answer) for one, answer in answers if not isinstance(answer, Failure)]
    if not read:
        first = failures[0]
        return Failure(
            reason=f"none of {len(answers)} questions was answered; the first: {first.reason}",
            text=first.text,
        )
    right = [answer == one.intruder for one, answer in read]
    groups = [-1 if one.quantile is None else one.quantile for one, _ in read]
    found = accuracy.rate(right, groups if len(set(groups)) > 1 else range(len(right)))
    tally: dict[str, list[int]] = {}
    for (one, _), hit in zip(read, right, strict=True):
        entry = tally.setdefault("mixed" if one.quantile is None else str(one.quantile), [0, 0])
        entry[0] += hit
        entry[1] += 1
    return Score(
        of=of,
        scorer="intruder",
        value=found.value,
        chance=1 / SHOWN,
        interval=found.interval,
        positives=len(read),
        failed=len(failures),
        failures=failures,
        about={"by_quantile": tally},
    )
