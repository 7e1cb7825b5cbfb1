"""Detection and fuzzing: does a text, or what is marked in it, fit? (arXiv 2410.13928).

Both show the explanation and texts in small batches, and want an answer for each text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from reseed.interpretation.controls import wrong_marks
from reseed.interpretation.prompts import TEXTS, Task, turns
from reseed.interpretation.prompts.replies import number_weights, numbers, read_numbers, schema_of
from reseed.interpretation.prompts.windows import (
    active_tokens,
    by_class,
    check_items,
    fires,
    in_seeded_order,
    mark,
    missing_class,
    one_line,
    unexplained,
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
from reseed.interpretation.scorers.accuracy import auroc_with_interval, balanced, rate
from reseed.spec.interpretation import ClassifySpec, DetectionSpec, FuzzingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One text and the truth about it."""

    text: str
    fires: bool
    example: Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said about a case."""

    case: Case
    yes: bool
    grade: float | None
    """probability of 1 against 0; None if the reply came without"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was said about one item, and what that is worth."""

    score: Score | Failure
    answers: Sequence[Answer] = ()
    """the usable ones"""


class _Wording(NamedTuple):
    """What is asked about the texts, and what it is called."""

    scorer: str
    system: str
    shots: Sequence[Task]


class _Questionnaire(NamedTuple):
    """All cases of one item, in the batches in which they are asked."""

    item: Item
    batches: Sequence[Sequence[Case]]
    about: Mapping[str, Any]


_DETECTION = _Wording("detection", TEXTS.detect, TEXTS.detect_shots)
_FUZZING = {
    "silent": _Wording("fuzzing", TEXTS.fuzz, TEXTS.fuzz_shots),
    "within": _Wording("fuzzing_within", TEXTS.fuzz, TEXTS.fuzz_shots),
}
"""By `FuzzingSpec.negatives`."""


def detect(
    asker: Asker,
    items: Sequence[Item],
    settings: DetectionSpec = DetectionSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """Show the explanation and texts without marks, and ask in which of them the latent fires.

    Args:
        asker: the model that judges.
        items: latents with explanation and with examples of both kinds, not of the split `explain`.
        settings: how it is asked.

    Returns:
        one result for each item, in order; `value` is the balanced accuracy.
    """
    return [result.score for result in judged(asker, items, settings)]


def judged(asker: Asker, items: Sequence[Item], settings: DetectionSpec) -> list[Judged]:
    """`detect`, with what was answered about each text."""
    check_items(items)
    prepared: list[_Questionnaire | Failure] = []
    for item in items:
        cases = [
            Case(text=one_line(example.text), fires=fires(example), example=example)
            for example in item.examples
        ]
        problem = unexplained(item) or missing_class(item)
        prepared.append(problem or _in_batches(item, cases, _DETECTION, settings, {}))
    return _judge(asker, prepared, _DETECTION, settings)


def fuzz(
    asker: Asker,
    items: Sequence[Item],
    settings: FuzzingSpec = FuzzingSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """Show the explanation and texts with marked tokens, and ask in which the marks are right.

    Args:
        asker: the model that judges.
        items: latents with explanation and with examples, not of the split `explain`.
        settings: what is marked.

    Returns:
        one result for each item, in order; `value` is the balanced accuracy. `scorer` says where
        the wrong marks are; `about["skipped"]` counts windows without a token that could be marked
        wrongly.
    """
    check_items(items)
    task = _FUZZING[settings.negatives]
    prepared = [_marked(item, task, settings) for item in items]
    return [result.score for result in _judge(asker, prepared, task, settings)]


def _marked(item: Item, task: _Wording, settings: FuzzingSpec) -> _Questionnaire | Failure:
    firing, silent = by_class(item.examples)
    if settings.negatives == "within":
        problem = None if firing else Failure(reason="no example in which the latent fires")
    else:
        problem = missing_class(item)
    if failure := unexplained(item) or problem:
        return failure
    places = [active_tokens(example, settings.threshold) for example in firing]
    hosts = silent if settings.negatives == "silent" else firing
    wrong = wrong_marks(item, hosts, places, settings.marks)
    skipped = sum(not marks for marks in wrong)
    if skipped == len(wrong):
        return Failure(reason="the latent fires at every token; none can be marked wrongly")
    marked = [(example, own, True) for example, own in zip(firing, places, strict=True)]
    marked += [(host, marks, False) for host, marks in zip(hosts, wrong, strict=True) if marks]
    cases = [
        Case(text=mark(example.tokens, marks), fires=right, example=example)
        for example, marks, right in marked
    ]
    about = {"marks": settings.marks, "skipped": skipped}
    return _in_batches(item, cases, task, settings, about)


def _in_batches(
    item: Item,
    cases: Sequence[Case],
    task: _Wording,
    settings: ClassifySpec,
    about: Mapping[str, Any],
) -> _Questionnaire:
    """Cases in a seeded order, cut into batches; the last may be shorter."""
    ordered = in_seeded_order(f"{task.scorer}-order", item.of, cases)
    starts = range(0, len(ordered), settings.batch)
    return _Questionnaire(item, [ordered[n : n + settings.batch] for n in starts], about)


def _judge(
    asker: Asker,
    prepared: Sequence[_Questionnaire | Failure],
    task: _Wording,
    settings: ClassifySpec,
) -> list[Judged]:
    """Ask about all cases of all items at once; a class without a usable answer is a failure."""
    results = ask_about(
        asker,
        prepared,
        lambda some: [_request(some.item, batch, task, settings) for batch in some.batches],
        lambda some, replies: _judged(some, replies, task),
    )
    return [r if isinstance(r, Judged) else Judged(score=r) for r in results]


def _request(item: Item, batch: Sequence[Case], task: _Wording, settings: ClassifySpec) -> Request:
    assert item.explanation is not None
    form = json.dumps({"answers": [0, 1, 0, 0, 1][: settings.batch]})
    system = f"{task.system} Reply with JSON, one answer for each text in order, e.g. {form}"
    question = _question(item.explanation.text, [case.text for case in batch])
    return Request(
        messages=turns(system, _shots(task.shots, settings), question),
        max_tokens=settings.max_tokens + 3 * len(batch) + 10,
        top_logprobs=5 if settings.logprobs else 0,
        schema=schema_of(numbers("answers", len(batch), 0, 1)),
        purpose=task.scorer,
    )


def _question(description: str, texts: Sequence[str]) -> str:
    lines = [f"{number}: {text}" for number, text in enumerate(texts)]
    return f"Description: {one_line(description)}\n\nTexts:\n" + "\n".join(lines)


def _shots(shots: Sequence[Task], settings: ClassifySpec) -> list[tuple[str, str]]:
    """Worked examples with as many texts as a question has, at most five."""
    size = min(settings.batch, 5)
    # below five a second cut of the same texts, so that both answers are seen
    starts = (0,) if size == 5 else (0, 5 - size)
    out: list[tuple[str, str]] = []
    for description, texts in shots[: settings.shots]:
        for start in starts:
            cut = texts[start : start + size]
            answers = json.dumps({"answers": [answer for _, answer in cut]})
            out.append((_question(description, [text for text, _ in cut]), answers))
    return out


def _judged(prepared: _Questionnaire, replies: Sequence[Reply | Failure], task: _Wording) -> Judged:
    read = [_read(reply, batch) for batch, reply in zip(prepared.batches, replies, strict=True)]
    failures = tuple(part for part in read if isinstance(part, Failure))
    answers = [answer for part in read if not isinstance(part, Failure) for answer in part]
    failed = sum(map(len, prepared.batches)) - len(answers)
    score = score_answers(prepared.item.of, task.scorer, answers)
    if isinstance(score, Failure):
        first = f"; the first: {failures[0].reason}" if failures else ""
        reason = f"{score.reason}; {failed} questions failed{first}"
        score = Failure(reason=reason, text=failures[0].text if failures else None)
    else:
        about = {**prepared.about, **score.about}
        score = replace(score, failed=failed, failures=failures, about=about)
    return Judged(score=score, answers=answers)


def _read(reply: Reply | Failure, batch: Sequence[Case]) -> list[Answer] | Failure:
    """An answer for each case, or a failure for all of them."""
    if isinstance(reply, Failure):
        return reply
    read = read_numbers(reply, "answers", len(batch), 0, 1)
    if isinstance(read, Failure):
        return read
    weights = number_weights(reply, len(batch), ("0", "1"))
    return [
        Answer(case=case, yes=bool(number), grade=weights[i]["1"] if weights else None)
        for i, (case, number) in enumerate(zip(batch, read, strict=True))
    ]


def score_answers(of: Latent, scorer: str, answers: Sequence[Answer]) -> Score | Failure:
    """Balanced accuracy of the answers and AUROC of the grades, with intervals.

    Where a single answer came without probabilities, the AUROC is that of all answers as 0 and 1,
    the balanced accuracy: grades and answers are never mixed. `about["graded"]` says which.
    """
    sides = [[answer for answer in answers if answer.case.fires is side] for side in (True, False)]
    yes, no = sides
    if not yes or not no:
        return Failure(
            reason=f"{len(yes)} usable answers where the latent fires, {len(no)} where it does not"
        )
    documents = [[answer.case.example.document for answer in side] for side in sides]
    right = rate([answer.yes for answer in yes], documents[0])
    quiet = rate([not answer.yes for answer in no], documents[1])
    value, interval = balanced(right, quiet)
    grades = [np.array([answer.grade for answer in side], np.float64) for side in sides]
    graded = not any(np.isnan(side).any() for side in grades)
    area, ends = (value, interval)
    if graded:
        area, ends = auroc_with_interval(grades[0], grades[1], documents[0], documents[1])
    return Score(
        of=of,
        scorer=scorer,
        value=value,
        chance=0.5,
        interval=interval,
        balanced_accuracy=value,
        auroc=area,
        auroc_interval=ends,
        positives=len(yes),
        negatives=len(no),
        about={"graded": graded, "sensitivity": right.value, "specificity": quiet.value},
    )
