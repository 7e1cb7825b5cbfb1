import json

import numpy as np
import pytest

from reseed.interpretation.prompts.windows import one_line
from reseed.interpretation.scorers import simulation
from reseed.spec.interpretation import SimulationSpec


def test_the_value_is_the_correlation_over_all_tokens(known):
    def some(request):
        return json.dumps({"activations": known.random_of(request).integers(0, 11, 16).tolist()})

    item = known.item(0)
    model = known.Model(some)
    (one,) = simulation.score(model, [item], SimulationSpec(windows=30))
    windows = {tuple(map(one_line, e.tokens)): e for e in item.examples}
    asked = [windows[tuple(known.lines(request))] for request in model.asked]
    guesses = [json.loads(some(request))["activations"] for request in model.asked]
    truth = np.concatenate([e.activations for e in asked])
    assert one.value == pytest.approx(np.corrcoef(np.concatenate(guesses), truth)[0, 1])


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
    assert "at least 16 items after validation, not 15" in one.failures[0].reason
    assert one.value > 0.97
