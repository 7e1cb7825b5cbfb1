import json
from dataclasses import replace

import numpy as np
import pytest

from reseed.interpretation.prompts.windows import by_class
from reseed.interpretation.records import Failure
from reseed.interpretation.scorers import intruder
from reseed.interpretation.scorers.intruder import quantile_groups
from reseed.spec.interpretation import IntruderSpec


def test_four_of_one_quantile_and_one_in_which_it_is_silent(known):
    item = known.item(2, firing=30, silent=12)
    model = known.Model(known.truth)
    (one,) = intruder.score(model, [item], IntruderSpec(marked=False))
    assert len(model.asked) == 12
    by_text = {e.text: e for e in item.examples}
    intruders, places = [], []
    for request in model.asked:
        shown = [by_text[" " + text.strip()] for text in known.lines(request)]
        kinds = [example.kind for example in shown]
        assert sorted(kinds) == ["firing"] * 4 + ["random"]
        assert len({e.quantile for e in shown if e.kind == "firing"}) == 1
        assert len({e.text for e in shown}) == 5
        places.append(kinds.index("random"))
        intruders.append(shown[places[-1]].text)
    assert len(set(intruders)) == 12
    assert len(set(places)) > 2
    assert one.chance == 0.2
    assert one.positives == 12
    assert sum(n for _, n in one.about["by_quantile"].values()) == 12
    assert set(one.about["by_quantile"]) == {"0", "1", "2"}


def test_the_places_of_marks_give_nothing_away(known):
    """A judge that knows where marks may stand, but not what they mean, is at chance."""

    def edges(request):
        """Picks the text with the mark that stands nearest to its beginning."""
        at = [text.find("<<") for text in known.lines(request)]
        return json.dumps({"intruder": int(np.argmin(at))})

    items = []
    for feature in range(40):
        item = known.item(feature % 12, firing=20, silent=20, seed=feature)
        made = []
        for example in item.examples:
            values = [0.0] * 16
            if example.kind == "firing":
                values[12] = 5.0
            made.append(replace(example, activations=tuple(values)))
        items.append(replace(item, of=known.latent(feature), examples=tuple(made)))
    results = intruder.score(known.Model(edges), items)
    values = np.array([one.value for one in results])
    assert abs(values.mean() - 0.2) < 4 * values.std() / np.sqrt(len(values))


def test_quantiles_with_too_few_windows_are_put_together(known):
    firing, _ = by_class(known.examples(0, "score", firing=12))

    def numbered(counts):
        numbers = [q for q, n in counts.items() for _ in range(n)]
        return [replace(e, quantile=q) for e, q in zip(firing, numbers, strict=False)]

    def sizes(counts):
        return {q: len(some) for q, some in quantile_groups(numbered(counts)).items()}

    assert sizes({0: 5, 1: 4}) == {0: 5, 1: 4}
    assert sizes({0: 5, 1: 3}) == {0: 5}
    assert sizes({0: 5, 1: 3, 2: 2}) == {0: 5, None: 5}
    assert sizes({0: 1, 1: 1, 2: 1, 3: 1}) == {None: 4}
    assert sizes({0: 3}) == {}
    assert sizes({None: 4}) == {None: 4}


def test_a_latent_with_three_windows_is_a_failure(known):
    (one,) = intruder.score(known.Model(known.truth), [known.item(0, firing=3)])
    assert isinstance(one, Failure)
    assert "3 windows" in one.reason


@pytest.mark.parametrize("text", ["3", '{"intruder": 3}'])
def test_bare_numbers_are_answers_too(known, text):
    (one,) = intruder.score(known.Model(lambda _: text), [known.item(0)])
    assert one.failed == 0


def test_questions_of_one_quantile_are_one_answer(known):
    """All share its few windows, so nothing is known of other windows."""
    item = known.item(0, firing=4, silent=20)
    alike = replace(item, examples=tuple(replace(e, quantile=None) for e in item.examples))
    (one,) = intruder.score(known.Model(known.truth), [alike])
    assert (one.value, one.positives) == (1.0, 20)
    assert one.interval[0] < one.chance


def test_intervals_hold_where_windows_are_shared(known):
    """The judge picks the window that looks oddest to it. Questions of a quantile share windows, so
    their answers depend on each other."""

    def oddest(request):
        odd = [
            known.random_of(
                replace(request, messages=(replace(request.messages[-1], content=text),))
            ).random()
            for text in known.lines(request)
        ]
        return json.dumps({"intruder": int(np.argmax(odd))})

    items = [
        replace(known.item(f % 12, firing=15, silent=20, seed=f), of=known.latent(f))
        for f in range(120)
    ]
    results = intruder.score(known.Model(oddest), items, IntruderSpec(marked=False))
    held = [one.interval[0] <= 0.2 <= one.interval[1] for one in results]
    assert np.mean(held) >= 0.9
