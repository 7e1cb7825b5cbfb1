"""Explaining and scoring by processes that share a study: each asks some of the questions.

A question is of one share, by its key; a share is claimed; what was answered is read from the
journals of all. So nothing is asked twice, but for what a killed process had under way.
"""

from __future__ import annotations

import time

from reseed.events import events_of
from reseed.interpretation.models.of_study import Share, share_of
from reseed.interpretation.results import chosen_groups
from reseed.interpretation.stage import ask, explain, score
from reseed.pipeline.parts import POLL_SECONDS, Job
from reseed.screen import Screen

ASKED = ("explain", "score")
"""Stages that ask language models, and are done when they are named."""

_PATIENCE = 3.0
"""Times as long as a look at what is left takes, between two looks."""


def ask_all(job: Job, what: str, share: tuple[int, int], *, progress: bool) -> None:
    """Have all questions answered, beside processes that do the same, and make the results.

    Args:
        job: this process at the study.
        what: of `ASKED`.
        share: number and count of this process among them, from 1; where it begins.
        progress: whether to say what is done.

    Raises:
        BudgetError: if the budget does not suffice; the answers are kept.
    """
    number, of = share
    in_vain = set[int]()
    """shares whose questions get no answer"""
    while left := _left(job, what, of) - in_vain:
        started = time.monotonic()
        order = sorted(left, key=lambda other: (other - number) % of)
        mine = next((n for n in order if job.process.claim(f"{what} {n}/{of}")), None)
        if mine is None:
            time.sleep(max(POLL_SECONDS, _PATIENCE * (time.monotonic() - started)))
            continue
        part = f"{what} {mine}/{of}"
        try:
            job.process.say(part=part)
            if progress:
                Screen(stderr=True).print(part)
            if not _ask(job, what, Share(mine, of, job.process.id))[0]:
                in_vain.add(mine)
        finally:
            job.process.release(part)
            job.process.say(part="waiting")
    while not job.process.claim(f"result of {what}"):
        time.sleep(POLL_SECONDS)
    try:
        job.process.say(part=what)
        make = explain if what == "explain" else score
        for group in chosen_groups(job.study, None):
            make(job.study, events_of(job.study.folder, progress), group, command="reseed work")
    finally:
        job.process.release(f"result of {what}")


def _left(job: Job, what: str, of: int) -> set[int]:
    """Shares with questions that nobody has answered."""
    return {share_of(key, of) for key in _ask(job, what, Share(0, of, job.process.id))[1]}


def _ask(job: Job, what: str, share: Share) -> tuple[int, frozenset[str]]:
    each = [
        ask(job.study, job.events, group, what, share) for group in chosen_groups(job.study, None)
    ]
    return sum(count for count, _ in each), frozenset().union(*(keys for _, keys in each))
