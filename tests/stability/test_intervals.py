"""Intervals of shares: few latents, uneven runs, features in blocks; runs that stand out."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from reseed.spec.summary import GroupSummary
from reseed.stability import notes
from reseed.stability.intervals import in_a_circle, jackknife_over_pairs, mean_over_pairs
from reseed.stability.over_seeds.outlying import outlying_runs
from reseed.stability.proportions import wider_than_counts

SHARES = {
    "alike": lambda rng, m: rng.random((m, 400)) < 0.5,
    "U": lambda rng, m: rng.random((m, 400)) < _u_shaped(),
    "hardly any": lambda rng, m: rng.random((m, 400)) < 0.02,
    "few but sure": lambda rng, m: rng.random((m, 400)) < np.where(np.arange(400) < 4, 0.9, 0.0),
    "nearly all": lambda rng, m: rng.random((m, 400)) < 0.995,
    "better and worse runs": lambda rng, m: (
        rng.random((m, 400)) < _u_shaped() * np.minimum(1, np.exp(-abs(rng.normal(size=(m, 1)))))
    ),
    "in blocks": lambda rng, m: np.repeat(rng.random((m, 10)) < _u_shaped()[::40], 40, axis=1),
}
"""`[runs, features]` which features some runs find."""


def _u_shaped() -> np.ndarray:
    return np.random.default_rng(7).beta(0.274, 0.396, size=400)


def shares_of(found: np.ndarray) -> np.ndarray:
    both = found.astype(np.float32) @ found.T.astype(np.float32) / found.shape[1]
    return both[np.triu_indices(len(found), 1)].astype(np.float64)


@pytest.mark.parametrize("runs", [3, 6])
@pytest.mark.parametrize("population", SHARES)
def test_the_interval_of_a_share_holds_it_and_never_has_no_width(population, runs) -> None:
    """Nominal 95 %; callers that do not say of how many latents the shares are."""
    rng = np.random.default_rng(0)
    truth = np.mean([shares_of(SHARES[population](rng, 150)).mean() for _ in range(30)])
    pairs = list(combinations("abcdef"[:runs], 2))
    held, width = [], []
    for _ in range(250):
        _, low, high = mean_over_pairs(pairs, shares_of(SHARES[population](rng, runs)))
        held.append(low <= truth <= high)
        width.append(high - low)
    assert np.mean(held) >= 0.92
    assert min(width) > 0


def test_the_number_of_latents_narrows_what_equal_shares_leave_open() -> None:
    pairs = list(combinations("abc", 2))
    ends = {n: mean_over_pairs(pairs, np.zeros(3), latents=n) for n in (None, 256, 4096)}
    assert ends[None][2] > 0.5 > 0.02 > ends[256][2] > ends[4096][2] > 0
    assert all(low == 0 for _, low, _ in ends.values())
    # shares of all of them say the same from the other side
    _, low, high = mean_over_pairs(pairs, np.ones(3), latents=256)
    assert (low, high) == (pytest.approx(1 - ends[256][2], abs=0.01), 1)


def test_a_share_of_one_latent_in_a_thousand_is_not_taken_for_one_of_a_single_latent() -> None:
    pairs = list(combinations("abc", 2))
    _, low, high = mean_over_pairs(pairs, np.array([0.0, 1.0, 2.0]) / 1024)
    assert low < 1 / 1024 < high < 0.03  # with one latent .73


def test_what_is_no_share_gets_the_jackknife() -> None:
    pairs = list(combinations("abcd", 2))
    gains = np.array([0.1, -0.2, 0.3, 0.0, 0.1, 0.2])
    for got, plain in zip(
        mean_over_pairs(pairs, gains), jackknife_over_pairs(pairs, gains), strict=True
    ):
        assert got == plain


@pytest.mark.parametrize("runs", [3, 4, 6, 9])
def test_a_bad_run_is_named_and_where_it_is_the_interval_holds(runs) -> None:
    """One run in five finds three in ten of what the others do; the truth is over many runs."""
    rng = np.random.default_rng(1)

    def draw(m):
        quality = np.where(rng.random((m, 1)) < 0.2, 0.3, 1.0)
        return rng.random((m, 400)) < _u_shaped() * quality, quality[:, 0] < 1

    truth = np.mean([shares_of(draw(100)[0]).mean() for _ in range(40)])
    names = "abcdefghi"
    pairs = list(combinations(names[:runs], 2))
    named, held, wrong = [], [], 0
    for _ in range(150):
        found, bad = draw(runs)
        out = outlying_runs(pairs, shares_of(found), 400)
        wrong += any(not bad[names.index(run.run)] for run in out)
        if bad.sum() == 1:
            named.append([run.run for run in out] == [names[at] for at in np.flatnonzero(bad)])
            _, low, high = mean_over_pairs(pairs, shares_of(found), latents=400)
            held.append(low <= truth <= high)
            assert all(run.share < run.others for run in out)
    assert np.mean(named) > 0.9
    assert np.mean(held) > 0.97
    assert wrong <= (15 if runs == 3 else 3)


def test_runs_alike_are_not_named() -> None:
    rng = np.random.default_rng(2)
    pairs = list(combinations(range(5), 2))
    every = [outlying_runs(pairs, shares_of(SHARES["U"](rng, 5)), 400) for _ in range(200)]
    assert not any(every)
    assert outlying_runs([(0, 1)], np.array([0.3]), 400) == []


def test_the_notes_name_the_run_and_the_share_without_it() -> None:
    pairs = list(combinations(["good", "fine", "bad"], 2))
    out = outlying_runs(pairs, np.array([0.31, 0.1, 0.09]), 4096)
    assert [run.run for run in out] == ["bad"]
    group = GroupSummary.model_construct(outlying=out)
    (said,) = notes._outlying(group)
    assert said.startswith("bad stands out: it shares 9.5% with the other runs, less than")
    assert "31.0%" in said


def test_no_interval_is_narrower_than_its_counts():
    share = np.array([0.0, 1.0, 0.5, 0.5])
    ends = np.array([0.0, 1.0, 0.5, np.nan]), np.array([0.0, 1.0, 0.5, np.nan])
    low, high = wider_than_counts(ends, share, 20)
    np.testing.assert_allclose(low[:3], [0, 0.025 ** (1 / 20), 0.27196], rtol=1e-4)
    np.testing.assert_allclose(high[:3], [1 - 0.025 ** (1 / 20), 1, 0.72804], rtol=1e-4)
    assert np.isnan([low[3], high[3]]).all()


@pytest.mark.parametrize("runs", [2, 3, 4, 9])
def test_each_run_meets_the_next_in_a_circle(runs):
    pairs = list(combinations([f"r{at}" for at in range(runs)], 2))
    found = in_a_circle(pairs)
    assert set(found) <= set(pairs)
    assert len(found) == len(set(found)) == (1 if runs == 2 else runs)
    assert set(Counter(run for pair in found for run in pair).values()) == {min(2, runs - 1)}


def test_in_a_circle_every_run_that_is_compared_is_there():
    crossed = [("a0", "b1"), ("a1", "b0"), ("a0", "c1")]
    assert {run for pair in in_a_circle(crossed) for run in pair} == {"a0", "b1", "a1", "b0", "c1"}
    assert in_a_circle([]) == []
