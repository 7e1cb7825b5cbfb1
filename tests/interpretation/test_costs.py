import json

import pytest

from reseed.interpretation.costs import (
    Cost,
    DryInstrument,
    DryRun,
    cost_of,
    costs_of_a_latent,
    made_up,
    quarter,
    table,
    times_asked,
)
from reseed.interpretation.explain import explain_items
from reseed.interpretation.records import Failure, Message, Request, Score
from reseed.interpretation.scorers import classify, embedding, intruder, likelihood, simulation
from reseed.spec.interpretation import SCORERS, InterpretationSpec


def characters(text):
    return len(text)


def request(*contents, schema=None):
    messages = tuple(Message(role="user", content=content) for content in contents)
    return Request(messages=messages, schema=schema)


def test_a_dry_run_asks_nobody_and_counts_what_would_be_asked(known):
    dry = DryRun()
    results = classify.detect(dry, [known.item(0)])
    assert all(isinstance(one, Failure) for one in results)
    assert "dry run" in results[0].reason
    cost = dry.cost()
    assert cost.calls == 6
    assert cost == cost_of(dry.requests)
    real = known.Model(known.truth)
    classify.detect(real, [known.item(0)])
    assert real.asked == dry.requests


@pytest.mark.parametrize("score", [classify.detect, classify.fuzz, intruder.score])
def test_made_up_replies_have_the_form_asked_for(known, score):
    (one,) = score(known.Model(made_up), [known.item(0)])
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
    assert (cost + cost).calls == cost.times(2).calls == 4


def test_most_of_a_prompt_is_the_same_for_all(known):
    dry = DryRun()
    classify.detect(dry, known.items(5))
    cost = dry.cost()
    assert cost.repeated_tokens > 0.6 * cost.prompt_tokens


def test_made_up_values_follow_the_schema():
    many = {"type": "array", "items": {"type": "integer", "minimum": 2}, "minItems": 3}
    schema = {"type": "object", "properties": {"a": many, "b": {"type": "string"}}}
    value = json.loads(made_up(request("x", schema=schema)))
    assert value["a"] == [2, 2, 2]
    assert value["b"]


def test_the_table_has_a_row_a_question():
    lines = table({"a": Cost(calls=1200), "b": Cost(calls=2)}).splitlines()
    assert lines[2].startswith("| a | 1,200 |")
    assert len({line.count("|") for line in lines}) == 1


def test_explaining_and_simulating_are_counted_too(known):
    dry = DryRun()
    explain_items(dry, [known.item(0, "explain", explained=False)])
    simulation.score(dry, [known.item(0)])
    assert dry.cost().calls == 1 + 20


def test_instruments_are_counted_without_computing(known):
    one = DryInstrument(characters)
    results = likelihood.surprisal(one, [known.item(0)])
    assert all(isinstance(r, Score) and r.value == 0.5 for r in results)
    assert one.calls == 2 * 30
    assert one.cost().prompt_tokens == one.tokens > 0
    other = DryInstrument(characters)
    embedding.score_explanations(other, [known.item(0)])
    assert other.tokens == len("fires on f0") + sum(len(e.text) for e in known.item(0).examples)


def test_everything_that_is_asked_is_counted(known):
    """Second members of families whatever the controls, few random latents, and the search."""
    server = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    told = {"explainer": server, "controls": ["shuffled"], "refine": {"branch": 2, "depth": 2}}
    spec = InterpretationSpec.model_validate(told)
    assert times_asked("explain", spec, 50, 30) == 80
    assert times_asked("refine, at most", spec, 50, 30) == 80
    assert times_asked("detection", spec, 50, 30) == 100
    assert times_asked("intruder", spec, 50, 30) == 50
    random = spec.model_copy(update={"controls": ("random",)})
    assert times_asked("explain", random, 50, 30) == 80 + 17
    assert times_asked("intruder", random, 50, 30) == 50 + 17
    shown = known.item(0, "explain", explained=False, firing=40)
    costs = costs_of_a_latent(shown, known.item(0, firing=50, silent=50), spec)
    # 2 + 4 refinements; they and the start are scored, and judged too if each is the best so far
    assert costs["refine, at most"].calls == 6 + 2 * (1 + 6) * costs["detection"].calls


def test_every_way_of_scoring_has_a_row(known):
    shown = known.item(0, "explain", explained=False, firing=40)
    spec = InterpretationSpec.model_validate(
        {
            "explainer": {"model": "m", "base_url": "http://127.0.0.1:9/v1"},
            "embedder": {"kind": "words"},
            "likelihood": {"model": "m"},
            "scorers": SCORERS,
        }
    )
    costs = costs_of_a_latent(shown, known.item(0, firing=50, silent=50), spec)
    assert set(costs) == {name.replace("_", " ") for name in SCORERS} - {"intervention"} | {
        "explain"
    }
    for cost in costs.values():
        assert cost.calls > 0
        assert cost.prompt_tokens >= cost.repeated_tokens
    assert costs["detection"].calls == 20
    assert costs["surprisal"].calls == 200
    assert costs["embedding"].calls == 101
