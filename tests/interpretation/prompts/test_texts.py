"""The fixed texts of prompts, on which every journal's keys depend."""

from reseed.interpretation.explain import settings_digest
from reseed.interpretation.prompts import TEXTS
from reseed.spec.interpretation import ExplainSpec


def test_the_texts_are_those_that_journals_were_asked_with():
    assert TEXTS.digest(16) == "2455286fc41b5bf7"
    assert settings_digest(ExplainSpec(shots=3)) == "3f12f92dfc843bc3"


def test_worked_examples_fit_themselves():
    for shot in TEXTS.explain_shots:
        assert all(max(window.strengths) < len(window.tokens) for window in shot.windows)
    assert all(0 <= shot.intruder < len(shot.texts) for shot in TEXTS.intruder_shots)
    assert all(len(shot.tokens) == len(shot.activations) for shot in TEXTS.simulate_shots)
