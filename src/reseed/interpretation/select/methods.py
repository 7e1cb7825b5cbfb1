"""The ways to choose latents for a task, by name: with a model that reads explanations, by data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reseed.errors import SpecError, nearest
from reseed.interpretation.records import Asker
from reseed.interpretation.select import Choice, Task, by_data, by_words
from reseed.seeds import generator

LLM_METHODS = ("llm-score", "llm-score-mean", "llm-rank", "llm-sequential")
"""They ask a model about explanations."""

BASELINES = ("lasso", "mutual-information", "mrmr", "forward", "random")

METHODS = LLM_METHODS + BASELINES

ANSWERS = 5
"""Of each latent in `llm-score-mean`, at temperature .5: self-consistency."""


def choose(
    task: Task,
    k: int,
    methods: Sequence[str],
    *,
    texts: Sequence[str] | None = None,
    asker: Asker | None = None,
    seed: int = 0,
    batch: int = by_words.BATCH,
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
    size, x, y = len(task.candidates), task.train_x, task.train_y
    orders: dict[str, Callable[[], by_data.Integers]] = {
        "lasso": lambda: by_data.lasso(x, y, k),
        "mutual-information": lambda: by_data.mutual_information(x, y, seed),
        "mrmr": lambda: by_data.mrmr(x, y, k),
        "forward": lambda: by_data.forward(x, y, k),
        "random": lambda: by_data.by_chance(size, seed),
    }
    # the order of candidates where nothing else tells them apart
    ties: list[int] = generator("select-ties", seed).permutation(size).tolist()

    def chosen(method: str) -> Choice:
        if method in orders:
            return Choice(method=method, order=tuple(orders[method]().tolist()))
        assert texts is not None
        assert asker is not None
        words = by_words.describe(task.name, task.classes)
        if method == "llm-rank":
            return by_words.llm_rank(words, texts, asker, ties, k, batch)
        if method == "llm-sequential":
            return by_words.llm_sequential(words, texts, asker, ties, k)
        answers = ANSWERS if method == "llm-score-mean" else 0
        return by_words.llm_score(words, texts, asker, ties, answers=answers)

    return [chosen(method) for method in methods]


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
    reading = [method for method in methods if method in LLM_METHODS]
    if reading and (asker is None or texts is None):
        raise SpecError(
            f"{reading[0]} reads explanations with a model; explain the latents first (`reseed "
            "explain`) and name a model, or leave that method out"
        )
    if texts is not None and len(texts) != size:
        raise SpecError(f"{len(texts)} explanations for {size} candidates")
    if "llm-rank" in reading and size > batch < 2 * k:
        raise SpecError(
            f"llm-rank: {size} latents take several prompts of {batch}, and a tournament that "
            f"keeps the best {k} needs room for twice as many; raise the batch to {2 * k}"
        )
