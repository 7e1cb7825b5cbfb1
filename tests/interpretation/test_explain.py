import re
from dataclasses import replace

import pytest

from reseed.errors import SpecError
from reseed.interpretation.explain import SMALL, explain_items
from reseed.interpretation.records import Explanation, Failure, Item, Reply
from reseed.spec.interpretation import ExplainSpec


def test_a_model_that_knows_the_features_names_them(known):
    items = known.items(12, "explain", explained=False)
    for settings in (ExplainSpec(), SMALL, ExplainSpec(reasoning=True)):
        results = explain_items(known.Model(known.truth), items, settings)
        assert [one.text for one in results] == [f"fires on f{i}" for i in range(12)]
        assert [one.of for one in results] == [item.of for item in items]
        assert {one.model for one in results} == {"fake"}
        assert len({one.settings for one in results}) == 1
    assert results[0].settings != explain_items(known.Model(known.truth), items)[0].settings


def test_examples_to_score_with_are_refused(known):
    model = known.Model(known.truth)
    with pytest.raises(SpecError, match="'score' were given to the explainer"):
        explain_items(model, known.items(2, "score"))
    mixed = Item(
        of=known.latent(0),
        explanation=None,
        examples=known.examples(0, "explain") + known.examples(0, "judge"),
    )
    with pytest.raises(SpecError, match="'judge'"):
        explain_items(model, [mixed])
    assert not model.asked


def test_what_the_prompt_shows(known):
    model = known.Model(known.truth)
    one = known.item(3, "explain", explained=False, firing=30)
    explain_items(model, [one], ExplainSpec(examples=12), top_logits={one.of: [" then", "\n"]})
    (request,) = model.asked
    texts = known.lines(request, r"Text \d+")
    assert len(texts) == 12
    assert all("<<" in text for text in texts)
    assert len(known.lines(request, "Strengths")) == 12
    assert known.lines(request, "Made likely") == ['" then", "\\n"']
    roles = [message.role for message in request.messages]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]
    assert request.temperature == 0
    assert request.purpose == "explain"
    # all quantiles alike: four windows of each of three
    shown = [next(e for e in one.examples if e.text == t) for t in map(unmarked, texts)]
    assert sorted(e.quantile for e in shown) == [0] * 4 + [1] * 4 + [2] * 4


def test_what_is_marked_can_be_repeated_before_the_question(known):
    model = known.Model(known.truth)
    one = known.item(3, "explain", explained=False, firing=6)
    explain_items(model, [one], ExplainSpec(examples=6, ask_last=True))
    (request,) = model.asked
    for message in request.messages[1::2]:
        shown = re.findall("<<(.*?)>>", message.content)
        *_, repeated, _, last = message.content.split("\n")
        assert repeated == "Marked: " + ", ".join(f'"{token.strip()}"' for token in shown)
        assert last == "What do the marked tokens have in common?"


def unmarked(text):
    return text.replace("<<", "").replace(">>", "")


def test_prompts_of_different_latents_begin_alike(known):
    model = known.Model(known.truth)
    explain_items(model, known.items(3, "explain", explained=False))
    first, *rest = [request.messages[:-1] for request in model.asked]
    assert all(other == first for other in rest)


def test_the_same_latent_is_asked_about_in_the_same_words(known):
    a, b = known.Model(known.truth), known.Model(known.truth)
    explain_items(a, known.items(4, "explain", explained=False))
    explain_items(b, known.items(4, "explain", explained=False)[2:])
    assert a.asked[2:] == b.asked


@pytest.mark.parametrize("text", ["", "dates", '{"explanation": ""}', "[1]", "\ud800"])
def test_what_does_not_parse_is_never_an_explanation(known, text):
    items = known.items(3, "explain", explained=False)
    replies = iter([text, '{"explanation": "good"}', Failure(reason="the server said 500")])
    results = explain_items(known.Model(lambda _: next(replies)), items)
    assert isinstance(results[0], Failure)
    assert results[0].text == text
    assert isinstance(results[1], Explanation)
    assert results[1].text == "good"
    assert results[2] == Failure(reason="the server said 500")


def test_a_cut_off_explanation_is_a_failure(known):
    cut = Reply(text="[EXPLANATION]: words that", prompt_tokens=1, reply_tokens=9, finish="length")
    whole = replace(cut, text='{"explanation": "words"}')
    items = known.items(2, "explain", explained=False)
    replies = iter([cut, whole])
    first, second = explain_items(known.Model(lambda _: next(replies)), items)
    assert isinstance(first, Failure)
    assert "cut off" in first.reason
    assert second.text == "words"


def test_a_latent_without_examples_is_a_failure_and_costs_nothing(known):
    model = known.Model(known.truth)
    empty = Item(of=known.latent(0), explanation=None, examples=())
    silent = known.item(1, "explain", explained=False, firing=0)
    results = explain_items(model, [empty, silent])
    assert all(isinstance(one, Failure) for one in results)
    assert not model.asked
    assert explain_items(model, []) == []
