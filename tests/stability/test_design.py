"""Which runs are independent trials, strata, and what a number of seeds can tell."""

import numpy as np
import pytest
from scipy import stats

import reseed
from reseed.pipeline import power
from reseed.runs import pairs_of
from reseed.stability.group import (
    NEITHER,
    SAME_DATA,
    SAME_INIT,
    class_of,
    independent_pairs,
    occasions,
)
from reseed.stability.shares import bin_of, rate_bins, strata


def crossed(init, data):
    return {f"{i}{d}": (i, d) for d in range(data) for i in range(init)}


@pytest.mark.parametrize(
    ("init", "data", "kind", "pairs", "independent"),
    [
        (3, 1, SAME_DATA, 3, ["00", "10", "20"]),
        (1, 3, SAME_INIT, 3, ["00", "01", "02"]),
        (3, 3, NEITHER, 18, ["00", "11", "22"]),
        (2, 3, NEITHER, 6, ["00", "11"]),
        (1, 1, NEITHER, 0, ["00"]),
    ],
)
def test_the_least_shared_pairs_count(init, data, kind, pairs, independent):
    design = crossed(init, data)
    name, found = independent_pairs(pairs_of(list(design)), design)
    assert (name, len(found)) == (kind, pairs)
    assert all(class_of(pair, design) == kind for pair in found)
    assert occasions(design) == independent
    if pairs:
        trials = {run: sum(run in pair for pair in found) for run in design}
        assert set(trials.values()) == {power.trials_of(init, data)}


def test_a_missing_run_of_a_crossed_design_leaves_the_rest():
    design = crossed(3, 3)
    del design["11"]
    assert len(independent_pairs(pairs_of(list(design)), design)[1]) == 14
    assert occasions(design) == ["00", "21", "12"]


def test_bins_by_firing_rate_are_shared_by_runs_and_of_equal_size():
    rng = np.random.default_rng(0)
    rates = {run: rng.lognormal(-4, 1, 500).clip(0, 1) for run in "ab"}
    rates["a"][:50] = 0
    found, bins = strata(rates, dense_rate=0.05)
    assert [one.name for one in bins] == ["rate1", "rate2", "rate3", "rate4", "rate5"]
    assert found["dead"]["a"].sum() == 50
    sizes = [sum(found[one.name][run].sum() for run in "ab") for one in bins]
    assert max(sizes) - min(sizes) <= 1
    for run in "ab":
        inside = sum(found[one.name][run].astype(int) for one in bins)
        np.testing.assert_array_equal(inside == 1, found["live"][run])
        assert found["dense"][run].sum() == (rates[run] > 0.05).sum()
    assert bins[0].high == bins[1].low


def test_bins_of_poor_input():
    assert rate_bins({"a": np.zeros(4)}) == []
    assert strata({"a": np.zeros(4)}, 0.1)[0]["dead"]["a"].all()
    assert bin_of(np.zeros(2), []).tolist() == [-1, -1]
    same = rate_bins({"a": np.array([0.0, 0.5, 0.5])})
    assert len(same) == 1
    assert bin_of(np.array([0.0, 0.5]), same).tolist() == [-1, 0]
    few = {"a": np.array([0.1, 0.2]), "b": np.array([0.1, 0.0])}
    found, bins = strata(few, 0.1)
    assert sum(found[one.name]["a"].sum() for one in bins) == 2


# N seeds: bound if found in all, interval if in about half, power at alpha .05 and .001
TABLE = {
    3: (0.34, 0.09, 0.91, 0, 0),
    5: (0.51, 0.15, 0.85, 0, 0),
    8: (0.65, 0.25, 0.84, 0.48, 0),
    10: (0.70, 0.19, 0.73, 0.77, 0),
    12: (0.74, 0.28, 0.79, 0.91, 0.31),
    20: (0.83, 0.32, 0.73, 0.99, 0.71),
    32: (0.89, 0.35, 0.68, 1.0, 0.97),
}


@pytest.mark.parametrize("seeds", TABLE)
def test_what_seeds_can_tell(seeds):
    found = power.prospect(seeds - 1)
    bound, low, high, plain, strict = TABLE[seeds]
    assert found.bound_if_all == pytest.approx(bound, abs=0.006)
    assert found.bound_if_all == pytest.approx((seeds - 1) / (seeds - 1 + 1.96**2), abs=1e-3)
    assert found.interval_if_half == pytest.approx((low, high), abs=0.006)
    assert found.power == pytest.approx(plain, abs=0.006)
    assert found.strict_power == pytest.approx(strict, abs=0.006)


def test_power_is_that_of_scipys_exact_test():
    for trials in (4, 7, 11):
        rejects = [
            k
            for k in range(trials + 1)
            if stats.binomtest(k, trials, 0.5, alternative="greater").pvalue <= 0.05
        ]
        direct = sum(stats.binom.pmf(k, trials, 0.9) for k in rejects)
        assert power.power(trials) == pytest.approx(direct)
    assert power.trials_needed() == 11
    assert power.trials_needed(p=0.51) is None


@pytest.mark.parametrize(
    ("init", "data", "words"),
    [
        (1, 1, "nothing can be said"),
        (2, 1, "no interval"),
        (3, 1, "an interval from 3 runs"),
        (2, 2, "fewer than three of one kind"),
        (3, 3, "2 independent other runs"),
        (1, 4, "start from the same weights"),
    ],
)
def test_a_plan_says_what_its_seeds_tell(init, data, words):
    assert words in " ".join(power.sentences(init, data))


@pytest.mark.parametrize(
    ("shapes", "snapshots", "seeds", "says", "not_says"),
    [
        ([(256, 8), (256, 32), (1024, 8), (1024, 32)], 3, 3, "width, k, tokens", "One level"),
        ([(256, 8), (1024, 8)], 1, 3, "the part of width in", "width, k"),
        ([(256, 8), (1024, 8)], 1, 2, "no intervals", "with intervals"),
        ([(256, 8), (1024, 32)], 3, 3, "change together", "part of width"),
        ([(256, 8), (1024, 32), (256, 32)], 3, 3, "width, k, tokens", "change together"),
    ],
)
def test_what_a_grid_will_tell_is_said_before(shapes, snapshots, seeds, says, not_says):
    (found,) = power.of_factors(shapes, 1, snapshots, seeds)
    assert says in found
    assert not_says not in found


def test_one_group_or_one_run_has_nothing_between_groups():
    assert power.of_factors([(256, 8)], 1, 3, 3) == []
    assert power.of_factors([(256, 8), (512, 8)], 1, 3, 1) == []
    assert "site" in power.of_factors([(256, 8)], 2, 1, 3)[0]


@pytest.mark.parametrize(
    ("init", "data", "independent"), [(2, 8, 1), (8, 2, 1), (3, 3, 2), (4, 6, 3), (5, 1, 4)]
)
def test_a_plan_promises_runs_that_share_no_seed_with_each_other(init, data, independent):
    assert power.independent_of(init, data) == independent
    first = power.sentences(init, data)[0]
    plural = "s" if independent > 1 else ""
    assert first.startswith(f"of one latent: {independent} independent other run{plural}.")
    design = crossed(init, data)
    if min(init, data) > 1:
        assert independent == len(occasions(design)) - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"training": {"tokens": 30_016}}, ["469 steps", "= 32_000"]),
        ({"training": {"tokens": 81_000}}, ["seen 2.0 times"]),
        ({"sae": [{"latents": 64, "k": 2}]}, ["938 training tokens a latent"]),
        ({"seeds": {"init": [0, 1]}}, ["two independent runs"]),
        (
            {
                "sae": [{"architecture": "jumprelu", "latents": 3, "target_l0": 1}],
                "training": {"tokens": 3840},
            },
            ["the penalty of jumprelu", "does not settle"],
        ),
    ],
    ids=str,
)
def test_a_plan_warns_of_what_the_report_would_say(write_study, changes, words):
    given = {"seeds": {"init": [0, 1, 2]}, "training": {"tokens": 60_000}, **changes}
    spec = reseed.Study.load(write_study(**given)).spec
    sentences = power.warnings(spec, training_rows=40_000)
    assert len(sentences) == bool(words)
    assert all(word in " ".join(sentences) for word in words)
