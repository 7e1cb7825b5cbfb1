import json
import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from reseed.interpretation.prompts.replies import (
    LONGEST,
    Form,
    number_weights,
    numbers,
    parse,
    read_explanation,
    read_numbers,
    schema_of,
)
from reseed.interpretation.records import Failure, Reply, TokenChoice


def answers(text, count=5, high=1):
    return read_numbers(text, "answers", count, 0, high)


GOOD = [
    '{"answers": [1,0,0,1,0]}',
    "[1, 0, 0, 1, 0]",
    "\n```json\n[1,0,0,1,0]\n```\n",
    "My answer is [1,0,0,1,0].",
    '{"why": "because", "answers": [1,0,0,1,0]}',
    'Text [0] fits, so {"answers": [1,0,0,1,0]}.',
    '<think>\nText [0] fits: {"answers": [0]}\n</think>\n\n[1,0,0,1,0]',
    'text [0] fits</think>```json\n{"answers": [1,0,0,1,0]}\n```',
]

BROKEN = [
    "",
    "  \n ",
    "I think the first and the fourth do.",
    "[1,0,0,1]",
    "[1,0,0,1,0,1]",
    "[]",
    str([1] * 10_000),
    "1" * (LONGEST + 1),
    "1" * 5000,
    "[[1,0,0,1,0]]",
    "[[1],[0],[0],[1],[0]]",
    "[" * 5000,
    '{"answers": {"answers": [1,0,0,1,0]}}',
    '{"answers": [1,0,0,1,0], "answers": [0,0,0,0,0]}',
    '{"answers": "[1,0,0,1,0]"}',
    '{"result": [1,0,0,1,0]}',
    '["1","0","0","1","0"]',
    "[true,false,false,true,false]",
    "[1.0,0,0,1,0]",
    "[NaN,0,0,1,0]",
    "[Infinity,0,0,1,0]",
    "[null,0,0,1,0]",
    "[2,0,0,1,0]",
    "[-1,0,0,1,0]",
    "[1,0,0,1,0] or rather [0,0,0,1,0]",
    "Example [0] fits: [1,0,0,1,0]",
    "]1,0,0,1,0[",
    "10010",
    "null",
    "\ud800[1,0",
    "<think>[1,0,0,1,0]",
    "<think>so</think> ",
    '{"answers": [1,0,0,1,0]} or {"answers": [0,0,0,1,0]}',
]


@pytest.mark.parametrize("text", GOOD)
def test_lists_that_are_meant_are_read(text):
    assert answers(text) == (1, 0, 0, 1, 0)


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_lists_are_failures_that_keep_their_text(text):
    failure = answers(text)
    assert isinstance(failure, Failure)
    assert failure.text == text
    assert failure.reason


junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.text(max_size=200) | junk.map(json.dumps))
def test_no_text_is_read_as_something_else(text):
    read = answers(text, 3)
    if isinstance(read, Failure):
        assert read.text == text
    else:
        assert len(read) == 3
        assert all(type(one) is int and one in (0, 1) for one in read)
        assert json.dumps(list(read)).replace(" ", "") in text.replace(" ", "").replace("\n", "")


@given(st.text(max_size=200) | junk.map(json.dumps))
def test_no_text_explains_by_chance(text):
    read = read_explanation(text)
    if not isinstance(read, Failure):
        assert "explanation" in text.lower()
        assert read[0].strip() == read[0] != ""


@given(st.lists(st.integers(0, 10), min_size=1, max_size=40))
def test_a_list_of_the_form_asked_for_comes_back(values):
    text = json.dumps({"activations": values})
    assert read_numbers(text, "activations", len(values), 0, 10) == tuple(values)
    schema = schema_of(numbers("activations", len(values), 0, 10))["properties"]["activations"]
    assert schema["minItems"] == schema["maxItems"] == len(values)


class Rated(Form):
    reasoning: str = ""
    score: Annotated[float, Field(ge=0, le=1)]


def test_a_form_is_schema_and_reader():
    properties = {
        "reasoning": {"type": "string"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    }
    schema = {"type": "object", "properties": properties, "required": ["score"]}
    assert schema_of(Rated, closed=False) == schema
    assert schema_of(Rated) == {**schema, "additionalProperties": False}
    assert parse('So: {"score": 0.5, "more": 1}', Rated) == Rated(score=0.5)
    assert parse(Reply(text='{"score": 1}', prompt_tokens=1, reply_tokens=1), Rated).score == 1.0
    failure = Failure(reason="busy")
    assert parse(failure, Rated) is failure
    for text in ('{"score": 1.5}', '{"score": true}', '{"score": "1"}', "0.5", "{}"):
        assert isinstance(parse(text, Rated), Failure)
    assert parse('{"score": 1.5}', Rated).reason.startswith("score: ")


def test_single_numbers():
    assert read_numbers('{"intruder": 3}', "intruder", None, 0, 4) == (3,)
    assert read_numbers("```\n2\n```", "intruder", None, 0, 4) == (2,)
    for text in ("", "5", "-1", "3.0", '"3"', "[3]", "true", "NaN", "text 3", '{"other": 3}'):
        assert isinstance(read_numbers(text, "intruder", None, 0, 4), Failure)


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        ('{"explanation": " dates\\nand  years "}', None),
        ('{"reasoning": "All are dates.", "explanation": "dates and years"}', "All are dates."),
        ('```json\n{"explanation": "dates and years"}\n```', None),
        ('{"explanation": "dates and years"}\n\nText 5: and so on', None),
        ("All are dates.\n[EXPLANATION]: dates and years\n", "All are dates."),
        ("All are dates.\n**[EXPLANATION]:** dates and years", "All are dates."),
        ("All are dates.\n**[EXPLANATION]: dates and years**", "All are dates."),
        ('{"explanation": "dates\nand years"}', None),
        ("[explanation] : dates and years", None),
        ('<think>[EXPLANATION]: so</think>{"explanation": "dates and years"}', None),
        ('{"reasoning": "</think>", "explanation": "dates and years"}', "</think>"),
        ('{"reasoning": "\\ud800", "explanation": "dates and years"}', "\ufffd"),
        ('Sure!\n```json\n{"explanation": " dates\\n and years "}\n```', None),
        ('{not json} Here is my explanation: {"explanation": "dates and years"}', None),
    ],
)
def test_explanations_that_are_meant_are_read(text, reasoning):
    assert read_explanation(text) == ("dates and years", reasoning)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The texts are about dates.",
        "[EXPLANATION]:",
        "[EXPLANATION]: one\n[EXPLANATION]: two",
        '{"explanation": ""}',
        '{"explanation": "  \\n "}',
        '{"explanation": null}',
        '{"explanation": 3}',
        '{"explanation": ["dates"]}',
        '{"explanation": {"explanation": "dates"}}',
        '{"explanation": "dates", "explanation": "years"}',
        '{"explanation": "dates"} {"explanation": "years"}',
        '{"explanation": "dates',
        '["explanation"]',
        "[" * 10_000,
        "{" * 10_000,
        '{"a":' * 10_000,
        'the "explanation" is that {"explanation": "dates"}',
        '{"Explanation": "dates"}',
        '"explanation"',
        json.dumps({"explanation": "x" * 5000}),
        json.dumps({"explanation": "\ud800"}),
        '{"explanation": "dates"}\n[EXPLANATION]: years',
        "<think>dates",
    ],
)
def test_what_explains_nothing_is_a_failure(text):
    read = read_explanation(text)
    assert isinstance(read, Failure)
    assert read.text == text


def reply(*pieces):
    """Tokens, each with its probability and other tokens with theirs."""
    choices = tuple(
        TokenChoice(
            token=token,
            logprob=math.log(p),
            alternatives={other: math.log(q) for other, q in rest.items()},
        )
        for token, p, rest in pieces
    )
    text = "".join(token for token, _, _ in pieces)
    return Reply(text=text, prompt_tokens=1, reply_tokens=1, choices=choices)


def test_probabilities_are_those_of_the_tokens_that_hold_the_numbers():
    one = reply(
        ('{"answers9": [', 1.0, {}),
        ("1", 0.6, {"0": 0.2, " 0": 0.1, "x": 0.1}),
        (", ", 1.0, {}),
        ("0]", 0.5, {"1]": 0.25, "0": 0.2}),
        ("}", 1.0, {}),
    )
    first, second = number_weights(one, 2, ("0", "1"))
    assert first == pytest.approx({"0": 1 / 3, "1": 2 / 3})
    assert second["1"] == pytest.approx(0.25 / 0.95)
    glued = reply(("[1", 0.7, {"[0": 0.3}), (",0", 0.9, {",1": 0.1}), ("]", 1.0, {}))
    assert [w["1"] for w in number_weights(glued, 2, ("0", "1"))] == pytest.approx([0.7, 0.1])


def test_without_probabilities_for_all_numbers_there_are_none():
    assert number_weights(Reply(text="[1]", prompt_tokens=1, reply_tokens=1), 1, ("0", "1")) is None
    assert number_weights(reply(("[1,0]", 1.0, {})), 3, ("0", "1")) is None
    assert number_weights(reply(("[", 1.0, {}), ("7]", 1.0, {})), 1, ("0", "1")) is None
    other = reply(("[1]", 1.0, {}))
    other = Reply(text="[0]", prompt_tokens=1, reply_tokens=1, choices=other.choices)
    assert number_weights(other, 1, ("0", "1")) is None
