"""Searches over landscapes whose optimum is known."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.interpretation.records import Example, Explanation, Failure, Item, Latent, Reply, Score
from reseed.interpretation.refine import Detector, gain, refine_all
from reseed.interpretation.refine.search import Mistake, Refined, normal, refine_request
from reseed.spec.interpretation import DetectionSpec, RefineSpec

NO_EXPLANATION = "no JSON with 'explanation' in the reply"


def example(split, number, kind="firing", document=None):
    fires = float(kind == "firing")
    return Example(
        split=split,
        kind=kind,
        tokens=(f"word{number}", " and", " more"),
        activations=(fires, fires, 0.0),
        document=number if document is None else document,
        block=0,
        position=0,
    )


def start(latent=0, text="node"):
    of = Latent(run="r", latent=latent)
    kinds = ["firing", "random"] * 4
    examples = tuple(example("score", n, kind) for n, kind in enumerate(kinds))
    judge = tuple(example("judge", 100 + n, kind) for n, kind in enumerate(kinds))
    return Item(
        of=of, explanation=Explanation(of=of, text=text, model="fake"), examples=examples
    ), judge


def question(request):
    return re.search(r"Explanation: (.*)", request.messages[1].content).group(1)


class Tree:
    """A refiner whose children are known: `node` to `node a`, `node b`, `node c`."""

    name = "fake"

    def __init__(self, reply=None):
        self.asked = []
        self._reply = reply or (lambda text, seed: json.dumps({"explanation": text}))

    def ask(self, requests):
        self.asked += requests
        texts = [f"{question(r)} {'abcdefgh'[r.seed]}" for r in requests]
        replies = [self._reply(t, r.seed) for t, r in zip(texts, requests, strict=True)]
        return [
            r if isinstance(r, Failure) else Reply(text=r, prompt_tokens=1, reply_tokens=1)
            for r in replies
        ]


class Landscape:
    """A scorer by a function of the explanation; counts what it is given."""

    def __init__(self, value, cost=1):
        self.value, self.cost, self.calls, self.splits = value, cost, {"score": 0, "judge": 0}, []

    def __call__(self, items):
        out = []
        for item in items:
            split = {one.split for one in item.examples}
            assert len(split) == 1
            self.calls[split.copy().pop()] += self.cost
            found = self.value(item.explanation.text, *split, item.of.latent)
            score = Score(of=item.of, scorer="fake", value=found or 0, chance=0.5, interval=None)
            out.append(Failure(reason="no reply") if found is None else score)
        return out


def refine(item, judge, **more):
    return refine_all([(item, judge)], **more)[0]


def gain_of(refined):
    return refined.best.value - refined.nodes[0].value


def judge_gain_of(refined):
    return refined.judged[refined.best.number].value - refined.judged[0].value


PEAK = "node b c a"
SPEC = RefineSpec(budget=10_000)


def towards(text, split=None, latent=None):
    """How far a text agrees with the peak; the first step looks second best only."""
    good = 0
    for one, other in zip(text.split(), PEAK.split(), strict=False):
        if one != other:
            break
        good += 1
    return good / 4 + (0.3 if text.split()[1:2] == ["a"] else 0.0)


@pytest.mark.parametrize("order", ["breadth", "depth"])
def test_both_orders_find_the_peak_behind_a_second_best_step(order):
    item, judge = start()
    refiner, scorer = Tree(), Landscape(towards)
    spec = SPEC.model_copy(update={"order": order, "enough": 1.0})
    found = refine(item, judge, asker=refiner, scorer=scorer, spec=spec)
    assert found.best.explanation.text == PEAK
    assert found.ended == "enough"
    assert gain_of(found) == pytest.approx(0.75) == judge_gain_of(found)
    assert found.calls == len(refiner.asked) + scorer.calls["score"]
    assert found.judge_calls == scorer.calls["judge"] == len(found.judged)
    greedy = refine(
        item, judge, asker=Tree(), scorer=scorer, spec=spec.model_copy(update={"keep": 1})
    )
    assert greedy.best.explanation.text != PEAK


@pytest.mark.parametrize(
    ("order", "nodes"), [("breadth", 1 + 3 + 6 + 6), ("depth", 1 + 3 + 6 + 12)]
)
def test_a_whole_tree_has_the_size_that_the_spec_says(order, nodes):
    item, judge = start()
    spec = SPEC.model_copy(update={"order": order})
    found = refine(item, judge, asker=Tree(), scorer=Landscape(towards), spec=spec)
    assert found.ended == "searched"
    assert len(found.nodes) == nodes
    assert max(node.depth for node in found.nodes) == 3
    for node in found.nodes[1:]:
        assert node.depth == found.nodes[node.parent].depth + 1


@pytest.mark.parametrize("order", ["breadth", "depth"])
@pytest.mark.parametrize("cost", [0, 1, 7])
def test_the_budget_is_never_exceeded(order, cost):
    item, judge = start()
    for budget in (2 * cost + 1, 2 * cost + 2, 20, 33, 100):
        if budget < 2 * cost + 1:
            continue
        spec = SPEC.model_copy(update={"order": order, "budget": budget})
        refiner, scorer = Tree(), Landscape(towards, cost)
        found = refine(item, judge, asker=refiner, scorer=scorer, spec=spec, calls_to_score=cost)
        used = len(refiner.asked) + scorer.calls["score"]
        assert found.calls == used <= budget
        if found.ended == "budget":
            assert budget - used < 1 + cost
    too_small = SPEC.model_copy(update={"budget": 2 * cost})
    if cost:
        with pytest.raises(SpecError, match="raise the budget"):
            refine(item, judge, asker=Tree(), scorer=scorer, spec=too_small, calls_to_score=cost)


def test_what_was_said_before_is_not_scored_again():
    same = Tree(lambda text, seed: json.dumps({"explanation": "  NODE, once!  more " * 1}))
    item, judge = start()
    scorer = Landscape(lambda *_: 0.5)
    found = refine(item, judge, asker=same, scorer=scorer, spec=SPEC)
    assert len(found.nodes) == 2
    assert found.duplicates == 2 + 3  # two sisters, then all children of the only new one
    assert scorer.calls["score"] == 2
    assert found.best.number == 0  # a tie changes nothing
    assert gain_of(found) == 0


def test_failures_are_kept_and_lose_nothing_else():
    def reply(text, seed):
        return [Failure(reason="429"), "prose", json.dumps({"explanation": text})][seed]

    item, judge = start()
    scorer = Landscape(lambda text, *_: None if text == "node c c" else towards(text))
    found = refine(item, judge, asker=Tree(reply), scorer=scorer, spec=SPEC)
    assert [node.explanation.text for node in found.nodes] == ["node", "node c", "node c c"]
    assert {one.reason for one in found.failures} == {"429", NO_EXPLANATION, "no reply"}
    assert [one.text for one in found.failures if one.text] == ["prose", "prose"]
    nothing = refine(item, judge, asker=Tree(), scorer=Landscape(lambda *_: None), spec=SPEC)
    assert isinstance(nothing, Failure)
    assert "start from has no score" in nothing.reason


def noise(text, split, latent):
    """Chance alone: another number for each explanation, split and latent."""
    key = hashlib.sha256(f"{normal(text)}|{split}|{latent}".encode()).digest()[:8]
    return 0.6 + 0.05 * np.random.default_rng(int.from_bytes(key)).standard_normal()


@pytest.mark.parametrize("order", ["breadth", "depth"])
def test_noise_gains_where_it_was_searched_and_nowhere_else(order):
    spec = RefineSpec(order=order, budget=60)
    found = refine_all(
        [start(latent) for latent in range(150)], asker=Tree(), scorer=Landscape(noise), spec=spec
    )
    told = gain(found)
    assert told.search_interval[0] > 0.05  # the best of some fifteen draws
    assert told.judge_interval[0] <= 0 <= told.judge_interval[1]
    assert told.search == pytest.approx(np.mean([gain_of(one) for one in found]))
    assert told.judge == pytest.approx(np.mean([judge_gain_of(one) for one in found]))
    assert "+" in told.says


def test_a_real_improvement_gains_on_both():
    def value(text, split, latent):
        return towards(text) / 4 + noise(text, split, latent)

    found = refine_all(
        [start(latent) for latent in range(60)], asker=Tree(), scorer=Landscape(value), spec=SPEC
    )
    told = gain(found)
    assert told.judge_interval[0] > 0.05
    assert told.search > told.judge


def test_side_by_side_and_one_by_one_ask_the_same():
    starts = [start(latent) for latent in range(4)]
    first, second = Tree(), Tree()
    together = refine_all(starts, asker=first, scorer=Landscape(noise), spec=SPEC)
    alone = [refine(*one, asker=second, scorer=Landscape(noise), spec=SPEC) for one in starts]
    assert together == alone
    assert len(first.asked) == len(second.asked)
    assert set(map(repr, first.asked)) == set(map(repr, second.asked))


def test_a_search_that_remembers_asks_nothing_twice():
    class Remembering(Tree):
        known = {}

        def ask(self, requests):
            fresh = [r for r in requests if repr(r) not in self.known]
            for request, reply in zip(fresh, super().ask(fresh), strict=True):
                self.known[repr(request)] = reply
            return [self.known[repr(r)] for r in requests]

    item, judge = start()
    first, again = Remembering(), Remembering()
    results = [
        refine(item, judge, asker=one, scorer=Landscape(noise), spec=SPEC) for one in (first, again)
    ]
    assert results[0] == results[1]
    assert first.asked
    assert not again.asked


def test_the_judge_never_steers_and_its_text_is_never_shown():
    item, judge = start()
    refiner = Tree()
    found = refine(item, judge, asker=refiner, scorer=Landscape(towards), spec=SPEC)
    assert not any("word10" in m.content for r in refiner.asked for m in r.messages)
    other = Landscape(lambda text, split, _: towards(text) * (1 if split == "score" else -1))
    reversed_ = refine(item, judge, asker=Tree(), scorer=other, spec=SPEC)
    assert [n.explanation.text for n in reversed_.nodes] == [
        n.explanation.text for n in found.nodes
    ]
    assert judge_gain_of(reversed_) == -judge_gain_of(found)


def test_mixed_splits_are_refused():
    item, judge = start()
    common = {"asker": Tree(), "scorer": Landscape(towards), "spec": SPEC}
    with pytest.raises(SpecError, match="the judge needs examples of the split 'judge'"):
        refine(item, item.examples, **common)
    leaking = Item(of=item.of, explanation=item.explanation, examples=judge)
    with pytest.raises(SpecError, match="the search needs examples of the split 'score'"):
        refine(leaking, judge, **common)
    shared = [*judge, example("judge", 200, document=3)]
    with pytest.raises(SpecError, match="document 3 is among the examples to search with"):
        refine(item, shared, **common)
    # where documents are not known, tokens in common are the leak
    unknown = replace(item, examples=(example("score", 1, document=-1),))
    with pytest.raises(SpecError, match="have tokens of examples to search with"):
        refine(unknown, [example("judge", 300, document=-1)], **common)
    assert not common["asker"].asked
    unexplained = Item(of=item.of, explanation=None, examples=item.examples)
    with pytest.raises(SpecError, match="no explanation to start from"):
        refine(unexplained, judge, **common)


def test_the_critique_shows_what_was_wrong():
    item, judge = start()
    wrong = [Mistake(item.examples[0], False), Mistake(item.examples[1], True)]
    refiner = Tree()
    refine(
        item, judge, asker=refiner, scorer=Landscape(towards), spec=SPEC, mistakes=lambda _: wrong
    )
    shown = refiner.asked[0].messages[1].content
    missed, held = shown.index("It missed these"), shown.index("It was taken to hold")
    assert missed < shown.index("<<word0 and>> more") < held < shown.index("word1 and more")
    assert len({r.messages for r in refiner.asked[:3]}) >= 1


def test_requests_of_sisters_differ():
    item, judge = start()
    refiner = Tree()
    refine(item, judge, asker=refiner, scorer=Landscape(towards), spec=SPEC)
    assert len({repr((r.messages, r.seed)) for r in refiner.asked}) == len(refiner.asked)


def test_marks_and_words():
    shown = refine_request("t", [Mistake(example("score", 1), None)], 0, SPEC)
    assert "- <<word1 and>> more" in shown.messages[-1].content
    assert normal("  Cats,\n DOGS! ") == "cats dogs"
    request = refine_request("t", [], 2, RefineSpec(temperature=0.5, max_tokens=19))
    assert (request.seed, request.temperature, request.max_tokens) == (2, 0.5, 19)


def test_no_results_are_told():
    told = gain([Failure(reason="x")])
    assert (told.latents, told.left_out, told.judge) == (0, 1, None)
    item, judge = start()
    one = refine(item, judge, asker=Tree(), scorer=Landscape(towards), spec=SPEC)
    assert isinstance(one, Refined)
    assert gain([one]).judge_interval is None


def test_a_critique_shows_what_detection_got_wrong():
    """A judge that says 1 to odd words: a missed one, a false one, and right ones not shown."""

    class Judge:
        name = "judge"

        def ask(self, requests):
            odd = [int(re.search(r"0: word(\d+)", r.messages[-1].content)[1]) % 4 for r in requests]
            texts = [json.dumps({"answers": [int(n < 2)]}) for n in odd]
            return [Reply(text=text, prompt_tokens=1, reply_tokens=1) for text in texts]

    item, judge = start()
    detector = Detector(Judge(), DetectionSpec(batch=1))
    refiner = Tree()
    spec = RefineSpec(budget=100, branch=1, depth=1, shown=4)
    searched = refine(
        item, judge, asker=refiner, scorer=detector.score, mistakes=detector.mistakes, spec=spec
    )
    assert searched.nodes[0].value == 0.5
    (request,) = refiner.asked
    missed, false = request.messages[1].content.split("It was taken to hold for these")
    assert sorted(re.findall(r"word(\d)", missed)) == ["2", "6"]
    assert sorted(re.findall(r"word(\d)", false)) == ["1", "5"]
    assert "The latent fires in these" not in false
