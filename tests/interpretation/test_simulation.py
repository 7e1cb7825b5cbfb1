import json
from dataclasses import replace

import numpy as np
import pytest

from reseed.interpretation.records import Failure
from reseed.interpretation.scorers import simulation
from reseed.interpretation.scorers.simulation import one_pass_parts
from reseed.spec.interpretation import SimulationSpec


class Knowing:
    """A chooser that knows the features: the digit for the word just read."""

    name = "knowing"

    def __init__(self, known):
        self.known = known

    def choices(self, parts, options):
        feature = self.known.described(parts[0])
        out = np.full((len(parts), len(options)), -9.0)
        for row, part in zip(out, parts, strict=True):
            word = part.rstrip("\t").rsplit("\n", 1)[-1].strip()
            digit = 0
            if self.known.features_in(word) == [feature]:
                digit = min(9, round(self.known.STRENGTH[word[-1]]))
            row[digit] = 0.0
        return out


def test_one_pass_that_knows_the_features_is_near_one(known):
    results = simulation.score_in_one_pass(Knowing(known), known.items(4))
    assert all(one.value > 0.97 for one in results)
    assert {one.scorer for one in results} == {"simulation_in_one_pass"}
    swapped = replace(known.item(0), explanation=known.explanation(1))
    (one,) = simulation.score_in_one_pass(Knowing(known), [swapped])
    assert abs(one.value) < 0.2


def test_the_value_is_the_correlation_over_all_tokens(known):
    """Predictions are the expected digit."""

    class Even:
        name = "even"

        def choices(self, parts, options):
            rng = np.random.default_rng(len(parts[0]))
            return np.log(rng.dirichlet(np.ones(len(options)), len(parts)))

    item = known.item(0)
    settings = SimulationSpec(windows=30)
    (one,) = simulation.score_in_one_pass(Even(), [item], settings)
    guesses = {}
    for e in item.examples:
        parts = one_pass_parts(item.explanation.text, e.tokens, settings)
        guesses[e] = np.exp(Even().choices(parts, "0123456789")) @ np.arange(10)
    flat = np.concatenate([guesses[e] for e in item.examples])
    truth = np.concatenate([e.activations for e in item.examples])
    assert one.value == pytest.approx(np.corrcoef(flat, truth)[0, 1])


def test_the_parts_hide_every_earlier_value(known):
    parts = one_pass_parts("dates", (" in", " 18", "\n"), SimulationSpec())
    assert parts[0].endswith("Description: dates\n in\t")
    assert parts[1:] == ["unknown\n 18\t", "unknown\n\\n\t"]
    assert one_pass_parts("dates", (), SimulationSpec()) == []


def test_choices_that_cannot_be_right_are_failures(known):
    class Broken:
        name = "broken"

        def __init__(self, value, rows=0):
            self.value, self.rows = value, rows

        def choices(self, parts, options):
            return np.full((len(parts) - self.rows, len(options)), self.value)

    for broken in (Broken(np.nan), Broken(-np.inf), Broken(0.0, rows=1)):
        (one,) = simulation.score_in_one_pass(broken, [known.item(0)])
        assert isinstance(one, Failure)
        assert "broken" in one.reason


def test_half_of_the_windows_fire_and_one_is_in_a_question(known):
    model = known.Model(known.truth)
    (one,) = simulation.score(model, [known.item(0)], SimulationSpec(windows=8))
    assert len(model.asked) == 8
    assert (one.positives, one.negatives) == (4, 4)
    assert all(len(known.lines(request)) == 16 for request in model.asked)
    wanted = model.asked[0].schema["properties"]["activations"]
    assert (wanted["minItems"], wanted["items"]["maximum"]) == (16, 10)


def test_one_and_the_same_number_predicts_nothing(known):
    flat = json.dumps({"activations": [0] * 16})
    (one,) = simulation.score(known.Model(lambda _: flat), [known.item(0)])
    assert (one.value, one.interval, one.about["constant"]) == (0.0, None, True)
    assert one.positives + one.negatives == 20


def test_a_list_that_is_not_one_number_a_token_fails_its_window(known):
    def short(request):
        reply = json.loads(known.truth(request))
        if known.random_of(request).integers(3) == 0:
            reply["activations"].pop()
        return json.dumps(reply)

    (one,) = simulation.score(known.Model(short), [known.item(0)])
    assert 0 < one.failed < 20
    assert one.positives + one.negatives + one.failed == 20
    assert "15 answers to 16 questions" in one.failures[0].reason
    assert one.value > 0.97
