"""Surprisal: does the explanation make the texts in which the latent fires more probable?

Of arXiv 2410.13928: log p(text | explanation) - log p(text | neutral explanation).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reseed.interpretation.models import Likelihood
from reseed.interpretation.prompts.windows import (
    check_items,
    fires,
    missing_class,
    name_of,
    one_line,
    unexplained,
)
from reseed.interpretation.records import Example, Failure, Item, Score
from reseed.interpretation.scorers.accuracy import score_of_grades
from reseed.spec.interpretation import SurprisalSpec

SHOTS = (
    ("references to the end of the world", "the rise of Antichrist. Get ready, be found worthy"),
    ("four-digit years", "end 2012 levels. In the first quarter of 2013, we expect"),
    ("banks and financial institutions", "Deposit Insurance Corp. He would not say where the bank"),
)  # fmt: skip


def score(
    likelihood: Likelihood,
    items: Sequence[Item],
    settings: SurprisalSpec = SurprisalSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """AUROC of how much more probable a text is under its explanation than under a neutral one.

    Args:
        likelihood: a language model that gives the log-probabilities of a text. The neutral value
            of a text is asked for once, however many items have it.
        items: latents with explanation and with examples of both kinds, not of the split `explain`.
        settings: what stands before a text.

    Returns:
        one result for each item, in order; `value` is the AUROC, `about["gain"]` the mean gain in
        nats where the latent fires and where it is silent. Texts without finite log-probabilities
        are `failed`.
    """
    check_items(items)
    known: dict[str, float | None] = {}
    return [_score(likelihood, item, settings, known) for item in items]


def _score(
    likelihood: Likelihood, item: Item, settings: SurprisalSpec, known: dict[str, float | None]
) -> Score | Failure:
    problem = unexplained(item) or missing_class(item)
    if problem is not None:
        return problem
    assert item.explanation is not None
    own, neutral = prefix(item.explanation.text, settings), prefix(settings.neutral, settings)
    texts = [example.text for example in item.examples]
    new = [text for text in dict.fromkeys(texts) if text not in known]
    pairs = [*((own, text) for text in texts), *((neutral, text) for text in new)]
    totals = [_total(logprobs) for logprobs in likelihood.many(pairs)]
    known |= dict(zip(new, totals[len(texts) :], strict=True))
    gains: list[tuple[Example, float]] = []
    for example, after in zip(item.examples, totals, strict=False):
        before = known[example.text]
        if before is not None and after is not None:
            gains.append((example, after - before))
    failed = len(item.examples) - len(gains)
    sides = [[graded for graded in gains if fires(graded[0]) is side] for side in (True, False)]
    if not all(sides):
        return Failure(
            reason=f"{likelihood.name} gave {failed} of {len(item.examples)} texts of "
            f"{name_of(item.of)} no finite log-probability; one side has none left"
        )
    about = {"gain": [float(np.mean([gain for _, gain in side])) for side in sides]}
    return score_of_grades(item.of, "surprisal", *sides, failed=failed, about=about)


def prefix(explanation: str, settings: SurprisalSpec) -> str:
    """What stands before the text."""
    parts = [f"Description: {phrase}\nText: {text}\n\n" for phrase, text in SHOTS]
    return (
        "".join(parts if settings.shots else []) + f"Description: {one_line(explanation)}\nText: "
    )


def _total(logprobs: NDArray[np.floating]) -> float | None:
    """Log-probability of a text; None if it has no tokens or one of them none that is finite."""
    values = np.asarray(logprobs, np.float64)
    return float(values.sum()) if values.size and np.isfinite(values).all() else None
