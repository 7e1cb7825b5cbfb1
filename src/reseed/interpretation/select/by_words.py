"""Choose latents for a labelled task by what is said of them (LLM-Select, arXiv 2407.02694).

Beside the choices by a model stand those by data, on the same candidates. The evaluation is
`reseed.interpretation.select.by_data`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from reseed.errors import SpecError, nearest
from reseed.interpretation.records import Asker, Failure
from reseed.interpretation.select import by_data as baselines
from reseed.interpretation.select.task import Choice, Task
from reseed.interpretation.select.words_prompts import (
    describe,
    next_request,
    rank_request,
    read_next,
    read_ranking,
    read_score,
    score_request,
)
from reseed.seeds import generator

Method = Literal[
    "llm-score",
    "llm-score-mean",
    "llm-rank",
    "llm-sequential",
    "lasso",
    "mutual-information",
    "mrmr",
    "forward",
    "random",
]

METHODS: tuple[Method, ...] = get_args(Method)

LLM_METHODS: tuple[Method, ...] = METHODS[:4]

ANSWERS = 5
"""Of each latent in `llm-score-mean`, at temperature .5: self-consistency."""

BATCH = 40
"""Latents in one prompt of `llm-rank`; longer lists are ranked in a tournament."""


def select(
    task: Task,
    k: int,
    methods: Sequence[str],
    *,
    texts: Sequence[str] | None = None,
    asker: Asker | None = None,
    seed: int = 0,
    batch: int = BATCH,
) -> list[Choice]:
    """Choose latents by several methods; only training documents are looked at.

    Args:
        task: with its candidates.
        k: latents that are wanted at the most.
        methods: of `METHODS`.
        texts: what is said of each candidate; needed by the `llm-` methods.
        asker: answers; needed by the `llm-` methods.
        seed: of ties, of the batches of a tournament, and of `random`.
        batch: latents in one prompt of `llm-rank`.

    Raises:
        SpecError: if a method is not known or lacks what it needs, or k is out of range.
    """
    _check(task, k, methods, texts, asker, batch)
    size = len(task.candidates)
    by_data: dict[str, Callable[[], Choice]] = {
        "lasso": lambda: _plain("lasso", baselines.lasso(task.train_x, task.train_y, k)),
        "mutual-information": lambda: _plain(
            "mutual-information", baselines.mutual_information(task.train_x, task.train_y, seed)
        ),
        "mrmr": lambda: _plain("mrmr", baselines.mrmr(task.train_x, task.train_y, k)),
        "forward": lambda: _plain("forward", baselines.forward(task.train_x, task.train_y, k)),
        "random": lambda: _plain("random", baselines.by_chance(size, seed)),
    }
    if asker is None or texts is None:
        return [by_data[method]() for method in methods]
    words, order = describe(task.name, task.classes), by_chance_order(size, seed)
    by_words: dict[str, Callable[[], Choice]] = {
        "llm-score": lambda: llm_score(words, texts, asker, order),
        "llm-score-mean": lambda: llm_score(words, texts, asker, order, answers=ANSWERS),
        "llm-rank": lambda: llm_rank(words, texts, asker, order, k, batch),
        "llm-sequential": lambda: llm_sequential(words, texts, asker, order, k),
    }
    return [(by_data | by_words)[method]() for method in methods]


def by_chance_order(size: int, seed: int) -> list[int]:
    """The order of candidates where nothing else tells them apart."""
    return generator("select-ties", seed).permutation(size).tolist()


def llm_score(
    task: str, texts: Sequence[str], asker: Asker, order: Sequence[int], *, answers: int = 0
) -> Choice:
    """Each latent by itself: its importance from 0 to 1.

    Args:
        task: in words.
        texts: what is said of each candidate.
        asker: answers.
        order: of candidates with equal scores; those without any usable answer come last.
        answers: of each, at temperature .5, averaged; 0 for one greedy answer.
    """
    draws = [None] if answers == 0 else list(range(answers))
    requests = [score_request(task, text, draw=draw) for text in texts for draw in draws]
    found = [read_score(reply) for reply in asker.ask(requests)]
    by_text = [found[n * len(draws) : (n + 1) * len(draws)] for n in range(len(texts))]
    known = [[s for s in some if not isinstance(s, Failure)] for some in by_text]
    means = [float(np.mean(some)) if some else -1.0 for some in known]
    place = {candidate: rank for rank, candidate in enumerate(order)}
    ranked = sorted(range(len(texts)), key=lambda c: (-means[c], place[c]))
    return Choice(
        method="llm-score-mean" if answers else "llm-score",
        order=tuple(ranked),
        calls=len(requests),
        failed=sum(isinstance(s, Failure) for s in found),
        note=f"{len(set(means))} different scores; ties by chance",
    )


def llm_rank(
    task: str, texts: Sequence[str], asker: Asker, order: Sequence[int], k: int, batch: int = BATCH
) -> Choice:
    """All latents in one prompt, best first; long lists in a tournament.

    In a round the list, in an order by chance, is cut into batches of at most `batch`, each is
    ranked, and the better half of each goes on (never fewer than k). A batch without a usable reply
    stays in its order; latents that a reply leaves out come last in their batch.
    """
    left, lost = list(order), list[int]()
    calls = failed = omitted = 0
    while True:
        pieces: list[list[int]] = [
            some.tolist() for some in np.array_split(left, -(-len(left) // batch))
        ]
        replies = asker.ask([rank_request(task, [texts[c] for c in some]) for some in pieces])
        calls += len(pieces)
        ranked: list[list[int]] = []
        for some, reply in zip(pieces, replies, strict=True):
            places = read_ranking(reply, len(some))
            if isinstance(places, Failure):
                failed, places = failed + 1, []
            else:
                omitted += len(some) - len(places)
            told = [some[p] for p in places]
            ranked.append([*told, *(c for c in some if c not in told)])
        if len(ranked) == 1:
            return Choice(
                method="llm-rank",
                order=(*ranked[0], *lost),
                calls=calls,
                failed=failed,
                note=_rank_note(len(texts), batch, omitted),
            )
        keep = [max(k, -(-len(some) // 2)) for some in ranked]
        beaten = [some[n:] for some, n in zip(ranked, keep, strict=True)]
        lost = [*_interleaved(beaten), *lost]
        left = _interleaved([some[:n] for some, n in zip(ranked, keep, strict=True)])


def _rank_note(size: int, batch: int, omitted: int) -> str:
    note = f"tournament in batches of {batch}" if size > batch else "one prompt"
    return note + (f"; {omitted} latents were left out of replies" if omitted else "")


def _interleaved(lists: Sequence[Sequence[int]]) -> list[int]:
    longest = max(map(len, lists), default=0)
    return [some[n] for n in range(longest) for some in lists if n < len(some)]


def llm_sequential(
    task: str, texts: Sequence[str], asker: Asker, order: Sequence[int], k: int
) -> Choice:
    """One after the other: given those chosen, the next of those left. One call for each.

    A step without a usable reply takes the next by chance.
    """
    chosen: list[int] = []
    failed = 0
    for _ in range(k):
        left = [c for c in order if c not in chosen]
        numbered = {number: texts[c] for number, c in enumerate(left, 1)}
        request = next_request(task, [texts[c] for c in chosen], numbered)
        number = read_next(asker.ask([request])[0], list(numbered))
        if isinstance(number, Failure):
            failed, number = failed + 1, 1
        chosen.append(left[number - 1])
    return Choice(method="llm-sequential", order=tuple(chosen), calls=k, failed=failed)


def _plain(method: str, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Choice:
    return Choice(method=method, order=tuple(order.tolist()))


def _check(
    task: Task,
    k: int,
    methods: Sequence[str],
    texts: Sequence[str] | None,
    asker: Asker | None,
    batch: int,
) -> None:
    size = len(task.candidates)
    for method in methods:
        if method not in METHODS:
            raise SpecError(f"no way to choose is called {method!r}; {nearest(method, METHODS)}")
    if not methods or len(set(methods)) != len(methods):
        raise SpecError(f"methods = {list(methods)}: name at least one, each once")
    if not 1 <= k <= size:
        raise SpecError(f"k = {k}: there are {size} candidates to choose from")
    asked = [method for method in methods if method in LLM_METHODS]
    if asked and (asker is None or texts is None):
        raise SpecError(
            f"{asked[0]} reads explanations with a model; explain the latents first (`reseed "
            "explain`) and name a model, or leave that method out"
        )
    if texts is not None and len(texts) != size:
        raise SpecError(f"{len(texts)} explanations for {size} candidates")
    if "llm-rank" in asked and size > batch < 2 * k:
        raise SpecError(
            f"llm-rank: {size} latents take several prompts of {batch}, and a tournament that "
            f"keeps the best {k} needs room for twice as many; raise the batch to {2 * k}"
        )
