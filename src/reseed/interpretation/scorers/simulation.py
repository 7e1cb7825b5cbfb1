"""Simulation: can a model that reads the explanation say how strongly each token activates?

After Bills et al. 2023, "Language models can explain neurons in language models".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reseed.interpretation.models.instruments import Chooser
from reseed.interpretation.prompts import prompts
from reseed.interpretation.prompts.marking import (
    by_class,
    check_items,
    one_line,
    spread,
    unexplained,
)
from reseed.interpretation.prompts.replies import numbers_schema, read_numbers
from reseed.interpretation.records import Asker, Example, Failure, Item, Reply, Request, Score
from reseed.interpretation.scorers import accuracy
from reseed.spec.interpretation import SimulationSpec

Numbers = NDArray[np.float64]

HIGHEST = 10

DIGITS = tuple("0123456789")
"""The scale in one pass: ten is left out, since most tokenizers make two tokens of it."""


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

    Raises:
        SpecError: if examples are of the split `explain`, of two splits, or contradict themselves.
    """
    check_items(items)
    chosen = [_windows(item, settings) for item in items]
    requests = [
        _request(item, window, settings)
        for item, windows in zip(items, chosen, strict=True)
        if not isinstance(windows, Failure)
        for window in windows
    ]
    replies = iter(asker.ask(requests) if requests else [])
    results: list[Score | Failure] = []
    for item, windows in zip(items, chosen, strict=True):
        if isinstance(windows, Failure):
            results.append(windows)
        else:
            predicted = [_read(next(replies), window) for window in windows]
            results.append(_score(item, windows, predicted, "simulation"))
    return results


def score_in_one_pass(
    chooser: Chooser,
    items: Sequence[Item],
    settings: SimulationSpec = SimulationSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """The same from one forward pass a window: the expected digit at each token.

    Every earlier token stands with an unknown activation (Bills et al., "all at once"), so the
    prediction at a token never depends on another. The scale is 0 to 9.

    Args:
        chooser: a language model that gives the log-probabilities of the ten digits.
        items: as `score`.
        settings: which windows.

    Raises:
        SpecError: as `score`.
    """
    check_items(items)
    results: list[Score | Failure] = []
    for item in items:
        windows = _windows(item, settings)
        if isinstance(windows, Failure):
            results.append(windows)
            continue
        assert item.explanation is not None
        phrase = item.explanation.text
        predicted = [_expected(chooser, phrase, window, settings) for window in windows]
        results.append(_score(item, windows, predicted, "simulation_in_one_pass"))
    return results


def _windows(item: Item, settings: SimulationSpec) -> list[Example] | Failure:
    problem = unexplained(item)
    if problem is not None:
        return problem
    firing, silent = by_class(item.examples)
    if not firing:
        return Failure(reason="no example in which the latent fires; there is nothing to correlate")
    quiet = spread(silent, settings.windows // 2, item.of, "simulated-silent")
    loud = spread(firing, settings.windows - len(quiet), item.of, "simulated-firing")
    return [*loud, *quiet]


def _request(item: Item, window: Example, settings: SimulationSpec) -> Request:
    assert item.explanation is not None
    system = prompts.SIMULATE + ' Reply with JSON: {"activations": [one number for each token]}'
    shots = [
        (_question(phrase, tokens), json.dumps({"activations": values}))
        for phrase, tokens, values in prompts.SIMULATE_SHOTS[: settings.shots]
    ]
    count = len(window.tokens)
    return Request(
        messages=prompts.turns(system, shots, _question(item.explanation.text, window.tokens)),
        max_tokens=6 * count + 32,
        schema=numbers_schema("activations", count, 0, HIGHEST),
        purpose="simulation",
    )


def _question(phrase: str, tokens: Sequence[str]) -> str:
    lines = [f"{number}: {one_line(token)}" for number, token in enumerate(tokens)]
    return f"Description: {one_line(phrase)}\n\nTokens:\n" + "\n".join(lines)


def _read(reply: Reply | Failure, window: Example) -> Numbers | Failure:
    if isinstance(reply, Failure):
        return reply
    numbers = read_numbers(reply.text, "activations", len(window.tokens), 0, HIGHEST)
    return numbers if isinstance(numbers, Failure) else np.array(numbers, np.float64)


def _expected(
    chooser: Chooser, phrase: str, window: Example, settings: SimulationSpec
) -> Numbers | Failure:
    parts = one_pass_parts(phrase, window.tokens, settings)
    logprobs = np.asarray(chooser.choices(parts, DIGITS), np.float64)
    if logprobs.shape != (len(parts), len(DIGITS)) or np.isnan(logprobs).any():
        return Failure(reason=f"{chooser.name}: {logprobs.shape} log-probabilities, or NaN in them")
    top = logprobs.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        return Failure(reason=f"{chooser.name}: no digit is possible at some token")
    weights = np.exp(logprobs - top)
    return weights @ np.arange(len(DIGITS)) / weights.sum(axis=1)


def one_pass_parts(phrase: str, tokens: Sequence[str], settings: SimulationSpec) -> list[str]:
    """Pieces of one prompt; after each piece the activation of the next token is read off."""
    start = "How strongly a unit of a language model responds to each token, from 0 to 9.\n\n"
    for shot, shown, values in prompts.SIMULATE_SHOTS[: settings.shots]:
        lines = [f"{one_line(t)}\t{min(v, 9)}" for t, v in zip(shown, values, strict=True)]
        half = len(lines) // 2
        # the numbers begin half-way, so that a number is to be expected at any token
        hidden = [f"{one_line(token)}\tunknown" for token in shown[:half]]
        start += f"Description: {shot}\n" + "\n".join([*hidden, *lines[half:]]) + "\n\n"
    start += f"Description: {one_line(phrase)}\n"
    parts = [f"unknown\n{one_line(token)}\t" for token in tokens]
    return [start + parts[0].removeprefix("unknown\n"), *parts[1:]] if parts else []


def _score(
    item: Item, windows: Sequence[Example], predicted: Sequence[Numbers | Failure], scorer: str
) -> Score | Failure:
    failures = tuple(one for one in predicted if isinstance(one, Failure))
    pairs = [(w, p) for w, p in zip(windows, predicted, strict=True) if not isinstance(p, Failure)]
    truth = [np.array(window.activations, np.float64) for window, _ in pairs]
    values = {float(v) for one in truth for v in one}
    if len(values) < 2:
        first = f"; the first: {failures[0].reason}" if failures else ""
        return Failure(
            reason=f"{len(pairs)} of {len(windows)} windows were predicted, and the latent does "
            f"not vary in them{first}",
            text=failures[0].text if failures else None,
        )
    guesses = [one for _, one in pairs]
    constant = len({round(float(v), 9) for one in guesses for v in one}) < 2
    documents = [window.document for window, _ in pairs]
    value, interval = (0.0, None) if constant else accuracy.correlation(guesses, truth, documents)
    firing = sum(window.kind == "firing" for window, _ in pairs)
    return Score(
        of=item.of,
        scorer=scorer,
        value=value,
        chance=0.0,
        interval=interval,
        positives=firing,
        negatives=len(pairs) - firing,
        failed=len(failures),
        failures=failures,
        about={"constant": constant},
    )
