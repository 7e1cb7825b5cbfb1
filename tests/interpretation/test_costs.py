import json

import pytest

from reseed.interpretation.costs import (
    Cost,
    DryInstrument,
    DryRun,
    cost_of,
    delphi_cost,
    made_up,
    quarter,
    table,
)
from reseed.interpretation.estimate import costs_of_a_latent
from reseed.interpretation.explain import explain
from reseed.interpretation.records import Failure, Message, Request, Score
from reseed.interpretation.scorers import (
    detection,
    embedding,
    fuzzing,
    intruder,
    simulation,
    surprisal,
)


def characters(text):
    return len(text)


def request(*contents, schema=None):
    messages = tuple(Message(role="user", content=content) for content in contents)
    return Request(messages=messages, schema=schema)


def test_a_dry_run_asks_nobody_and_counts_what_would_be_asked(known):
    dry = DryRun()
    results = detection.score(dry, [known.item(0)])
    assert all(isinstance(one, Failure) for one in results)
    assert "dry run" in results[0].reason
    cost = dry.cost()
    assert cost.calls == 6
    assert cost == cost_of(dry.requests)
    real = known.Model(known.truth)
    detection.score(real, [known.item(0)])
    assert real.asked == dry.requests


@pytest.mark.parametrize("score", [detection.score, fuzzing.score, intruder.score])
def test_made_up_replies_have_the_form_asked_for(known, score):
    (one,) = score(DryRun(replies=True), [known.item(0)])
    assert isinstance(one, Score)
    assert one.failed == 0


def test_numbers_by_hand():
    a, b = request("abcd", "ef"), request("abcd", "ex")
    cost = cost_of([a, b], characters)
    # 7 characters with the line between, 4 around each message; "abcd\\ne" is read again
    assert (cost.calls, cost.prompt_tokens, cost.repeated_tokens) == (2, 2 * 7 + 4 * 4, 6)
    assert cost.reply_tokens == 2 * len(made_up(a))
    assert cost_of([]) == Cost()
    assert quarter("") == 0
    assert quarter("abcde") == 2
    assert Cost(calls=10, prompt_tokens=5).per(4)["calls"] == 2.5


def test_most_of_a_prompt_is_the_same_for_all(known):
    dry = DryRun()
    detection.score(dry, known.items(5))
    cost = dry.cost()
    assert cost.repeated_tokens > 0.6 * cost.prompt_tokens


def test_made_up_values_follow_the_schema():
    many = {"type": "array", "items": {"type": "integer", "minimum": 2}, "minItems": 3}
    schema = {"type": "object", "properties": {"a": many, "b": {"type": "string"}}}
    value = json.loads(made_up(request("x", schema=schema)))
    assert value["a"] == [2, 2, 2]
    assert value["b"]


def test_the_released_pipeline_by_hand():
    texts = ["x" * 40] * 12
    cost = delphi_cost("detection", texts, [0] * 12)
    assert cost.calls == 3
    fixed = 549 + 4 * 8 + 15
    assert cost.prompt_tokens == 3 * fixed + 12 * 10 + 12 * 3
    assert cost.reply_tokens == 3 * 3
    assert delphi_cost("explain", texts, [2] * 12).calls == 1
    assert delphi_cost("intruder", texts[:10], [1] * 10).calls == 2
    with pytest.raises(KeyError):
        delphi_cost("guessing", texts, [])


def test_the_table_has_a_row_a_question():
    text = table({"a": (Cost(calls=1200), Cost(calls=3)), "b": (Cost(calls=2), None)})
    lines = text.splitlines()
    assert lines[2].startswith("| a | 1,200 |")
    assert lines[3].endswith("| - | - | - |")
    assert len({line.count("|") for line in lines}) == 1


def test_explaining_and_simulating_are_counted_too(known):
    dry = DryRun()
    explain(dry, [known.item(0, "explain", explained=False)])
    simulation.score(dry, [known.item(0)])
    assert dry.cost().calls == 1 + 20


def test_instruments_are_counted_without_computing(known):
    one = DryInstrument(characters)
    results = surprisal.score(one, [known.item(0)])
    assert all(isinstance(r, Score) and r.value == 0.5 for r in results)
    assert one.calls == 2 * 30
    assert one.cost().prompt_tokens == one.tokens > 0
    other = DryInstrument(characters)
    embedding.score_explanations(other, [known.item(0)])
    assert other.tokens == len("fires on f0") + sum(len(e.text) for e in known.item(0).examples)


def test_every_way_of_scoring_has_a_row(known):
    shown = known.item(0, "explain", explained=False, firing=40)
    rows = costs_of_a_latent(shown, known.item(0, firing=50, silent=50))
    assert {n for n, (_, other) in rows.items() if other} == {
        "explain", "detection", "fuzzing", "intruder",
    }  # fmt: skip
    for own, other in rows.values():
        assert own.calls > 0
        assert own.prompt_tokens >= own.repeated_tokens
        if other:
            assert own.prompt_tokens <= other.prompt_tokens
    assert rows["detection"][0].calls == rows["detection"][1].calls == 20
    assert rows["surprisal"][0].calls == 200
    assert rows["embedding"][0].calls == 101
