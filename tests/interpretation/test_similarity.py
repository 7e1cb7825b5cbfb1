"""Similarity of explanations within families, on texts whose meaning is known."""

import numpy as np
import polars as pl
import pytest

from reseed.errors import SpecError
from reseed.interpretation.records import Explanation, Latent
from reseed.interpretation.similarity import explanation_similarity

D = 24


def embed(texts):
    """The text is its vector, so that the truth is known."""
    return np.array([[float(x) for x in text.split()] for text in texts], dtype=np.float32)


def text_of(vector):
    return " ".join(f"{x:.8f}" for x in vector / np.linalg.norm(vector))


def world(rng, families=60, shared=1.0, by_rate=0.0, runs=("a", "b", "c")):
    """Explanations share `shared` with their family and `by_rate` with their frequency."""
    rows, explanations = [], []
    style = rng.normal(size=D)
    for family in range(families):
        centre, log_rate = rng.normal(size=D), rng.normal(-5, 2)
        for run in runs:
            own = shared * centre + rng.normal(size=D) + by_rate * (log_rate + 5) * style
            rows.append((run, family, family, float(np.exp(log_rate))))
            of = Latent(run=run, latent=family)
            explanations.append(Explanation(of=of, text=text_of(own), model="fake"))
    names = ["run", "latent", "family", "firing_rate"]
    return explanations, pl.DataFrame(rows, schema=names, orient="row")


def test_matched_latents_that_share_a_meaning_are_more_alike():
    explanations, latents = world(np.random.default_rng(0))
    found = explanation_similarity(explanations, latents, embed)
    assert found.matched == pytest.approx(0.5, abs=0.05)  # one of two parts in common
    assert found.control == pytest.approx(0.0, abs=0.05)
    assert found.difference_interval[0] > 0.3
    assert found.auroc > 0.95
    assert len(found.pairs) == 60 * 3
    assert found.families == 60


def test_nothing_in_common_is_covered_at_the_level_said():
    covered = 0
    for draw in range(100):
        explanations, latents = world(np.random.default_rng(draw), families=30, shared=0.0)
        found = explanation_similarity(explanations, latents, embed, draws=500)
        low, high = found.difference_interval
        covered += low <= 0 <= high
    assert covered >= 88


def test_likeness_by_firing_rate_alone_is_in_the_control_too():
    rng = np.random.default_rng(2)
    explanations, latents = world(rng, families=150, shared=0.0, by_rate=1.0)
    found = explanation_similarity(explanations, latents, embed)
    assert found.matched > 0.25
    assert abs(found.difference) < 0.1 * found.matched
    apart = latents.with_columns(pl.lit(0.01).alias("firing_rate"))
    naive = explanation_similarity(explanations, apart, embed)
    assert naive.difference > 0.2  # what would be reported without matching in frequency


def test_controls_are_never_of_the_family_and_the_choice_is_seeded():
    explanations, latents = world(np.random.default_rng(3), families=12)
    first, second = (explanation_similarity(explanations, latents, embed, seed=1) for _ in "ab")
    assert first.pairs.equals(second.pairs)
    mixed = explanation_similarity(explanations[::-1], latents[::-1], embed, seed=1)
    assert mixed.pairs.equals(first.pairs)
    alone = latents.with_columns(pl.lit(0).alias("family"))
    with pytest.raises(SpecError, match="no matched pair has a control"):
        explanation_similarity(explanations, alone, embed)


def test_equal_texts_are_embedded_once():
    explanations, latents = world(np.random.default_rng(4), families=5)
    same = [Explanation(of=one.of, text=explanations[0].text, model="fake") for one in explanations]
    seen = []

    def counting(texts):
        seen.append(len(texts))
        return embed(texts)

    found = explanation_similarity(same, latents, counting)
    assert seen == [1]
    assert found.difference == pytest.approx(0, abs=1e-9)
    assert found.auroc == 0.5


def test_what_cannot_be_is_refused():
    explanations, latents = world(np.random.default_rng(5), families=3)
    orphans = latents.with_columns(pl.lit(None, dtype=pl.Int64).alias("family"))
    with pytest.raises(SpecError, match="none of the families"):
        explanation_similarity(explanations, orphans, embed)
    with pytest.raises(SpecError, match="rows of length 1"):
        explanation_similarity(explanations, latents, lambda texts: 2 * embed(texts))
    with pytest.raises(SpecError, match="several explanations"):
        explanation_similarity([*explanations, explanations[0]], latents, embed)
