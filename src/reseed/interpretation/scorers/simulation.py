"""Simulation: can a model that reads the explanation say how strongly each token activates?

After Bills et al. 2023, "Language models can explain neurons in language models".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reseed.interpretation.prompts import TEXTS, turns
from reseed.interpretation.prompts.replies import numbers, read_numbers, schema_of
from reseed.interpretation.prompts.windows import (
    by_class,
    check_items,
    one_line,
    spread,
    unexplained,
)
from reseed.interpretation.records import (
    Asker,
    Example,
    Failure,
    Item,
    Reply,
    Request,
    Score,
    ask_about,
)
from reseed.interpretation.scorers.accuracy import correlation
from reseed.spec.interpretation import SimulationSpec

Numbers = NDArray[np.float64]

HIGHEST = 10


def score(
    asker: Asker,
    items: Sequence[Item],
    settings: SimulationSpec = SimulationSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """Correlation of predicted with true activations, over all tokens of all windows.

    Args:
        asker: the model that predicts, a list of whole numbers from 0 to 10 for each window.
        items: latents with explanation and with examples, not of the split `explain`.
        settings: which windows, and how it is asked.

    Returns:
        one result for each item, in order: `value` is Pearson's correlation, chance 0. A window
        whose reply has not exactly one number a token is `failed`. If every prediction is the same
        number, it predicts nothing: `value` is 0 without an interval, and
        `about["constant"]` is true.
    """
    check_items(items)
    return ask_about(
        asker,
        [_chosen(item, settings) for item in items],
        lambda item: [_request(item, window, settings) for window in item.examples],
        _score,
    )


def _chosen(item: Item, settings: SimulationSpec) -> Item | Failure:
    """The item with the windows that are simulated."""
    problem = unexplained(item)
    if problem is not None:
        return problem
    firing, silent = by_class(item.examples)
    if not firing:
        return Failure(reason="no example in which the latent fires; there is nothing to correlate")
    quiet = spread(silent, settings.windows // 2, item.of, "simulated-silent")
    loud = spread(firing, settings.windows - len(quiet), item.of, "simulated-firing")
    return replace(item, examples=(*loud, *quiet))


def _request(item: Item, window: Example, settings: SimulationSpec) -> Request:
    assert item.explanation is not None
    system = TEXTS.simulate + ' Reply with JSON: {"activations": [one number for each token]}'
    shots = [
        (_question(phrase, tokens), json.dumps({"activations": values}))
        for phrase, tokens, values in TEXTS.simulate_shots[: settings.shots]
    ]
    count = len(window.tokens)
    return Request(
        messages=turns(system, shots, _question(item.explanation.text, window.tokens)),
        max_tokens=6 * count + 32,
        schema=schema_of(numbers("activations", count, 0, HIGHEST)),
        purpose="simulation",
    )


def _question(phrase: str, tokens: Sequence[str]) -> str:
    lines = [f"{number}: {one_line(token)}" for number, token in enumerate(tokens)]
    return f"Description: {one_line(phrase)}\n\nTokens:\n" + "\n".join(lines)


def _read(reply: Reply | Failure, window: Example) -> Numbers | Failure:
    read = read_numbers(reply, "activations", len(window.tokens), 0, HIGHEST)
    return read if isinstance(read, Failure) else np.array(read, np.float64)


def _score(item: Item, replies: Sequence[Reply | Failure]) -> Score | Failure:
    windows = item.examples
    read = [_read(reply, window) for reply, window in zip(replies, windows, strict=True)]
    failures = tuple(part for part in read if isinstance(part, Failure))
    pairs = [(w, p) for w, p in zip(windows, read, strict=True) if not isinstance(p, Failure)]
    truth = [np.array(window.activations, np.float64) for window, _ in pairs]
    if len({float(value) for window in truth for value in window}) < 2:
        first = f"; the first: {failures[0].reason}" if failures else ""
        return Failure(
            reason=f"{len(pairs)} of {len(windows)} windows were predicted, and the latent does "
            f"not vary in them{first}",
            text=failures[0].text if failures else None,
        )
    guesses = [predicted for _, predicted in pairs]
    constant = len({float(value) for predicted in guesses for value in predicted}) < 2
    documents = [window.document for window, _ in pairs]
    value, interval = (0.0, None) if constant else correlation(guesses, truth, documents)
    firing = sum(window.kind == "firing" for window, _ in pairs)
    return Score(
        of=item.of,
        scorer="simulation",
        value=value,
        chance=0.0,
        interval=interval,
        positives=firing,
        negatives=len(pairs) - firing,
        failed=len(failures),
        failures=failures,
        about={"constant": constant},
    )
