"""The false discovery rate: what is planted is found, what chance makes alike is not."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import ortho_group

from reseed.matching.match import Views
from reseed.stability import fdr, shares
from reseed.stability.decoys import decoys, p_values
from reseed.stability.nulls import CovarianceNull
from reseed.stability.summary import found_at_fdr, latent_tests

PAIR = ("a", "b")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def spectrum(n: int, d: int, power: float, rng: np.random.Generator) -> np.ndarray:
    return unit(rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -power)


def compared(a: np.ndarray, b: np.ndarray, draws: int = 3, key: int = 0):
    """Two SAEs with encoder rows equal to decoder rows, and what chance gives."""
    views = [Views(rows, rows) for rows in (a, b)]
    found = shares.PairTable(PAIR, shares.compare(*views).table)
    nulls = {run: CovarianceNull(v) for run, v in zip(PAIR, views, strict=True)}
    null = decoys(nulls["a"], nulls["b"], key)
    return found, shares.Chance(
        shares.draw_nulls(PAIR, nulls, draws, key=("draw", key)), {PAIR: null}
    )


def both_sides(found, chance, measure=fdr.MATCHED):
    return fdr.examine(found, chance.decoys[PAIR], shares.everyone(found), measure)


def share(found, chance, measure=fdr.MATCHED) -> float:
    return fdr.share_found(both_sides(found, chance, measure))


def test_p_values_count_by_hand():
    p = p_values(np.array([0.95, 0.5, -1.0]), np.array([0.1, 0.5, 0.9, -1.0]))
    np.testing.assert_allclose(p, [1 / 5, 3 / 5, 1.0])
    np.testing.assert_allclose(p_values(np.array([0.5]), np.zeros(0)), [1.0])


def test_simes_over_other_runs_by_hand():
    p = np.array([[0.01, 0.5, 0.9], [0.04, 0.04, 0.04], [np.nan, 0.2, np.nan], [np.nan] * 3])
    np.testing.assert_allclose(fdr.simes(p), [0.03, 0.04, 0.2, np.nan])
    assert np.isnan(fdr.simes(np.zeros((2, 0)))).all()


@pytest.mark.parametrize("measure", [fdr.MATCHED, fdr.NEAREST], ids=lambda m: m.id)
@pytest.mark.parametrize("kind", ["k^-1", "k^-0.5", "rotated", "isotropic"])
def test_independent_dictionaries_are_at_chance(kind, measure):
    """A bare 0.7 rule calls most of the first ones shared; here nearly none has a match."""
    rng = np.random.default_rng(0)
    n, d = 400, 48
    if kind == "rotated":
        a = spectrum(n, d, 0.0, rng) + 0.3 * np.abs(rng.normal(size=(n, 1)))
        a, b = unit(a), unit(a) @ ortho_group.rvs(d, random_state=1)
    else:
        power = {"k^-1": 1.0, "k^-0.5": 0.5, "isotropic": 0.0}[kind]
        a, b = (spectrum(n, d, power, rng) for _ in range(2))
    found, drawn = compared(a, b)
    if kind == "k^-1":
        everyone = shares.everyone(found)
        assert shares.curve(found, shares.measures.SHARED, everyone)[70] > 0.8
    assert share(found, drawn, measure) <= 0.02
    assert fdr.null_shares(drawn.draws, drawn.decoys[PAIR], measure).mean() <= 0.02


def test_the_false_discovery_rate_is_held():
    """Over many independent pairs: how often anything at all is found is how often it is wrong."""
    rng = np.random.default_rng(1)
    wrong = [
        share(*compared(spectrum(60, 16, 0.5, rng), spectrum(60, 16, 0.5, rng), key=i)) > 0
        for i in range(80)
    ]
    # each side is one family of tests, a pair has two: up to 10 %, and three errors of sampling
    assert np.mean(wrong) <= 0.10 + 3 * np.sqrt(0.1 * 0.9 / 80)


def test_planted_latents_are_found_and_the_rest_are_not():
    rng = np.random.default_rng(2)
    n, d, planted = 300, 64, 120
    a = spectrum(n, d, 0.5, rng)
    b = spectrum(n, d, 0.5, rng)
    b[:planted] = unit(a[:planted] + 0.02 * rng.normal(size=(planted, d)))
    found, drawn = compared(a, b)
    for test in both_sides(found, drawn):
        hit = test.q <= fdr.LEVEL
        assert hit[:planted].mean() > 0.95
        assert hit[planted:].sum() / hit.sum() <= 0.08
    # a permuted copy and a dictionary against itself are found whole
    whole, drawn = compared(a, a[rng.permutation(n)])
    assert share(whole, drawn) == 1.0


def test_strata_keep_their_own_null_and_what_was_not_tested_is_null():
    rng = np.random.default_rng(3)
    a, b = spectrum(80, 24, 0.5, rng), spectrum(80, 24, 0.5, rng)
    b[:40] = a[:40]
    found, drawn = compared(a, b)
    live = np.arange(80) < 60
    strata = {
        "all": dict.fromkeys(PAIR, np.ones(80, dtype=bool)),
        "live": dict.fromkeys(PAIR, live),
        "dead": dict.fromkeys(PAIR, ~live),
        "rate1": dict.fromkeys(PAIR, np.arange(80) < 30),
    }
    nulls = {"all": drawn, "live": drawn}
    table = found_at_fdr([found], [found], nulls, strata)
    assert table["rate1"].value == 1.0
    assert table["live"].value == pytest.approx(40 / 60, abs=0.05)
    assert table["dead"].value <= 0.1
    assert table["all"].interval_95 is None  # one pair
    assert table["all"].null_covariance.mean <= 0.05
    rows = latent_tests([found], nulls, strata)
    assert rows.filter(pl.col("latent") < 30)["q_fdr"].max() <= 0.05
    assert set(rows.filter(pl.col("latent") >= 60)["null_id"]) == {"N2 all"}
    none = latent_tests([found], {"all": drawn}, strata)
    assert none.filter(pl.col("latent") < 60)["p_null"].null_count() == 120
    assert none["n_matched_fdr"].null_count() == 120
    assert found_at_fdr([found], [found], {}, strata) == {}
