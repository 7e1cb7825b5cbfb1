"""Predicting reproducibility where the truth is planted: skill is found if and only if it is there.

A world has G features; run r finds feature g with probability p_g, and has a latent for each
feature it finds. The columns of a latent are its feature's, with a little noise of its own.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from reseed.errors import SpecError
from reseed.prediction.features import (
    FEATURES,
    Labelled,
    arrays,
    features_of,
    fit_both,
    own_p95,
)
from reseed.prediction.predict import predict_groups
from reseed.prediction.skill import (
    METRICS,
    brier,
    held_out,
    log_loss,
    pair_scores,
    reliability,
    skill,
)
from reseed.stability.intervals import auroc


def world(seed: int, *, runs: int = 4, features: int = 120, effect: float = 0.0) -> Labelled:
    """`effect`: how much the logit of p_g rises with the deviation of enc_dec_cos."""
    rng = np.random.default_rng(seed)
    z, own, *others = (rng.normal(size=features) for _ in range(5))
    finds = rng.random((features, runs)) < expit(0.3 + z + effect * own)[:, None]
    latents, place = [], np.full((features, runs), -1)
    for run in range(runs):
        here = np.flatnonzero(finds[:, run])
        place[here, run] = np.arange(len(here))

        def noisy(x, here=here):
            return x[here] + 0.05 * rng.normal(size=len(here))

        latents.append(
            pl.DataFrame(
                {
                    "run": [f"r{run}"] * len(here),
                    "latent": np.arange(len(here)),
                    "alive": True,
                    "firing_rate": np.exp(noisy(z) - 5),
                    "mean_act": np.exp(noisy(others[0])),
                    "max_act": np.exp(noisy(others[0]) + 2),
                    "enc_dec_cos": noisy(own),
                    "init_cos": noisy(others[1]),
                    "own_max_cos": noisy(others[2]),
                }
            )
        )
    edges = [
        (f"r{a}", int(place[g, a]), f"r{b}", int(place[g, b]))
        for a in range(runs)
        for b in range(a + 1, runs)
        for g in np.flatnonzero(finds[:, a] & finds[:, b])
    ]
    ends = ["run_a", "latent_a", "run_b", "latent_b"]
    return Labelled("toy", pl.concat(latents), pl.DataFrame(edges, schema=ends, orient="row"))


def judged(one: Labelled) -> dict:
    group = arrays(one, features_of([one]))
    table = skill(pair_scores([group], held_out([group])))
    return table.row(by_predicate=pl.col("metric") == "log_loss", named=True)


def test_no_skill_is_found_where_frequency_says_all() -> None:
    found = [judged(world(seed, runs=3, features=80)) for seed in range(25)]
    assert sum(one["lo"] > 0 for one in found) <= 1
    assert sum(one["lo"] <= 0 <= one["hi"] for one in found) >= 22


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5])
def test_false_skill_is_rarer_than_the_level(runs) -> None:
    """Skill is said where the interval lies above 0: at most 2.5 % of the time, and so it is."""
    found = [judged(world(seed, runs=runs)) for seed in range(100)]
    assert sum(one["lo"] > 0 for one in found) <= 4
    assert np.mean([one["gain"] for one in found]) < 0


@pytest.mark.slow
def test_holding_out_runs_alone_finds_skill_that_is_not_there() -> None:
    """Why latents are divided by feature too: one feature's finds label its latents in all runs."""

    def by_runs_alone(one: Labelled) -> dict:
        group = arrays(one, features_of([one]))
        out = np.empty((len(group.rows), 2))
        for run in range(len(group.runs)):
            models = fit_both([group], [(0, run)])
            mine = group.run == run
            for i, model in enumerate(models):
                out[mine, i] = model.probability(group.rows[mine])
        table = skill(pair_scores([group], [out]))
        return table.row(by_predicate=pl.col("metric") == "log_loss", named=True)

    found = [by_runs_alone(world(seed, runs=9, features=200)) for seed in range(20)]
    assert sum(one["lo"] > 0 for one in found) >= 7


def counted(seed: int, median: float, *, jagged: bool = False) -> Labelled:
    """Frequency decides alone, but is known by few firings; other columns follow the true rate."""
    rng = np.random.default_rng(seed)
    z, tokens, runs = rng.normal(size=200), 20_000, 4
    chance = expit(2 * np.sin(6 * z) if jagged else 0.3 + 1.5 * z)
    finds = rng.random((200, runs)) < chance[:, None]
    latents = []
    for run in range(runs):
        here = np.flatnonzero(finds[:, run])
        fired = rng.poisson(median * np.exp(z[here]))
        follows = [np.exp(z[here] + 0.1 * rng.normal(size=len(here))) for _ in range(3)]
        columns = {"fired": fired, "firing_rate": fired / tokens, "alive": fired > 0}
        columns |= {"mean_act": follows[0], "max_act": 3 * follows[1], "init_cos": follows[2]}
        columns |= {name: rng.normal(size=len(here)) for name in ("enc_dec_cos", "own_max_cos")}
        names = {"run": [f"r{run}"] * len(here), "latent": here}
        latents.append(pl.DataFrame(names | columns))
    edges = [
        (f"r{a}", int(g), f"r{b}", int(g))
        for a in range(runs)
        for b in range(a + 1, runs)
        for g in np.flatnonzero(finds[:, a] & finds[:, b])
    ]
    ends = ["run_a", "latent_a", "run_b", "latent_b"]
    return Labelled("toy", pl.concat(latents), pl.DataFrame(edges, schema=ends, orient="row"))


def test_where_rates_are_known_by_few_firings_no_verdict_is_given() -> None:
    """Whatever follows the true rate says more about it than three firings; that is no skill."""
    found = predict_groups([counted(0, 3.0)])
    assert found.beyond_frequency is None
    assert found.says.startswith("Withheld")
    assert found.latents["probability"].equals(found.latents["frequency"].rename("probability"))


def test_firings_are_read_off_the_rates_where_they_are_not_given() -> None:
    one = counted(0, 20.0)
    bare = one._replace(latents=one.latents.drop("fired"))
    told, read = (arrays(each, features_of([each])).firings for each in (one, bare))
    np.testing.assert_allclose(told, read)


@pytest.mark.slow
@pytest.mark.parametrize(("median", "jagged"), [(10.0, False), (32.0, False), (200.0, True)])
def test_columns_that_follow_the_true_rate_are_no_skill(median, jagged) -> None:
    every = [predict_groups([counted(seed, median, jagged=jagged)]) for seed in range(8)]
    assert not any(each.beyond_frequency for each in every)


def test_skill_is_found_where_the_encoder_says_more() -> None:
    one = world(0, runs=6, features=300, effect=1.5)
    found = predict_groups([one])
    assert found.beyond_frequency is True
    assert found.says.startswith("Skill beyond frequency")
    table = {row["metric"]: row for row in found.skill.iter_rows(named=True)}
    assert all(table[metric]["lo"] > 0 for metric in METRICS)
    assert table["auroc"]["full"] > table["auroc"]["frequency"] + 0.05
    assert found.latents["probability"].equals(found.latents["full"].rename("probability"))
    each = dict(found.each.select("feature", "lo").iter_rows())
    assert set(each) == set(found.features) - {"firing_rate"}
    assert [name for name, low in each.items() if low > 0] == ["enc_dec_cos"]
    off = (found.reliability["predicted"] - found.reliability["observed"]).abs()
    assert off.mean() < 0.06
    inside = found.reliability.filter(pl.col("predicted").is_between("lo", "hi"))
    assert len(inside) >= 7


def test_without_skill_the_probabilities_are_those_by_frequency() -> None:
    found = predict_groups([world(3, runs=4)])
    assert found.beyond_frequency is False
    assert found.says.startswith("No skill beyond frequency is shown")
    assert found.latents["probability"].equals(found.latents["frequency"].rename("probability"))


# -- nothing leaks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group():
    one = world(1, effect=1.0)
    return arrays(one, features_of([one]))


def test_labels_are_matches_with_the_runs_allowed(group) -> None:
    one = world(1, effect=1.0)
    shared = {
        ((a, i), b) for a, i, b, _ in one.edges.iter_rows()
    } | {((b, j), a) for a, _, b, j in one.edges.iter_rows()}  # fmt: skip
    among = np.array([True, False, True, True])
    keep = group.run != 1
    found, trials = group.labels(keep, among)
    allowed = [run for run, use in zip(group.runs, among, strict=True) if use]
    for row, n, m in zip(group.key.filter(pl.Series(keep)).iter_rows(), found, trials, strict=True):
        _, run, latent = row
        assert n == sum(((run, latent), other) in shared for other in allowed)
        assert m == len([other for other in allowed if other != run])


def test_what_a_run_finds_does_not_reach_its_own_prediction(group) -> None:
    before = held_out([group])[0]
    for run in range(len(group.runs)):
        mine = group.run == run
        # the worst liar: found exactly where a column is high
        lie = group.found.copy()
        lie[:, run] = ~mine & (group.rows[:, 3] > 0)
        lie[mine] = (group.rows[mine, 3] > 0)[:, None] & (np.arange(len(group.runs)) != run)
        after = held_out([replace(group, found=lie)])[0]
        np.testing.assert_array_equal(after[mine], before[mine])
        assert not np.array_equal(after[~mine], before[~mine])


def test_who_finds_a_feature_does_not_reach_its_own_prediction(group) -> None:
    before = held_out([group])[0]
    largest = np.bincount(group.feature).argmax()
    mine = group.feature == largest
    assert mine.sum() > 1
    lie = group.found.copy()
    lie[mine] = False
    after = held_out([replace(group, found=lie)])[0]
    np.testing.assert_array_equal(after[mine], before[mine])
    assert not np.array_equal(after[~mine], before[~mine])


def test_other_runs_are_not_among_what_is_read() -> None:
    single = {"firing_rate", "mean_act", "max_act", "enc_dec_cos", "init_cos", "own_max_cos",
              "own_p95_cos"}  # fmt: skip
    assert {name for value in FEATURES.values() for name in value.meta.root_names()} == single


# -- applied elsewhere -----------------------------------------------------------------------------


def test_a_model_is_good_where_the_same_law_holds() -> None:
    train, there = world(0, runs=5, features=300, effect=1.5), world(9, features=300, effect=1.5)
    found = predict_groups([train], there.latents, [there])
    assert found.transfer is not None
    gain = found.transfer.row(by_predicate=pl.col("metric") == "log_loss", named=True)
    assert gain["gain"] > 0.02
    live = found.latents
    assert live.select("run", "latent").equals(there.latents.select("run", "latent"))
    assert (live["hi"] - live["lo"]).min() > 0


def test_groups_are_pooled_and_dead_latents_get_nothing() -> None:
    one, two = world(0), world(1)._replace(name="other")
    dead = one.latents.with_columns(alive=pl.col("latent") > 0, mean_act=pl.lit(0.0))
    dead = dead.with_columns(mean_act=pl.when("alive").then(1.0).otherwise(0.0))
    edges = one.edges.filter((pl.col("latent_a") > 0) & (pl.col("latent_b") > 0))
    found = predict_groups([Labelled("toy", dead, edges), two])
    assert found.runs == 8
    assert len(found.latents) == len(one.latents) + len(two.latents)
    toy = found.latents.filter(group="toy")
    assert toy.filter(latent=0)["probability"].null_count() == 4
    assert toy.filter(pl.col("latent") > 0)["probability"].null_count() == 0


def test_three_runs_are_the_fewest() -> None:
    with pytest.raises(SpecError, match="2 runs"):
        predict_groups([world(0, runs=2)])
    found = predict_groups([world(0, runs=3)])
    assert found.skill["lo"].null_count() == 0
    dead = world(0).latents.with_columns(alive=False)
    with pytest.raises(SpecError, match="no latent fires"):
        predict_groups([world(0)._replace(latents=dead)])


def test_only_independent_runs_are_occasions_of_being_found() -> None:
    """Latents that never leave their start: all runs of one init find them, no other run does."""
    one = world(0, runs=9, features=60)
    design = {f"r{n}": (n // 3, n % 3) for n in range(9)}
    alike = [edge for edge in one.edges.iter_rows() if design[edge[0]][0] == design[edge[2]][0]]
    edges = pl.DataFrame(alike, schema=one.edges.schema, orient="row")
    crossed = one._replace(edges=edges, design=design)
    found = predict_groups([crossed], crossed.latents)
    assert found.latents["probability"].max() < 0.01
    assert found.latents["lo"].null_count() == 0
    assert found.reliability["trials"].sum() == 4 * len(one.latents)
    assert found.reliability["observed"].max() == 0
    assert found.skill.filter(metric="log_loss")["pairs"].item() == 18


def test_a_small_group_beside_a_large_one_is_predicted_by_it() -> None:
    found = predict_groups([world(0), world(1, runs=2)._replace(name="pair")])
    assert found.latents.filter(group="pair")["probability"].null_count() == 0


def test_damaged_tables_are_refused() -> None:
    one = world(0)
    dead = one.latents.with_columns(alive=False)
    for table in (dead, one.latents.clear(), one.latents.drop("alive")):
        with pytest.raises(SpecError, match="none that its column `alive` says to fire"):
            predict_groups([one], table)
    nan = pl.when(pl.col("latent") == 3).then(float("nan")).otherwise("init_cos")
    with pytest.raises(SpecError, match="init_cos of 4 of"):
        predict_groups([one._replace(latents=one.latents.with_columns(nan.alias("init_cos")))])
    with pytest.raises(SpecError, match="a match names a latent"):
        predict_groups([one._replace(latents=one.latents.filter(pl.col("latent") != 3))])
    with pytest.raises(SpecError, match="at least one of"):
        features_of([one], one.latents.select("alive", "firing_rate"))


# -- parts -----------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    p, found = np.array([0.8, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    assert log_loss(p, found) == pytest.approx(-np.log([0.8, 0.4, 0.6, 0.9]).mean())
    assert brier(p, found) == pytest.approx((0.04 + 0.36 + 0.16 + 0.01) / 4)
    assert auroc(p, found) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert np.isnan(auroc(p, np.ones(4, bool)))
    assert np.isfinite(log_loss(np.array([0.0, 1.0]), np.array([True, False])))


def test_true_probabilities_are_reliable(group) -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, len(group.rows))
    runs = np.arange(len(group.runs))
    found = (rng.random(group.found.shape) < p[:, None]) & (group.run[:, None] != runs)
    table = reliability([replace(group, found=found)], [p])
    assert table["trials"].sum() == len(p) * (len(runs) - 1)
    assert len(table) == 10
    assert (table["predicted"] - table["observed"]).abs().max() < 0.12
    assert (table["lo"] <= table["observed"]).all()
    empty = reliability([group], [np.full(len(p), np.nan)])
    assert empty.is_empty()
    assert empty.columns == table.columns


def test_p95_is_that_of_the_cosines_to_the_others() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    rows[7] = 0
    found = own_p95(rows, "a")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(lengths > 0, lengths, 1)
    for i, value in enumerate(found["own_p95_cos"]):
        others = np.delete(unit @ unit[i], i)
        assert (value is None) if i == 7 else value == pytest.approx(np.quantile(others, 0.95))
    wide = np.random.default_rng(1).normal(size=(1500, 8)).astype(np.float32)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    exact = np.quantile(unit @ unit.T, 0.95, axis=1)
    assert np.abs(own_p95(wide, "a")["own_p95_cos"].to_numpy() - exact).mean() < 0.03
    assert own_p95(wide[:1], "a")["own_p95_cos"].to_list() == [None]
