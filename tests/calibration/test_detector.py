import itertools

import numpy as np
import pytest

from reseed.calibration.detector import (
    MOST,
    Recurrence,
    detect,
    histogram,
    rates,
    scores,
    strata,
    subsets,
)
from reseed.stability.intervals import area_under, jackknife_ends


def seen(found, exists, rate=None):
    """A `Recurrence` with these findings; partners do not matter here."""
    runs, latents, _ = found.shape
    return Recurrence(
        partner=np.where(found, 0, -1),
        kind=np.where(exists, "feature", "none"),
        feature=np.zeros((runs, latents), np.int64),
        rate=np.full((runs, latents), 0.1) if rate is None else rate,
    )


def simulated(probability, runs, draw):
    """`[R, F, R]` independent findings with these probabilities `[F]`."""
    found = draw.random((runs, len(probability), runs)) < probability[:, None]
    for run in range(runs):
        found[run, :, run] = False
    return found


def plain(found, exists, size):
    """ROC and area the slow way: every set, every latent, every pair of latents."""
    runs, latents, _ = found.shape
    score, truth = [], []
    for chosen in itertools.combinations(range(runs), size):
        for run in chosen:
            for latent in range(latents):
                score.append(1 + sum(found[run, latent, other] for other in chosen))
                truth.append(bool(exists[run, latent]))
    score, truth = np.array(score), np.array(truth)
    wins = np.sign(score[truth][:, None] - score[~truth][None]) / 2 + 0.5
    called = [score >= n for n in range(1, size + 1)]
    recall = [(truth & c).sum() / truth.sum() for c in called]
    alarm = [(~truth & c).sum() / (~truth).sum() for c in called]
    with np.errstate(invalid="ignore"):
        precision = [(truth & c).sum() / c.sum() for c in called]
    return wins.mean(), recall, alarm, precision


@pytest.mark.parametrize("size", [2, 3, 4])
def test_against_the_slow_way(size):
    draw = np.random.default_rng(size)
    found = simulated(draw.random(12), 5, draw)
    exists = draw.random((5, 12)) < 0.4
    result = detect(seen(found, exists), bins=1)
    auc, recall, alarm, precision = plain(found, exists, size)
    area = result.area.filter(label="feature", stratum="live", m=size).row(0, named=True)
    curve = result.curve.filter(label="feature", stratum="live", m=size)
    assert area["auc"] == pytest.approx(auc)
    assert area["base"] == pytest.approx(exists.mean())
    np.testing.assert_allclose(curve["recall"], recall)
    np.testing.assert_allclose(curve["false_alarm"], alarm)
    np.testing.assert_allclose(curve["precision"].to_numpy(), precision)


def test_a_perfect_detector():
    exists = np.tile(np.arange(20) < 8, (4, 1))
    found = np.repeat(exists[:, :, None], 4, axis=2)
    found[np.arange(4), :, np.arange(4)] = False
    result = detect(seen(found, exists), bins=1)
    assert result.area["auc"].to_list() == [1.0] * len(result.area)
    by_all = result.curve.filter(result.curve["n"] == result.curve["m"])
    assert by_all["precision"].to_list() == by_all["recall"].to_list() == [1.0] * len(by_all)
    assert set(by_all["false_alarm"]) == {0.0}


def test_a_detector_that_knows_nothing():
    draw = np.random.default_rng(3)
    exists = draw.random((6, 800)) < 0.3
    result = detect(seen(simulated(np.full(800, 0.5), 6, draw), exists), bins=1)
    live = result.area.filter(stratum="live", label="feature", m=3)
    assert live["auc"][0] == pytest.approx(0.5, abs=0.02)
    assert live["auc_lo"][0] < 0.5 < live["auc_hi"][0]


@pytest.mark.parametrize("all_of_one_kind", [True, False])
def test_what_cannot_be_told_is_null(all_of_one_kind):
    found = simulated(np.full(5, 0.5), 3, np.random.default_rng(0))
    result = detect(seen(found, np.full((3, 5), all_of_one_kind)), bins=2)
    assert result.area["auc"].null_count() == len(result.area)


def test_all_latents_dead():
    found = np.zeros((3, 5, 3), bool)
    dead = seen(found, np.zeros((3, 5), bool), rate=np.zeros((3, 5)))
    result = detect(dead, bins=3)
    assert set(result.area["stratum"]) == {"all", "live"}
    assert result.area.filter(stratum="live")["latents"].sum() == 0


def test_strata_cut_live_latents_into_equal_parts():
    rate = np.random.default_rng(0).random((3, 40)) * (np.arange(40) > 3)
    parts = strata(rate, 4)
    live = parts[1].members
    np.testing.assert_array_equal(live, rate > 0)
    bins = parts[2:]
    assert [p.name for p in bins] == ["rate 1", "rate 2", "rate 3", "rate 4"]
    np.testing.assert_array_equal(sum(p.members.astype(int) for p in bins), live)
    assert all(abs(p.members.sum() - live.sum() / 4) <= 1 for p in bins)
    same = strata(np.full((2, 5), 0.2), 4)
    assert [p.name for p in same] == ["all", "live"]


def test_area_of_ties_counts_half():
    assert area_under(*np.array([[3, 0], [5, 0]])) == 0.5
    assert area_under(*np.array([[3, 0], [0, 5]])) == 1
    assert area_under(*np.array([[0, 3], [5, 0]])) == 0
    assert np.isnan(area_under(*np.array([[0, 0], [5, 0]])))
    recall, alarm, precision = rates(np.array([[2, 2], [1, 3]]))
    np.testing.assert_allclose(recall, [1, 0.75])
    np.testing.assert_allclose(alarm, [1, 0.5])
    np.testing.assert_allclose(precision, [0.5, 0.6])


def test_order_of_runs_and_latents_does_not_matter():
    draw = np.random.default_rng(1)
    found, exists = simulated(draw.random(15), 4, draw), draw.random((4, 15)) < 0.5
    before = detect(seen(found, exists), bins=1)
    runs, latents = draw.permutation(4), draw.permutation(15)
    moved = found[runs][:, latents][:, :, runs], exists[runs][:, latents]
    after = detect(seen(*moved), bins=1)
    for a, b in zip(before, after, strict=True):
        assert a.drop("label", "stratum").to_numpy() == pytest.approx(
            b.drop("label", "stratum").to_numpy(), nan_ok=True
        )


def test_subsets_are_all_or_a_sample():
    assert len(subsets(8, 4)) == 70
    many = subsets(20, 8)
    assert 0.9 * MOST <= len(many) <= MOST
    assert (np.diff(many, axis=1) > 0).all()
    np.testing.assert_array_equal(many, subsets(20, 8))
    pairs, every = subsets(4, 2), np.ones((4, 3), bool)
    counts = histogram(scores(np.zeros((4, 3, 4), bool), pairs), every, every, pairs)
    assert counts.shape == (6, 2, 2)
    assert counts[:, 1, 0].tolist() == [6] * 6


def test_the_jackknife_of_a_mean_is_the_t_interval():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=7)
    left = np.array([np.delete(values, i).mean() for i in range(7)])
    low, high = jackknife_ends(np.array(values.mean()), left)
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    np.testing.assert_allclose((low, high), expected)
    assert np.isnan(jackknife_ends(np.array(1.0), left[:2])).all()
