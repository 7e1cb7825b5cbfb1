import json
from dataclasses import replace

import numpy as np
import pytest

from reseed.interpretation.records import Failure, Reply, TokenChoice
from reseed.interpretation.scorers import classify
from reseed.interpretation.scorers.classify import Answer, Case, score_answers
from reseed.spec.interpretation import DetectionSpec


def test_batches_and_their_schema(known):
    model = known.Model(known.truth)
    (one,) = classify.detect(model, [known.item(0, firing=13, silent=10)])
    assert [len(known.lines(r)) for r in model.asked] == [5, 5, 5, 5, 3]
    for request in model.asked:
        assert "<<" not in known.question(request)
        wanted = request.schema["properties"]["answers"]
        assert wanted["minItems"] == wanted["maxItems"] == len(known.lines(request))
        assert request.temperature == 0
        assert request.top_logprobs == 5
    assert (one.positives, one.negatives, one.failed) == (13, 10, 0)
    assert one.scorer == "detection"
    assert one.chance == 0.5


def test_a_short_last_batch_is_not_lost(known):
    """Five of thirteen at a time: the last three count as well."""
    (one,) = classify.detect(known.Model(known.truth), [known.item(0, firing=7, silent=6)])
    assert one.positives + one.negatives == 13
    assert one.value == 1


def test_worked_examples_have_the_size_of_a_batch(known):
    for batch in (1, 2, 5, 8):
        model = known.Model(known.truth)
        classify.detect(model, [known.item(0)], DetectionSpec(batch=batch, shots=2))
        shots = model.asked[0].messages[1:-1]
        for ask, answer in zip(shots[::2], shots[1::2], strict=True):
            texts = sum(line[:1].isdigit() for line in ask.content.splitlines())
            assert texts == min(batch, 5) == len(json.loads(answer.content)["answers"])
        seen = {n for answer in shots[1::2] for n in json.loads(answer.content)["answers"]}
        assert seen == {0, 1}


def test_a_reply_of_the_wrong_length_fails_its_batch_and_no_other(known):
    def one_short(request):
        reply = known.truth(request)
        return reply.replace("[", "[1, ") if known.random_of(request).integers(3) == 0 else reply

    (one,) = classify.detect(known.Model(one_short), [known.item(0, firing=20, silent=20)])
    assert one.failed % 5 == 0
    assert one.failed == 5 * len(one.failures) > 0
    assert one.positives + one.negatives + one.failed == 40
    assert one.value == 1
    assert "at most 5 items after validation, not 6" in one.failures[0].reason


def test_probabilities_grade_where_answers_do_not(known):
    """Always 1, but less surely where the latent is silent: accuracy 0.5, AUROC 1."""

    def sure(request):
        feature = known.described(known.question(request))
        choices = [TokenChoice(token='{"answers": [', logprob=0.0)]
        for text in known.lines(request):
            p = 0.9 if feature in known.features_in(text) else 0.6
            other = {"0": float(np.log(1 - p))}
            choices.append(TokenChoice(token="1", logprob=float(np.log(p)), alternatives=other))
            choices.append(TokenChoice(token=",", logprob=0.0))
        choices[-1] = TokenChoice(token="]}", logprob=0.0)
        text = "".join(choice.token for choice in choices)
        return Reply(text=text, prompt_tokens=1, reply_tokens=1, choices=tuple(choices))

    (one,) = classify.detect(known.Model(sure), [known.item(0)])
    assert one.value == one.balanced_accuracy == 0.5
    assert one.auroc == 1
    assert one.auroc_interval[0] > 0.7
    assert one.about == {"graded": True, "sensitivity": 1.0, "specificity": 0.0}


def test_one_reply_without_probabilities_and_all_are_taken_as_answers(known):
    graded = known.with_choices(known.truth)
    (one,) = classify.detect(known.Model(graded), [known.item(0)])
    assert one.about["graded"]
    first = []

    def mixed(request):
        first.append(request)
        return known.truth(request) if len(first) == 1 else graded(request)

    (one,) = classify.detect(known.Model(mixed), [known.item(0)])
    assert not one.about["graded"]
    assert (one.auroc, one.auroc_interval) == (one.value, one.interval)


def test_the_numbers_by_hand(known):
    def answers(fires, yes, grades):
        some = known.item(0).examples[0]
        from_ = [replace(some, document=i + 100 * fires) for i in range(len(yes))]
        case = [Case(text="", fires=fires, example=one) for one in from_]
        return [Answer(case=c, yes=y, grade=g) for c, y, g in zip(case, yes, grades, strict=True)]

    yes = answers(True, [True, True, False, True], [0.9, 0.8, 0.3, 0.6])
    no = answers(False, [False, True], [0.2, 0.6])
    one = score_answers(None, "x", yes + no)
    assert one.value == (3 / 4 + 1 / 2) / 2
    assert one.auroc == (2 + 2 + 1 + 1.5) / 8
    assert isinstance(score_answers(None, "x", yes), Failure)
    assert isinstance(score_answers(None, "x", []), Failure)


def test_if_all_of_one_kind_failed_there_is_no_score(known):
    def only_silent(request):
        feature = known.described(known.question(request))
        (text,) = known.lines(request)
        return "?" if feature in known.features_in(text) else '{"answers": [0]}'

    one = classify.detect(known.Model(only_silent), [known.item(0)], DetectionSpec(batch=1))[0]
    assert isinstance(one, Failure)
    assert "0 usable answers where the latent fires" in one.reason
    assert one.text == "?"


def test_texts_cannot_pass_as_several(known):
    """A line break in a window could number its own lines."""
    from dataclasses import replace

    item = known.item(0)
    spoof = replace(item.examples[0], tokens=("\n3: w0a", *item.examples[0].tokens[1:]))
    model = known.Model(known.truth)
    classify.detect(model, [replace(item, examples=(spoof, *item.examples[1:]))])
    assert all(len(known.lines(request)) == 5 for request in model.asked)
    with pytest.raises(ValueError, match="batch"):
        DetectionSpec(batch=0)
