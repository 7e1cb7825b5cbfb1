"""Estimates of what there is to find: textbook values, plain twins, and a known population."""

import tomllib
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reseed.stability import notes
from reseed.stability.notes import feature_warnings
from reseed.stability.over_seeds import unseen


def incidence(weights: np.ndarray, runs: int, found: int, rng) -> np.ndarray:
    """Features found in exactly 1, ..., `runs` runs, each of `found` without replacement."""
    times = np.zeros(len(weights), dtype=int)
    for _ in range(runs):
        keys = np.log(weights) + rng.gumbel(size=len(weights))
        times[np.argpartition(-keys, found)[:found]] += 1
    return np.bincount(times, minlength=runs + 1)[1:]


def test_estimates_by_hand():
    found = unseen.estimate(np.array([10, 4, 6]))
    assert (found.observed, found.once, found.twice, found.runs) == (20, 10, 4, 3)
    assert found.chao2 == pytest.approx(20 + 2 / 3 * 90 / 10)
    assert found.jackknife == pytest.approx(20 + 10 * 2 / 3)


@pytest.mark.parametrize(
    ("runs", "expected"), [(3, 59_600), (5, 60_000), (9, 59_900)], ids=["3", "5", "9"]
)
def test_equal_features_are_counted_right(runs, expected):
    counts = incidence(np.ones(60_000), runs, 16_384, np.random.default_rng(runs))
    found = unseen.estimate(counts)
    assert found.chao2 == pytest.approx(expected, rel=0.02)
    assert found.ice == pytest.approx(60_000, rel=0.02)


@pytest.mark.parametrize(("runs", "expected"), [(3, 45_000), (9, 55_200)])
def test_uneven_features_give_a_lower_bound(runs, expected):
    rng = np.random.default_rng(runs)
    counts = incidence(rng.lognormal(size=60_000), runs, 16_384, rng)
    assert unseen.estimate(counts).chao2 == pytest.approx(expected, rel=0.02)
    assert unseen.estimate(counts).chao2 < 60_000


POPULATIONS = {
    "sure": lambda rng: np.full(2000, 0.9),
    "even": lambda rng: np.full(2000, 0.5),
    "U": lambda rng: rng.beta(0.274, 0.396, 2000),
    "log-normal": lambda rng: np.clip(0.2 * np.exp(1.2 * rng.normal(size=2000)), 0, 1),
    "by rank": lambda rng: np.clip(60 / np.arange(1, 2001), 0, 1),
}


@pytest.mark.parametrize("runs", [3, 6, 9])
@pytest.mark.parametrize("junk", [0.0, 0.05])
@pytest.mark.parametrize("population", POPULATIONS)
def test_junk_of_one_run_never_lifts_the_bound_above_the_truth(population, junk, runs):
    """Latents that match nobody look like features found once, and Chao2 believes them."""
    rng = np.random.default_rng(runs)
    bounds, chao2, warned = [], [], []
    for _ in range(5):
        has = rng.random((2000, runs)) < POPULATIONS[population](rng)[:, None]
        counts = np.bincount(has.sum(axis=1), minlength=runs + 1)[1:]
        counts[0] += round(junk * has.sum())
        found = unseen.estimate(counts)
        bounds.append(found.at_least)
        chao2.append(max(found.chao2, found.ice))
        warned.append(any("unreliable" in each for each in feature_warnings(found, 1.0, runs)))
    assert np.mean(bounds) < 1.03 * 2000
    if np.mean(chao2) > 1.1 * 2000:
        assert all(warned)
    if population in ("sure", "even") and not junk:
        assert np.mean(bounds) > 0.95 * 2000
        assert np.mean(warned) <= 0.4


def test_below_three_runs_there_is_no_bound():
    assert unseen.estimate(np.array([10, 4])).at_least is None


def test_accumulation_is_the_average_over_all_choices_of_runs():
    rng = np.random.default_rng(0)
    has = rng.random((40, 5)) < 0.4
    has = has[has.any(axis=1)]
    grown = unseen.accumulation(np.bincount(has.sum(axis=1), minlength=6)[1:])
    for m in range(1, 6):
        each = [has[:, list(c)].any(axis=1).sum() for c in combinations(range(5), m)]
        assert grown[m - 1] == pytest.approx(np.mean(each))


def test_a_dead_latent_is_no_feature_and_only_the_runs_named_count():
    latents = pl.DataFrame(
        {
            "run": ["a", "b", "c", "a", "b", "a", "c"],
            "alive": [True, True, True, True, False, True, False],
            "family": [0, 0, 0, 1, 1, None, None],
        },
        schema_overrides={"family": pl.Int64},
    )
    assert unseen.incidences(latents, ["a", "b", "c"]).tolist() == [2, 0, 1]
    assert unseen.incidences(latents, ["b", "c"]).tolist() == [0, 1]
    assert unseen.incidences(latents.filter(~pl.col("alive")), ["a", "b"]).tolist() == [0, 0]


def test_poor_input_is_defined():
    empty = unseen.estimate(np.zeros(3, dtype=int))
    assert (empty.observed, empty.chao2, empty.ice) == (0, 0.0, 0.0)
    lone = unseen.estimate(np.array([5]))
    assert lone.chao2 == lone.ice == lone.jackknife == 5
    once = unseen.estimate(np.array([7, 0, 0]))
    assert np.isfinite([once.chao2, once.ice]).all()


def test_warnings_name_what_is_wrong():
    good = unseen.estimate(np.array([2, 3, 4, 5, 90]))
    assert feature_warnings(good, 0.97, 5) == []
    bad = feature_warnings(unseen.estimate(np.array([80, 3, 4])), 0.6, 9)
    assert [w for w in bad if "unreliable" in w and "60%" in w]
    assert [w for w in bad if "3 of the 9 runs" in w]
    assert [w for w in bad if "one run only" in w]


def test_every_sentence_is_said() -> None:
    room = Path(notes.__file__).parent
    sentences = tomllib.loads((room / "sentences.toml").read_text("utf-8"))
    files = (room / "notes.py", room / "factors" / "words.py")
    source = "".join(file.read_text("utf-8") for file in files).replace("'", '"')
    assert [name for name in sentences if f'"{name}"' not in source] == []
