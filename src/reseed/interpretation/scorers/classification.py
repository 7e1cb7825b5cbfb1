"""The flow that detection and fuzzing share: texts in small batches, an answer for each text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reseed.interpretation.prompts import prompts
from reseed.interpretation.prompts.marking import in_seeded_order, one_line
from reseed.interpretation.prompts.replies import number_weights, numbers_schema, read_numbers
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
from reseed.spec.interpretation import ClassifySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One text and the truth about it."""

    text: str
    fires: bool
    example: Example

    @property
    def document(self) -> int:
        """That the text is from."""
        return self.example.document


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
    answers: Sequence[Answer]
    """the usable ones"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is asked about the texts, and what it is called."""

    scorer: str
    system: str
    shots: Sequence[prompts.Task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All cases of one item, in the batches in which they are asked."""

    item: Item
    batches: Sequence[Sequence[Case]]
    about: dict[str, Any]


def prepare(item: Item, cases: Sequence[Case], task: Task, settings: ClassifySpec) -> Asked:
    """Cases in a seeded order, cut into batches; the last may be shorter."""
    ordered = in_seeded_order(f"{task.scorer}-order", item.of, cases)
    starts = range(0, len(ordered), settings.batch)
    batches = [ordered[start : start + settings.batch] for start in starts]
    return Asked(item=item, batches=batches, about={})


def judge(
    asker: Asker, asked: Sequence[Asked | Failure], task: Task, settings: ClassifySpec
) -> list[Judged]:
    """Ask about all cases of all items at once, and score each item.

    Args:
        asker: the model.
        asked: the items with their cases; failures are passed on.
        task: what is asked.
        settings: how.

    Returns:
        one result for each of `asked`. Its score is a failure if a class got no usable answer.
    """
    requests = [
        _request(one.item, batch, task, settings)
        for one in asked
        if isinstance(one, Asked)
        for batch in one.batches
    ]
    replies = iter(asker.ask(requests) if requests else [])
    results: list[Judged] = []
    for one in asked:
        if isinstance(one, Failure):
            results.append(Judged(score=one, answers=()))
            continue
        read = [read_batch(next(replies), batch) for batch in one.batches]
        answers = [answer for part in read if not isinstance(part, Failure) for answer in part]
        failures = tuple(part for part in read if isinstance(part, Failure))
        score = _score(one, answers, failures, task.scorer)
        results.append(Judged(score=score, answers=answers))
    return results


def _request(item: Item, batch: Sequence[Case], task: Task, settings: ClassifySpec) -> Request:
    assert item.explanation is not None
    form = json.dumps({"answers": [0, 1, 0, 0, 1][: settings.batch]})
    system = f"{task.system} Reply with JSON, one answer for each text in order, e.g. {form}"
    question = _question(item.explanation.text, [case.text for case in batch])
    return Request(
        messages=prompts.turns(system, _shots(task.shots, settings), question),
        max_tokens=settings.max_tokens + 3 * len(batch) + 10,
        top_logprobs=5 if settings.logprobs else 0,
        schema=numbers_schema("answers", len(batch), 0, 1),
        purpose=task.scorer,
    )


def _question(description: str, texts: Sequence[str]) -> str:
    lines = [f"{number}: {text}" for number, text in enumerate(texts)]
    return f"Description: {one_line(description)}\n\nTexts:\n" + "\n".join(lines)


def _shots(shots: Sequence[prompts.Task], settings: ClassifySpec) -> list[tuple[str, str]]:
    """Worked examples with as many texts as a question has, at most five."""
    size = min(settings.batch, 5)
    out: list[tuple[str, str]] = []
    for description, texts in shots[: settings.shots]:
        # below five a second cut of the same texts, so that both answers are seen
        starts = (0,) if size == 5 else (0, 5 - size)
        for start in starts:
            cut = texts[start : start + size]
            answers = json.dumps({"answers": [answer for _, answer in cut]})
            out.append((_question(description, [text for text, _ in cut]), answers))
    return out


def read_batch(reply: Reply | Failure, batch: Sequence[Case]) -> list[Answer] | Failure:
    """An answer for each case, or a failure for all of them."""
    if isinstance(reply, Failure):
        return reply
    numbers = read_numbers(reply.text, "answers", len(batch), 0, 1)
    if isinstance(numbers, Failure):
        return numbers
    weights = number_weights(reply, len(batch), ("0", "1"))
    return [
        Answer(case=case, yes=bool(number), grade=weights[i]["1"] if weights else None)
        for i, (case, number) in enumerate(zip(batch, numbers, strict=True))
    ]


def _score(
    asked: Asked, answers: Sequence[Answer], failures: tuple[Failure, ...], scorer: str
) -> Score | Failure:
    failed = sum(map(len, asked.batches)) - len(answers)
    score = score_answers(asked.item.of, scorer, answers)
    if isinstance(score, Failure):
        first = f"; the first: {failures[0].reason}" if failures else ""
        reason = f"{score.reason}; {failed} questions failed{first}"
        return Failure(reason=reason, text=failures[0].text if failures else None)
    return replace(
        score, failed=failed, failures=failures, about={**asked.about, **dict(score.about)}
    )


def score_answers(of: Latent, scorer: str, answers: Sequence[Answer]) -> Score | Failure:
    """Balanced accuracy of the answers and AUROC of the grades, with intervals.

    Where a single answer came without probabilities, the AUROC is that of all answers as 0 and 1,
    which is the balanced accuracy: grades and answers are never mixed. `about["graded"]` says
    which.
    """
    yes = [answer for answer in answers if answer.case.fires]
    no = [answer for answer in answers if not answer.case.fires]
    if not yes or not no:
        return Failure(
            reason=f"{len(yes)} usable answers where the latent fires, {len(no)} where it does not"
        )
    documents = [[answer.case.document for answer in one] for one in (yes, no)]
    right = accuracy.rate([answer.yes for answer in yes], documents[0])
    quiet = accuracy.rate([not answer.yes for answer in no], documents[1])
    value, interval = accuracy.balanced(right, quiet)
    grades = [np.array([answer.grade for answer in one], np.float64) for one in (yes, no)]
    graded = not any(np.isnan(one).any() for one in grades)
    area, ends = value, interval
    if graded:
        area, ends = accuracy.auroc_with_interval(grades[0], grades[1], documents[0], documents[1])
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
