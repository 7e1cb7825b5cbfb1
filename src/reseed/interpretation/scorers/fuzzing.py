"""Fuzzing: are the marked tokens those at which the latent fires? (arXiv 2410.13928)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from reseed.interpretation.prompts import TEXTS
from reseed.interpretation.prompts.windows import (
    active_tokens,
    by_class,
    check_items,
    mark,
    missing_class,
    unexplained,
)
from reseed.interpretation.records import Asker, Example, Failure, Item, Score
from reseed.interpretation.scorers.detection import Case, Questionnaire, Wording, in_batches, judge
from reseed.seeds import generator
from reseed.spec.interpretation import FuzzingSpec

SILENT, WITHIN = "fuzzing", "fuzzing_within"
"""Names of the two kinds of scores; see `FuzzingSpec.negatives`."""


def score(
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
    name = SILENT if settings.negatives == "silent" else WITHIN
    task = Wording(scorer=name, system=TEXTS.fuzz, shots=TEXTS.fuzz_shots)
    prepared = [_batches(item, task, settings) for item in items]
    return [result.score for result in judge(asker, prepared, task, settings)]


def _batches(item: Item, task: Wording, settings: FuzzingSpec) -> Questionnaire | Failure:
    firing, silent = by_class(item.examples)
    if settings.negatives == "within":
        problem = None if firing else Failure(reason="no example in which the latent fires")
    else:
        problem = missing_class(item)
    problem = unexplained(item) or problem
    if problem is not None:
        return problem
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
    return replace(in_batches(item, cases, task, settings), about=about)


def wrong_marks(
    item: Item,
    hosts: Sequence[Example],
    patterns: Sequence[Sequence[int]],
    how: Literal["random", "copied"],
) -> list[list[int]]:
    """Places to mark wrongly in each host, none of which fires; empty if there is no such place.

    Args:
        item: whose latent it is.
        hosts: windows in which tokens are marked.
        patterns: of each window that fires, the places marked there.
        how: see `FuzzingSpec.marks`.
    """
    count = math.ceil(np.mean([len(pattern) for pattern in patterns]))
    draw = generator("wrong-marks", item.of.run, item.of.latent)
    out: list[list[int]] = []
    for example in hosts:
        free = [i for i, value in enumerate(example.activations) if value == 0]
        kept, wanted = list[int](), count
        if how == "copied":
            pattern = patterns[int(draw.integers(len(patterns)))]
            kept = [i for i in pattern if i in free]
            wanted = len(pattern) - len(kept)
        rest = [i for i in free if i not in kept]
        more = draw.choice(len(rest), min(wanted, len(rest)), replace=False) if rest else []
        out.append(sorted(kept + [rest[int(i)] for i in more]))
    return out
