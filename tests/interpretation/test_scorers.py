"""What holds for every scorer: truth near its best, guesses at chance, leaks and noise refused."""

from dataclasses import replace

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.interpretation.explain import explain_items
from reseed.interpretation.records import Failure, Item, Score
from reseed.interpretation.scorers import classify, embedding, intruder, likelihood, simulation
from reseed.spec import interpretation
from reseed.spec.interpretation import FuzzingSpec

ASKING = {
    "detection": classify.detect,
    "detection one by one": lambda m, i: classify.detect(
        m, i, interpretation.DetectionSpec(batch=1, shots=1)
    ),
    "fuzzing": classify.fuzz,
    "fuzzing copied": lambda m, i: classify.fuzz(m, i, FuzzingSpec(marks="copied")),
    "fuzzing within": lambda m, i: classify.fuzz(m, i, FuzzingSpec(negatives="within")),
    "intruder": intruder.score,
    "intruder unmarked": lambda m, i: intruder.score(
        m, i, interpretation.IntruderSpec(marked=False)
    ),
    "simulation": simulation.score,
}


def measuring(known):
    return {
        "embedding": lambda i: embedding.score_explanations(known.Embedder(), i),
        "example embedding": lambda i: embedding.score_examples(known.Embedder(), i),
        "surprisal": lambda i: likelihood.surprisal(known.Likelihood(), i),
    }


BEST = {"detection": 1.0, "intruder": 0.95, "simulation": 0.98, "example embedding": 0.9}


@pytest.mark.parametrize("name", ASKING)
def test_a_model_that_knows_the_features_scores_near_one(known, name):
    results = ASKING[name](known.Model(known.truth), known.items(6))
    assert all(isinstance(one, Score) for one in results)
    assert np.mean([one.value for one in results]) > BEST.get(name, 0.95) - 1e-9
    for one in results:
        assert one.failed == 0
        assert one.failures == ()
        if one.interval:
            assert one.interval[0] <= one.value <= one.interval[1]
            # questions of a quantile share windows, and two or three clusters tell little
            assert one.interval[0] > one.chance or len(one.about.get("by_quantile", ())) in (2, 3)


@pytest.mark.parametrize("name", ["embedding", "example embedding", "surprisal"])
def test_instruments_that_know_the_features_score_near_one(known, name):
    results = measuring(known)[name](known.items(6))
    assert np.mean([one.value for one in results]) > BEST.get(name, 0.95)
    assert all(one.interval[0] > one.chance for one in results)


@pytest.mark.parametrize("name", ASKING)
def test_a_model_that_guesses_is_at_chance(known, name):
    """On average, and chance lies in the intervals about as often as they promise."""
    results = ASKING[name](known.Model(known.guess), known.items(60))
    values = np.array([one.value for one in results])
    assert abs(values.mean() - results[0].chance) < 4 * values.std() / np.sqrt(60)
    held = [one.interval[0] <= one.chance <= one.interval[1] for one in results]
    assert np.mean(held) >= 0.88


@pytest.mark.parametrize("name", ASKING)
def test_with_the_explanation_of_another_latent_truth_is_no_help(known, name):
    if name.startswith("intruder"):
        pytest.skip("it reads no explanation")
    swapped = [
        replace(item, explanation=known.explanation((item.of.latent + 1) % 6))
        for item in known.items(6, firing=30, silent=30)
    ]
    results = ASKING[name](known.Model(known.truth), swapped)
    for one in results:
        assert one.value < one.chance + 0.2


@pytest.mark.parametrize("name", ASKING)
def test_what_the_explainer_saw_is_refused(known, name):
    model = known.Model(known.truth)
    leak = known.item(0)
    leak = replace(leak, examples=(*leak.examples, known.examples(0, "explain")[0]))
    with pytest.raises(SpecError, match="1 of 31 .* 'explain'"):
        ASKING[name](model, [known.item(1), leak])
    mixed = replace(leak, examples=known.examples(0, "score") + known.examples(0, "judge"))
    with pytest.raises(SpecError, match="judge and score"):
        ASKING[name](model, [mixed])
    assert not model.asked


@pytest.mark.parametrize("name", ["embedding", "example embedding", "surprisal"])
def test_instruments_refuse_it_too(known, name):
    with pytest.raises(SpecError, match="explain"):
        measuring(known)[name]([known.item(0, "explain")])


def test_the_planted_leak_from_end_to_end(known):
    """Explained from examples, scored on the same: an error, not a better score."""
    model = known.Model(known.truth)
    shown = known.item(0, "explain", explained=False)
    (said,) = explain_items(model, [shown])
    with pytest.raises(SpecError, match="which the explainer has seen"):
        classify.detect(model, [replace(shown, explanation=said)])
    (fair,) = classify.detect(model, [replace(known.item(0), explanation=said)])
    assert fair.value == 1


HOSTILE = [
    "",
    "I would say that most of them do.",
    "[1,0]",
    str([0] * 5000),
    "[[1,0,1,0,1]]",
    '{"answers": {"a": [1,0,1,0,1]}}',
    "[NaN, NaN, NaN, NaN, NaN]",
    '["1","0","1","0","1"]',
    '{"intruder": "2"}',
    "9",
    "\ud800",
]


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_replies_that_are_no_answers_are_no_scores(known, name, text):
    for one in ASKING[name](known.Model(lambda _: text), known.items(2)):
        assert isinstance(one, Failure)
        assert one.text == text


@pytest.mark.parametrize("name", ASKING)
def test_failed_replies_are_counted_and_in_no_number(known, name):
    """Every fourth reply is prose; what is left scores as it would alone."""

    def moody(request):
        bad = known.random_of(request).integers(4) == 0
        return "I cannot say." if bad else known.truth(request)

    whole = ASKING[name](known.Model(known.truth), known.items(6))
    results = ASKING[name](known.Model(moody), known.items(6))
    assert sum(one.failed for one in results) > 0
    for one, all_of_it in zip(results, whole, strict=True):
        assert one.value > one.chance + 0.5 * (1 - one.chance)
        counted = one.positives + one.negatives + one.failed
        assert counted == all_of_it.positives + all_of_it.negatives
        assert {failure.text for failure in one.failures} <= {"I cannot say."}


@pytest.mark.parametrize("name", ASKING)
def test_a_latent_that_cannot_be_scored_does_not_stop_the_others(known, name):
    model = known.Model(known.truth)
    silent = known.item(1, firing=0)
    empty = Item(of=known.latent(2), explanation=known.explanation(2), examples=())
    results = ASKING[name](model, [known.item(0), silent, empty, known.item(3)])
    assert [isinstance(one, Score) for one in results] == [True, False, False, True]
    assert results[3].of == known.latent(3)
    assert ASKING[name](model, []) == []


@pytest.mark.parametrize("name", ASKING)
def test_without_explanation_only_the_intruder_is_asked_about(known, name):
    (one,) = ASKING[name](known.Model(known.truth), [known.item(0, explained=False)])
    assert isinstance(one, Score if name.startswith("intruder") else Failure)


@pytest.mark.parametrize("name", ASKING)
def test_questions_depend_on_the_latent_alone(known, name):
    a, b = known.Model(known.truth), known.Model(known.truth)
    ASKING[name](a, known.items(4))
    ASKING[name](b, known.items(4)[2:])
    assert a.asked[len(a.asked) - len(b.asked) :] == b.asked


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": (float("nan"),) * 16}, "NaN"),
        ({"activations": (-1.0,) * 16}, "negative"),
        ({"activations": (0.0,) * 16}, "largest activation"),
        ({"activations": (1.0,)}, "16 tokens, but 1"),
        ({"kind": "random"}, "largest activation"),
    ],
)
def test_examples_that_contradict_themselves_are_refused(known, change, message):
    bad = known.item(0)
    bad = replace(bad, examples=(replace(bad.examples[0], **change), *bad.examples[1:]))
    with pytest.raises(SpecError, match=message):
        classify.detect(known.Model(known.truth), [bad])
