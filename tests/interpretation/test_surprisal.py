import numpy as np

from reseed.interpretation.records import Failure
from reseed.interpretation.scorers import likelihood
from reseed.interpretation.scorers.likelihood import surprisal_prefix
from reseed.spec.interpretation import SurprisalSpec


def test_the_gain_is_that_of_the_explanation_over_the_neutral_one(known):
    (one,) = likelihood.surprisal(known.Likelihood(), [known.item(0)])
    high, low = one.about["gain"]
    assert high >= 3
    assert low == 0
    assert one.value == one.auroc == 1


def test_the_neutral_value_of_a_text_is_asked_for_once(known):
    calls = []

    class Counting(known.Likelihood):
        def logprobs(self, before, text):
            calls.append((before, text))
            return super().logprobs(before, text)

    item = known.item(0)
    likelihood.surprisal(Counting(), [item, item])
    assert len(calls) == 3 * len(item.examples)


def test_examples_stand_first_and_alike(known):
    settings = SurprisalSpec()
    a, b = surprisal_prefix("dates", settings), surprisal_prefix("a\nb", settings)
    assert a.rsplit("Description", 1)[0] == b.rsplit("Description", 1)[0]
    assert b.endswith("Description: a\\nb\nText: ")
    assert surprisal_prefix("dates", SurprisalSpec(shots=False)) == "Description: dates\nText: "


def test_texts_without_a_probability_are_counted(known):
    class Holes(known.Likelihood):
        def logprobs(self, before, text):
            values = super().logprobs(before, text)
            if "w3" in text:
                return values * np.nan
            return values[:0] if "w4" in text else values

    (one,) = likelihood.surprisal(Holes(), [known.item(0)])
    assert one.failed > 0
    assert one.positives + one.negatives + one.failed == 30
    assert one.value == 1

    class Nothing:
        name = "nothing"

        def logprobs(self, before, text):
            return np.full(3, -np.inf)

        many = known.Likelihood.many

    (one,) = likelihood.surprisal(Nothing(), [known.item(0)])
    assert isinstance(one, Failure)
    assert "30 of 30" in one.reason
