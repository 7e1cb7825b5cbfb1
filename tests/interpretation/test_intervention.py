import math
from dataclasses import replace

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.interpretation.records import Failure
from reseed.interpretation.scorers.likelihood import intervention, strength_for
from reseed.spec.interpretation import InterventionSpec


class Subject:
    """Writes the words of the feature that it is steered to; the divergence is strength^2 / 8."""

    def __init__(self, divergence=lambda strength: strength**2 / 8):
        self.divergence, self.tried = divergence, []

    def generate(self, prompts, direction, strength):
        if direction is None:
            return ["the of and"] * len(prompts)
        return [f"w{int(np.argmax(direction))}a and so on"] * len(prompts)

    def kl(self, prompts, direction, strength):
        self.tried.append(strength)
        return self.divergence(strength)


def directions(known, count=6):
    return {known.latent(f): 3 * np.eye(12)[f] for f in range(count)}


def test_what_a_latent_writes_makes_its_explanation_probable(known):
    results = intervention(Subject(), known.Likelihood(), known.items(6), directions(known))
    for one in results:
        # three words at -1 in place of -4
        assert one.value == pytest.approx(9)
        assert one.chance == 0
        assert one.negatives == 15
        assert one.about["kl"] == pytest.approx(0.5, rel=0.05)
        assert one.about["strength"] == pytest.approx(2, rel=0.05)
    swapped = replace(known.item(0), explanation=known.explanation(1))
    (one,) = intervention(Subject(), known.Likelihood(), [swapped], directions(known))
    assert one.value == 0


@pytest.mark.parametrize("power", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("kl", [0.05, 2.0])
def test_the_strength_is_found_wherever_it_lies(power, scale, kl):
    subject = Subject(lambda strength: (strength / scale) ** power)
    settings = InterventionSpec(kl=kl)
    strength, reached = strength_for(subject, ["a"], np.eye(3)[0], settings)
    assert abs(reached - kl) <= 0.05 * kl
    assert reached == (strength / scale) ** power
    assert len(subject.tried) <= settings.tries


@pytest.mark.parametrize(
    "divergence",
    [lambda s: 0.1, lambda s: math.nan, lambda s: math.inf, lambda s: 0.0 if s < 3 else 9.0],
    ids=["saturates", "nan", "infinite", "jumps"],
)
def test_a_divergence_that_cannot_be_reached_is_a_failure(known, divergence):
    subject = Subject(divergence)
    (one,) = intervention(subject, known.Likelihood(), [known.item(0)], directions(known))
    assert isinstance(one, Failure)
    assert "divergence" in one.reason or "0.5 nats" in one.reason
    assert len(subject.tried) <= InterventionSpec().tries


def test_what_is_missing_is_a_failure_and_what_is_wrong_an_error(known):
    def score(item, rows):
        return intervention(Subject(), known.Likelihood(), [item], rows)[0]

    assert "no direction" in score(known.item(9), directions(known)).reason
    assert "silent" in score(known.item(0, silent=0), directions(known)).reason
    assert "no explanation" in score(known.item(0, explained=False), directions(known)).reason
    for row in (np.zeros(3), np.array([np.nan, 1.0])):
        with pytest.raises(SpecError, match="cannot steer"):
            score(known.item(0), {known.latent(0): row})
    with pytest.raises(SpecError, match="explain"):
        score(known.item(0, "explain"), directions(known))


def test_texts_without_a_probability_are_counted(known):
    class Holes(known.Likelihood):
        calls = 0

        def logprobs(self, before, text):
            Holes.calls += 1
            return super().logprobs(before, text) * (np.nan if Holes.calls % 3 == 0 else 1)

    (one,) = intervention(Subject(), Holes(), [known.item(0)], directions(known))
    # every third of 15 steered and of 15 clean texts, of the same prompts
    assert (one.negatives, one.failed) == (10, 5)
    assert one.value == pytest.approx(9)
