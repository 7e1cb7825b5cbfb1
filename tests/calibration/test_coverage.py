import numpy as np
import pytest

from reseed.calibration.coverage import RULES, coverage, intervals
from reseed.calibration.detector import Recurrence

RUNS, LATENTS, JUDGES = 8, 600, 4


@pytest.fixture(scope="module", params=[(0.3, 0.4), (2.0, 2.0)], ids=["U-shaped", "middling"])
def world(request):
    """Runs whose latents are found independently with known probabilities."""
    draw = np.random.default_rng(0)
    p = draw.beta(*request.param, size=(RUNS, LATENTS))
    found = draw.random((RUNS, LATENTS, RUNS)) < p[:, :, None]
    found[np.arange(RUNS), :, np.arange(RUNS)] = False
    seen = Recurrence(
        partner=np.where(found, 0, -1),
        kind=np.full((RUNS, LATENTS), "feature"),
        feature=np.zeros((RUNS, LATENTS), np.int64),
        rate=np.full((RUNS, LATENTS), 0.1),
    )
    return p, seen


@pytest.mark.parametrize("rule", RULES)
def test_coverage_is_that_of_the_true_probabilities(world, rule):
    """Held-out runs are few and noisy; still the coverage of p itself comes out."""
    p, seen = world
    n = seen.found[:JUDGES, :, :JUDGES].sum(axis=2)
    _, low, high = intervals(rule, np.bincount(n.ravel(), minlength=JUDGES))
    true = ((low[n] <= p[:JUDGES]) & (p[:JUDGES] <= high[n])).mean()
    table = coverage(seen, JUDGES, bins=1).table.filter(rule=rule, stratum="live")
    assert table["coverage"][0] == pytest.approx(true, abs=0.025)
    if rule == "posterior":
        assert 0.93 <= table["coverage"][0] <= 0.98
        assert table["raw"][0] < table["coverage"][0]


def test_the_posterior_says_what_held_out_runs_show(world):
    found = coverage(world[1], JUDGES, bins=1).reliability
    points = found.filter(rule="posterior", stratum="live")
    assert points["n"].to_list() == [1, 2, 3, 4]
    np.testing.assert_allclose(points["said"], points["held_out"], atol=0.03)
    assert points["latents"].sum() == pytest.approx(LATENTS)


def test_too_few_held_out_runs_give_empty_tables(world):
    every, few = world[1], slice(JUDGES + 1)
    fewer = Recurrence(
        partner=every.partner[few, :, few],
        kind=every.kind[few],
        feature=every.feature[few],
        rate=every.rate[few],
    )
    table, points = coverage(fewer, JUDGES, bins=1)
    assert len(table) == len(points) == 0


@pytest.mark.parametrize("counts", [[0, 0, 0], [9, 0, 0], [0, 0, 9], [0, 9, 0]])
def test_counts_that_say_little_still_give_an_interval(counts):
    for rule in RULES:
        mean, low, high = intervals(rule, np.array(counts))
        assert np.isfinite([mean, low, high]).all()
        assert (low <= high).all()
        assert low[0] < 0.01
        assert high[-1] > 0.99
