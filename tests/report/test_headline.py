"""The top of the page: which number to quote, near misses where nothing came back, next steps."""

import pytest

from reseed.report.headline import weaknesses
from reseed.report.html import interval
from reseed.report.parts import plainly


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_nothing_came_back_is_said_in_words_with_the_near_misses(make_text, groups):
    text = make_text(shared=0.0, groups=groups)
    lead = text[: text.index("Which number to quote")]
    assert "no latent comes back nearly unchanged" in lead
    assert "decoder cosine of at most 0.55" in lead  # the median of what the latents reach
    assert "0.0% to" not in lead
    assert "reseed export tiny" in text
    assert "reseed consensus" not in text  # there is nothing to make it of


def test_next_steps_are_commands_that_can_be_copied(make_text):
    text = make_text()
    for command in ("export tiny --out latents.parquet", "explain", "predict", "consensus"):
        assert f"reseed {command}" in text
    assert "reseed explain" not in make_text(texts=False)


def test_each_question_has_its_number(make_text):
    text = make_text()
    first = text[text.index("Which number to quote") : text.index("What to do next")]
    for words in ("shared at tau 0.7: 50.0%", "match at FDR 5%: 60.0%", "(PW-MCC): 0.700"):
        assert words in first


def test_ends_with_signs_are_not_joined_by_a_dash():
    assert interval([0.308, 0.9999]) == "30.8% to >99.9%"
    assert interval([0.00001, 0.3]) == "<0.1% to 30.0%"
    assert interval([0.3, 0.4]) == "30.0–40.0%"
    assert interval([0.0, 0.0]) == "0.0%"
    assert interval([None, 0.4]) == "–"


class Noted:
    def __init__(self, label, *notes):
        self.label, self.notes = label, notes


def test_notes_that_differ_in_numbers_are_one_note():
    groups = [
        Noted(name, f"too short. It rose to {n}; `tokens = {n}`.") for n, name in enumerate("ab")
    ]
    (shown,) = weaknesses(groups, {}, [])
    assert shown.startswith("Both SAEs: too short.")
    assert shown.count("<li>") == 2
    assert "<code>tokens = 1</code>" in shown
    (alone,) = weaknesses([Noted("a", "too <b> short.")], {}, [])
    assert alone == "Too &lt;b&gt; short."


def test_records_are_shown_as_words():
    shown = plainly(
        {"kind": "toy", "noise": 0.01, "sites": ["a", "<b>"], "none": None, "x": {"y": 1}}
    )
    assert shown == "kind toy; noise 0.01; sites a, &lt;b&gt;; x (y 1)"
