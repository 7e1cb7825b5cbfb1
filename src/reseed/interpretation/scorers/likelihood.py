"""Scores from the probability of texts, in nats; both of arXiv 2410.13928.

Surprisal: does the explanation make the texts in which the latent fires more probable? That is
log p(text | explanation) - log p(text | neutral explanation).

Intervention: does what a latent makes its subject write fit the explanation?
S = E[log p(z | steered text) - log p(z | clean text)], where z is the explanation and the strength
of steering is that at which the next-token distribution moves by a fixed KL divergence, so that
latents are compared at equal effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reseed.errors import SpecError
from reseed.interpretation.models import Likelihood, Numbers, Steerable
from reseed.interpretation.prompts.windows import (
    by_class,
    check_items,
    fires,
    in_seeded_order,
    missing_class,
    name_of,
    one_line,
    unexplained,
)
from reseed.interpretation.records import Example, Failure, Item, Latent, Score
from reseed.interpretation.scorers.accuracy import mean_with_interval, score_of_grades
from reseed.spec.interpretation import InterventionSpec, SurprisalSpec

_SHOTS = (
    ("references to the end of the world", "the rise of Antichrist. Get ready, be found worthy"),
    ("four-digit years", "end 2012 levels. In the first quarter of 2013, we expect"),
    ("banks and financial institutions", "Deposit Insurance Corp. He would not say where the bank"),
)  # fmt: skip


def surprisal(
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
    return [_surprisal(likelihood, item, settings, known) for item in items]


def _surprisal(
    likelihood: Likelihood, item: Item, settings: SurprisalSpec, known: dict[str, float | None]
) -> Score | Failure:
    problem = unexplained(item) or missing_class(item)
    if problem is not None:
        return problem
    assert item.explanation is not None
    own, neutral = (
        surprisal_prefix(item.explanation.text, settings),
        surprisal_prefix(settings.neutral, settings),
    )
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


def surprisal_prefix(explanation: str, settings: SurprisalSpec) -> str:
    """What stands before the text."""
    parts = [f"Description: {phrase}\nText: {text}\n\n" for phrase, text in _SHOTS]
    return (
        "".join(parts if settings.shots else []) + f"Description: {one_line(explanation)}\nText: "
    )


def _total(logprobs: NDArray[np.floating]) -> float | None:
    """Log-probability of a text; None if it has no tokens or one of them none that is finite."""
    values = np.asarray(logprobs, np.float64)
    return float(values.sum()) if values.size and np.isfinite(values).all() else None


_STRONGEST = 2.0**24


def intervention(
    subject: Steerable,
    likelihood: Likelihood,
    items: Sequence[Item],
    directions: Mapping[Latent, Sequence[float] | NDArray[np.floating]],
    settings: InterventionSpec = InterventionSpec(),  # noqa: B008  (frozen)
) -> list[Score | Failure]:
    """How much more probable the explanation is after steered texts than after clean ones.

    Args:
        subject: steered at its site.
        likelihood: the model that judges what was written.
        items: latents with explanation and with examples of the kinds `random` or `neighbour`,
            which are the prompts; not of the split `explain`.
        directions: [D] of each latent, e.g. its decoder row; scaled to length 1 first.
        settings: how hard, and on what.

    Returns:
        one result for each item, in order: `value` is S in nats, chance 0; `negatives` the prompts
        used; `about` has the strength found and its divergence. A failure if no strength gives the
        divergence asked for.
    """
    check_items(items)
    return [
        _intervention(subject, likelihood, item, _unit(directions.get(item.of), item.of), settings)
        for item in items
    ]


def _unit(row: Sequence[float] | NDArray[np.floating] | None, of: Latent) -> Numbers | None:
    if row is None:
        return None
    values = np.asarray(row, np.float64)
    length = float(np.linalg.norm(values))
    if not (math.isfinite(length) and length > 0):
        raise SpecError(f"{name_of(of)}: its direction has the length {length}; it cannot steer")
    return values / length


def _intervention(
    subject: Steerable,
    likelihood: Likelihood,
    item: Item,
    direction: Numbers | None,
    settings: InterventionSpec,
) -> Score | Failure:
    hosts = in_seeded_order("steered-prompts", item.of, by_class(item.examples)[1])
    hosts = hosts[: settings.prompts]
    problem = unexplained(item)
    if problem is not None or direction is None or not hosts:
        missing = "no direction" if direction is None else "no example in which it is silent"
        return problem or Failure(reason=f"{missing}; there is nothing to steer with")
    texts = ["".join(host.tokens[: settings.prompt_tokens]) for host in hosts]
    reached = strength_for(subject, texts, direction, settings)
    if isinstance(reached, Failure):
        return reached
    strength, divergence = reached
    steered = subject.generate(texts, direction, strength)
    clean = subject.generate(texts, None, 0.0)
    assert item.explanation is not None
    gains = _gains(likelihood, item.explanation.text, steered, clean, hosts)
    failed = len(texts) - len(gains)
    if not gains:
        return Failure(reason=f"none of {failed} pairs of texts gave finite log-probabilities")
    value, interval = mean_with_interval([g for g, _ in gains], [d for _, d in gains])
    return Score(
        of=item.of,
        scorer="intervention",
        value=value,
        chance=0.0,
        interval=interval,
        negatives=len(gains),
        failed=failed,
        about={"strength": strength, "kl": divergence},
    )


def _gains(
    likelihood: Likelihood,
    phrase: str,
    steered: Sequence[str],
    clean: Sequence[str],
    hosts: Sequence[Example],
) -> list[tuple[float, int]]:
    """Gain of each prompt whose two texts give finite values, and its document."""
    pairs = [(_text_prefix(text), phrase) for text in [*steered, *clean]]
    values = [np.asarray(logprobs, np.float64) for logprobs in likelihood.many(pairs)]
    out: list[tuple[float, int]] = []
    for number, host in enumerate(hosts):
        after, before = values[number], values[number + len(hosts)]
        gain = float(after.sum() - before.sum())
        if len(after) and len(before) and math.isfinite(gain):
            out.append((gain, host.document))
    return out


def _text_prefix(text: str) -> str:
    """What stands before the explanation."""
    return f"Text: {' '.join(text.split())}\n\nIn a few words, the text above is about: "


def strength_for(
    subject: Steerable, prompts: Sequence[str], direction: Numbers, settings: InterventionSpec
) -> tuple[float, float] | Failure:
    """The strength at which steering moves the next token by the divergence asked for.

    Doubles until the divergence is passed, then bisects.

    Returns:
        strength and divergence reached; a failure if it is never reached or not finite.
    """
    low, high, strength = 0.0, math.inf, 1.0
    reached = math.nan
    for _ in range(settings.tries):
        reached = subject.kl(prompts, direction, strength)
        if not math.isfinite(reached):
            return Failure(reason=f"the divergence is {reached} at strength {strength:.4g}")
        if abs(reached - settings.kl) <= settings.tolerance * settings.kl:
            return strength, reached
        if reached < settings.kl:
            low = strength
        else:
            high = strength
        strength = 2 * low if math.isinf(high) else (low + high) / 2
        if strength > _STRONGEST:
            break
    return Failure(
        reason=f"no strength moves the next token by {settings.kl} nats; the last try, "
        f"{strength:.4g}, by {reached:.4g}. Ask for another divergence."
    )
