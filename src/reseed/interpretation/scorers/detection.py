"""Detection: does the latent fire in this text? (arXiv 2410.13928)."""

from __future__ import annotations

from collections.abc import Sequence

from reseed.interpretation.prompts import prompts
from reseed.interpretation.prompts.marking import (
    check_items,
    fires,
    missing_class,
    one_line,
    unexplained,
)
from reseed.interpretation.records import Asker, Failure, Item, Score
from reseed.interpretation.scorers.classification import Asked, Case, Judged, Task, judge, prepare
from reseed.spec.interpretation import DetectionSpec

TASK = Task(scorer="detection", system=prompts.DETECT, shots=prompts.DETECT_SHOTS)


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

    Raises:
        SpecError: if examples are of the split `explain`, of two splits, or contradict themselves.
    """
    return [one.score for one in judged(asker, items, settings)]


def judged(asker: Asker, items: Sequence[Item], settings: DetectionSpec) -> list[Judged]:
    """`score`, with what was answered about each text."""
    check_items(items)
    return judge(asker, [_asked(item, settings) for item in items], TASK, settings)


def _asked(item: Item, settings: DetectionSpec) -> Asked | Failure:
    problem = unexplained(item) or missing_class(item)
    if problem is not None:
        return problem
    cases = [
        Case(text=one_line(example.text), fires=fires(example), example=example)
        for example in item.examples
    ]
    return prepare(item, cases, TASK, settings)
