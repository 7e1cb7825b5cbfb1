"""Detection: does the latent fire in this text? (arXiv 2410.13928).

And the flow that it shares with fuzzing: texts in small batches, an answer for each text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reseed.interpretation.prompts import TEXTS, Task, turns
from reseed.interpretation.prompts.replies import number_weights, numbers, read_numbers, schema_of
from reseed.interpretation.prompts.windows import (
    check_items,
    fires,
    in_seeded_order,
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
from reseed.spec.interpretation import ClassifySpec, DetectionSpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What is asked about the texts, and what it is called."""

    scorer: str
    system: str
    shots: Sequence[Task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Questionnaire:
    """All cases of one item, in the batches in which they are asked."""

    item: Item
    batches: Sequence[Sequence[Case]]
    about: dict[str, Any] = field(default_factory=dict[str, Any])


DETECTION = Wording(scorer="detection", system=TEXTS.detect, shots=TEXTS.detect_shots)


def score(
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
    """`score`, with what was answered about each text."""
    check_items(items)
    return judge(asker, [_batches(item, settings) for item in items], DETECTION, settings)


def _batches(item: Item, settings: DetectionSpec) -> Questionnaire | Failure:
    problem = unexplained(item) or missing_class(item)
    if problem is not None:
        return problem
    cases = [
        Case(text=one_line(example.text), fires=fires(example), example=example)
        for example in item.examples
    ]
    return in_batches(item, cases, DETECTION, settings)


# -- the flow --------------------------------------------------------------------------------------


def in_batches(
    item: Item, cases: Sequence[Case], task: Wording, settings: ClassifySpec
) -> Questionnaire:
    """Cases in a seeded order, cut into batches; the last may be shorter."""
    ordered = in_seeded_order(f"{task.scorer}-order", item.of, cases)
    starts = range(0, len(ordered), settings.batch)
    return Questionnaire(
        item=item, batches=[ordered[start : start + settings.batch] for start in starts]
    )


def judge(
    asker: Asker, prepared: Sequence[Questionnaire | Failure], task: Wording, settings: ClassifySpec
) -> list[Judged]:
    """Ask about all cases of all items at once, and score each item.

    Returns:
        one result for each item. Its score is a failure if a class got no usable answer.
    """
    results = ask_about(
        asker,
        prepared,
        lambda some: [_request(some.item, batch, task, settings) for batch in some.batches],
        lambda some, replies: _judged(some, replies, task),
    )
    return [r if isinstance(r, Judged) else Judged(score=r) for r in results]


def _request(item: Item, batch: Sequence[Case], task: Wording, settings: ClassifySpec) -> Request:
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


def _judged(prepared: Questionnaire, replies: Sequence[Reply | Failure], task: Wording) -> Judged:
    answers: list[Answer] = []
    failures: list[Failure] = []
    for batch, reply in zip(prepared.batches, replies, strict=True):
        read = _read(reply, batch)
        if isinstance(read, Failure):
            failures.append(read)
        else:
            answers += read
    failed = sum(map(len, prepared.batches)) - len(answers)
    score = score_answers(prepared.item.of, task.scorer, answers)
    if isinstance(score, Failure):
        first = f"; the first: {failures[0].reason}" if failures else ""
        reason = f"{score.reason}; {failed} questions failed{first}"
        score = Failure(reason=reason, text=failures[0].text if failures else None)
    else:
        about = {**prepared.about, **score.about}
        score = replace(score, failed=failed, failures=tuple(failures), about=about)
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
    which is the balanced accuracy: grades and answers are never mixed. `about["graded"]` says
    which.
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
    area, ends = value, interval
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
