import json
from dataclasses import replace

import numpy as np
import pytest

from reseed.interpretation.controls import wrong_marks
from reseed.interpretation.prompts.windows import active_tokens, by_class
from reseed.interpretation.records import Failure
from reseed.interpretation.scorers import classify
from reseed.spec.interpretation import FuzzingSpec


def test_which_negatives_are_said_by_the_name(known):
    model = known.Model(known.truth)
    (silent,) = classify.fuzz(model, [known.item(0)])
    (within,) = classify.fuzz(model, [known.item(0)], FuzzingSpec(negatives="within"))
    assert (silent.scorer, within.scorer) == ("fuzzing", "fuzzing_within")
    assert (silent.positives, silent.negatives) == (15, 15)
    assert (within.positives, within.negatives) == (15, 15)
    assert silent.about["marks"] == "random"
    assert silent.about["skipped"] == 0


def test_within_needs_no_silent_window(known):
    model = known.Model(known.truth)
    (one,) = classify.fuzz(model, [known.item(0, silent=0)], FuzzingSpec(negatives="within"))
    assert one.value == 1
    (one,) = classify.fuzz(model, [known.item(0, silent=0)])
    assert isinstance(one, Failure)


def test_random_marks_are_as_many_as_fire_on_average_rounded_up(known):
    item = known.item(4, firing=15, silent=20)
    firing, silent = by_class(item.examples)
    patterns = [active_tokens(e) for e in firing]
    count = int(np.ceil(np.mean([len(p) for p in patterns])))
    for hosts in (firing, silent):
        for example, marks in zip(hosts, wrong_marks(item, hosts, patterns, "random"), strict=True):
            assert len(set(marks)) == len(marks) == count
            assert all(example.activations[i] == 0 for i in marks)


def test_copied_marks_are_where_marks_are_in_windows_that_fire(known):
    item = known.item(4, firing=15, silent=40)
    firing, silent = by_class(item.examples)
    patterns = [active_tokens(e) for e in firing]
    for marks in wrong_marks(item, silent, patterns, "copied"):
        assert marks in patterns
    for example, marks in zip(firing, wrong_marks(item, firing, patterns, "copied"), strict=True):
        assert len(marks) in {len(p) for p in patterns}
        assert all(example.activations[i] == 0 for i in marks)


def test_windows_that_fire_everywhere_are_skipped_and_counted(known):
    item = known.item(0)
    first, *rest = item.examples
    full = replace(first, tokens=(" w0a",) * 16, activations=(10.0,) * 16)
    model = known.Model(known.truth)
    within = FuzzingSpec(negatives="within")
    (one,) = classify.fuzz(model, [replace(item, examples=(full, *rest))], within)
    assert (one.positives, one.negatives, one.about["skipped"]) == (15, 14, 1)
    (one,) = classify.fuzz(model, [replace(item, examples=(full,))], within)
    assert isinstance(one, Failure)
    assert "fires at every token" in one.reason


def contiguous(request):
    """A judge that cannot read: it calls marks right that stand in one run."""
    shown = [line.split(": ", 1)[1] for line in request.messages[-1].content.splitlines()[3:]]
    return json.dumps({"answers": [int(text.count("<<") == 1) for text in shown]})


@pytest.mark.parametrize("marks", ["random", "copied"])
def test_random_marks_give_the_answer_away_and_copied_ones_do_not(known, marks):
    """Latents that fire on runs of three tokens, whatever these are."""

    def runs(item, seed):
        rng = np.random.default_rng(seed)
        out = []
        for example in item.examples:
            values = np.zeros(16)
            if example.kind == "firing":
                start = int(rng.integers(13))
                values[start : start + 3] = 5.0
            out.append(replace(example, activations=tuple(values.tolist())))
        return replace(item, examples=tuple(out))

    items = [runs(known.item(f, firing=25, silent=25), f) for f in range(12)]
    results = classify.fuzz(known.Model(contiguous), items, FuzzingSpec(marks=marks))
    mean = np.mean([one.value for one in results])
    assert mean > 0.9 if marks == "random" else abs(mean - 0.5) < 0.02
