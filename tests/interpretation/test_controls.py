from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reseed.errors import SpecError
from reseed.interpretation.controls import random_latents, shuffled_explanations
from reseed.interpretation.explain import explain_items
from reseed.interpretation.records import Explanation, Item, Latent, Score
from reseed.interpretation.scorers import classify, embedding, intruder


def bare(count, texts=None):
    latents = [Latent(run="r", latent=i) for i in range(count)]
    texts = texts or [f"text {i}" for i in range(count)]
    return [
        Item(of=of, explanation=Explanation(of=of, text=text, model="m"), examples=())
        for of, text in zip(latents, texts, strict=True)
    ]


@given(st.integers(2, 40), st.integers(0, 5))
def test_everybody_gets_the_explanation_of_another_and_each_is_used_once(n, seed):
    items = bare(n)
    out = shuffled_explanations(items, seed)
    assert [one.of for one in out] == [one.of for one in items]
    assert all(one.explanation.of != one.of for one in out)
    assert Counter(one.explanation.text for one in out) == Counter(f"text {i}" for i in range(n))
    assert out == shuffled_explanations(items, seed)


def test_explanations_of_the_same_words_are_kept_apart_where_it_can_be():
    out = shuffled_explanations(bare(6, ["a", "a", "b", "b", "c", "c"]))
    for one in out:
        own = "aabbcc"[one.of.latent]
        assert one.explanation.text != own
    assert {o.explanation.text for o in shuffled_explanations(bare(3, ["a"] * 3))} == {"a"}


def test_too_few_are_said(known):
    with pytest.raises(SpecError, match="1 explanations"):
        shuffled_explanations(bare(1))
    assert len(shuffled_explanations([*bare(3), known.item(0, explained=False)])) == 3


@pytest.mark.parametrize("score", [classify.detect, classify.fuzz])
def test_shuffled_explanations_score_at_chance_with_a_model_that_knows_everything(known, score):
    items = [
        replace(known.item(f % 12, firing=30, silent=30, seed=f), of=known.latent(f))
        for f in range(36)
    ]
    real = score(known.Model(known.truth), items)
    control = score(known.Model(known.truth), shuffled_explanations(items))
    assert all(one.value == 1 for one in real)
    values = np.array([one.value for one in control if one.value < 1])
    # three latents of each feature: some get an explanation that is right for them
    assert len(values) > 25
    assert abs(values.mean() - 0.5) < 0.03


def pool(known, split):
    return [e for f in range(40, 60) for e in known.examples(f, split, firing=0, silent=10)]


def test_random_latents_fire_like_real_ones_on_other_texts(known):
    items = known.items(4)
    made = random_latents(items, pool(known, "score"))
    for one, real in zip(made, items, strict=True):
        assert one.of == Latent(run="random:run0", latent=real.of.latent)
        assert one.explanation is None
        assert one.examples[15:] == real.examples[15:]
        firing = one.examples[:15]
        assert [e.activations for e in firing] == [e.activations for e in real.examples[:15]]
        assert [e.quantile for e in firing] == [e.quantile for e in real.examples[:15]]
        assert len({e.text for e in firing}) == 15
        assert not {e.text for e in firing} & {e.text for e in real.examples}
    assert made == random_latents(items, pool(known, "score"))


def test_random_latents_are_at_chance_from_explaining_to_scoring(known):
    """The whole way: explained by a model that knows all features, scored by one that does."""
    shown = [replace(known.item(f % 12, "explain", seed=f), of=known.latent(f)) for f in range(40)]
    asked = [replace(known.item(f % 12, seed=f), of=known.latent(f)) for f in range(40)]
    model = known.Model(known.truth)
    to_explain = random_latents(shown, pool(known, "explain"))
    to_score = random_latents(asked, pool(known, "score"))
    said = {one.of: one for one in explain_items(model, to_explain) if isinstance(one, Explanation)}
    items = [replace(one, explanation=said.get(one.of)) for one in to_score]
    for score in (
        classify.detect,
        classify.fuzz,
        intruder.score,
        lambda _, i: embedding.score_examples(known.Embedder(), i),
    ):
        results = [one for one in score(model, items) if isinstance(one, Score)]
        values = np.array([one.value for one in results])
        assert len(values) >= 30
        chance = results[0].chance
        assert abs(values.mean() - chance) < max(0.03, 4 * values.std() / np.sqrt(len(values)))


def test_patterns_are_fitted_to_texts_of_another_length(known):
    item = known.item(0)
    short = [replace(e, tokens=e.tokens[:3], activations=(0.0,) * 3) for e in pool(known, "score")]
    (made,) = random_latents([item], short)
    assert all(len(e.activations) == 3 and e.strength > 0 for e in made.examples[:15])
    long = [replace(e, tokens=e.tokens * 2, activations=(0.0,) * 32) for e in pool(known, "score")]
    (made,) = random_latents([item], long)
    assert all(len(e.activations) == 32 for e in made.examples[:15])


def test_pools_that_do_not_fit_are_refused(known):
    with pytest.raises(SpecError, match="the pool has 10"):
        random_latents(known.items(1), pool(known, "score")[:10])
    with pytest.raises(SpecError, match="judge and score"):
        random_latents(known.items(1), pool(known, "judge"))
