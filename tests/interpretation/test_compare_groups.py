"""Orphans against the rest, on scores whose truth is known."""

import numpy as np
import polars as pl
import pytest

from reseed.errors import SpecError
from reseed.interpretation.orphans import compare_groups
from reseed.interpretation.strata import latents_needed, partners, power_of, sample_latents

RUNS = ("r0", "r1", "r2")


def table(rng, latents=300, tilt=0.0):
    """Latents of three runs; with a tilt, orphans fire less often."""
    frames = []
    kind = rng.permuted(np.repeat([0, 1, 2], [latents // 3, latents // 3, latents // 3]))
    centre = rng.normal(-5, 1, latents)
    for place, run in enumerate(RUNS):
        n_matched = np.where(kind == 1, 1, kind)
        gone = (kind == 1) & (np.arange(latents) % 3 == place)  # found in the two other runs
        n_matched = np.where(gone, 0, n_matched)
        orphan = n_matched == 0
        rate = np.exp(np.where(orphan, rng.normal(-5 - tilt, 1, latents), centre))
        family = [None if o else i for i, o in enumerate(orphan.tolist())]
        frames.append(
            pl.DataFrame(
                {
                    "run": run,
                    "latent": np.arange(latents),
                    "alive": rng.random(latents) > 0.05,
                    "firing_rate": rate.clip(1e-6, 1),
                    "n_matched": n_matched,
                    "n_seeds": 3,
                    "family": pl.Series(family, dtype=pl.Int64),
                }
            )
        )
    return pl.concat(frames)


def scores(rng, chosen, gap=0.0, slope=0.0, sd=0.1):
    """A score of each latent: lower by `gap` if it is an orphan, higher if it fires more."""
    orphan = (chosen["n_matched"] == 0).to_numpy()
    rate = np.log(chosen["firing_rate"].to_numpy())
    value = 0.7 - gap * orphan + slope * (rate + 5) + rng.normal(0, sd, len(chosen))
    return chosen.select(
        "run", "latent", pl.lit("detection").alias("scorer"), pl.Series("value", value)
    )


def difference(found, contrast="orphan - rest"):
    return found.differences.row(by_predicate=pl.col("contrast") == contrast, named=True)


def test_power_is_what_simulated_t_tests_reach():
    rng = np.random.default_rng(0)
    n = latents_needed(0.08, 0.14)
    assert power_of(n, n, 0.08, 0.14) >= 0.8 > power_of(n - 1, n - 1, 0.08, 0.14)
    from scipy import stats

    a, b = rng.normal(0, 0.14, (4000, n)), rng.normal(0.08, 0.14, (4000, n))
    rejected = (stats.ttest_ind(a, b, axis=1).pvalue < 0.05).mean()
    assert rejected == pytest.approx(power_of(n, n, 0.08, 0.14), abs=0.02)


def test_power_of_many_latents_is_a_number_at_any_difference():
    power = [power_of(143, 143, difference, 0.14) for difference in (0.02, 0.1, 0.14, 0.3, 3.0)]
    assert all(np.diff(power) >= 0)
    assert power[-1] == pytest.approx(1)


def test_the_sample_is_even_over_rates_and_takes_no_family_twice():
    latents = table(np.random.default_rng(1), tilt=1.0)
    plan = sample_latents(latents, per_group=40, seed=3)
    chosen = plan.latents
    assert chosen["unit"].is_unique().all()
    by_cell = plan.cells.pivot(on="kind", index="stratum", values="sampled")
    assert (by_cell["orphan"] == by_cell["reproducible"]).all()
    assert by_cell["orphan"].sum() == 40
    assert chosen.join(latents.filter(~pl.col("alive")), on=["run", "latent"]).height == 0
    again = sample_latents(latents, per_group=40, seed=3)
    assert again.latents.equals(chosen)
    assert not sample_latents(latents, per_group=40, seed=4).latents.equals(chosen)
    assert "power" in plan.says


def test_partners_are_of_the_same_family_and_another_run():
    latents = table(np.random.default_rng(1))
    plan = sample_latents(latents, per_group=20)
    others = partners(plan, latents)
    both = plan.latents.join(others, on="family", how="inner", suffix="_other")
    assert both.height == others.height > 30
    assert (both["run"] != both["run_other"]).all()
    assert others["family"].null_count() == 0
    assert others.join(plan.latents, on=["run", "latent"]).height == 0
    assert partners(plan, latents).equals(others)


def test_rows_in_another_order_give_the_same_sample():
    latents = table(np.random.default_rng(1))
    shuffled = latents.sample(fraction=1, shuffle=True, seed=0)
    assert sample_latents(latents, 20).latents.equals(sample_latents(shuffled, 20).latents)


def test_the_default_size_is_by_power_and_too_few_are_said():
    latents = table(np.random.default_rng(2), latents=600)
    plan = sample_latents(latents)
    assert plan.wanted == latents_needed(0.08, 0.14)
    assert plan.power >= 0.8
    assert plan.detectable <= 0.08
    few = sample_latents(latents.filter(pl.col("latent") < 60))
    assert few.power < 0.8
    assert "wanted" in few.says


def test_a_known_difference_is_covered_and_none_gives_zero():
    rng = np.random.default_rng(3)
    latents = table(rng, latents=300, tilt=0.7)
    for gap in (0.08, 0.0):
        covered, reached = 0, []
        for draw in range(80):
            chosen = sample_latents(latents, per_group=40, seed=draw).latents
            found = difference(compare_groups(scores(rng, chosen, gap), latents)[0])
            covered += found["matched_lo"] <= -gap <= found["matched_hi"]
            reached.append(found["matched"])
        assert covered >= 0.87 * 80  # 95 % give or take three standard errors
        assert np.mean(reached) == pytest.approx(-gap, abs=0.007)


def test_planted_confounding_shows_unadjusted_and_not_matched():
    rng = np.random.default_rng(4)
    latents = table(rng, latents=300, tilt=1.0)
    every = scores(rng, latents.filter("alive"), gap=0.0, slope=0.05)
    found = difference(compare_groups(every, latents)[0])
    assert found["unadjusted_hi"] < 0
    assert found["matched_lo"] <= 0 <= found["matched_hi"]
    covered = 0
    for draw in range(60):
        chosen = sample_latents(latents, per_group=40, seed=draw).latents
        one = difference(compare_groups(scores(rng, chosen, slope=0.05), latents)[0])
        covered += one["matched_lo"] <= 0 <= one["matched_hi"]
    assert covered >= 52


def test_an_uneven_sample_is_weighted_back():
    """Without weights the mean over the even sample would be another number."""
    rng = np.random.default_rng(5)
    latents = table(rng, latents=300, tilt=1.5)
    live = latents.filter("alive")
    truth = scores(np.random.default_rng(0), live, slope=0.1, sd=0.0)
    orphan = live["n_matched"].to_numpy() == 0
    wanted = truth["value"].to_numpy()[orphan].mean() - truth["value"].to_numpy()[~orphan].mean()
    reached = []
    for draw in range(40):
        chosen = sample_latents(latents, per_group=40, seed=draw).latents
        found = compare_groups(scores(rng, chosen, slope=0.1, sd=0.0), latents)[0]
        reached.append(difference(found)["unadjusted"])
    assert np.mean(reached) == pytest.approx(wanted, abs=0.01)


def test_failures_are_counted_and_in_no_mean():
    rng = np.random.default_rng(6)
    latents = table(rng)
    chosen = sample_latents(latents, per_group=30).latents
    table_of = scores(rng, chosen, gap=0.1)
    broken = table_of.with_columns(
        pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise("value").alias("value")
    )
    whole, found = (compare_groups(one, latents)[0] for one in (table_of, broken))
    assert found.kinds["failed"].sum() == broken["value"].null_count()
    assert (found.kinds["scored"] + found.kinds["failed"]).to_list() == whole.kinds[
        "scored"
    ].to_list()
    assert found.counts["scored"].sum() == found.kinds["scored"].sum()
    assert "have no score" in found.says
    assert whole.counts["found"].to_list() == [1, 2, 3]


def test_repeated_scores_of_one_family_do_not_make_it_surer():
    rng = np.random.default_rng(7)
    latents = table(rng)
    chosen = sample_latents(latents, per_group=30).latents
    one = scores(rng, chosen)
    twice = pl.concat([one, one])
    first, second = (difference(compare_groups(s, latents)[0]) for s in (one, twice))
    assert first == second


def test_only_one_side_or_no_overlap_is_said():
    rng = np.random.default_rng(8)
    latents = table(rng)
    chosen = latents.filter(pl.col("alive") & (pl.col("n_matched") == 0))
    found = compare_groups(scores(rng, chosen), latents)[0]
    assert difference(found)["unadjusted"] is None
    assert "cannot be compared" in found.says


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("firing_rate"), "lacks firing_rate"),
        (lambda t: t.with_columns(pl.lit(1).alias("n_seeds")), "one independent run"),
        (lambda t: t.with_columns(pl.lit(False).alias("alive")), "none of the 900 latents fires"),
        (
            lambda t: t.with_columns((pl.col("latent") % 2).cast(pl.String).alias("group")),
            "several groups",
        ),
    ],
)  # fmt: skip
def test_bad_tables_are_refused(change, message):
    latents = table(np.random.default_rng(9))
    with pytest.raises(SpecError, match=message):
        sample_latents(change(latents))


@pytest.mark.parametrize("wrong", [{"sd": 0}, {"difference": -1}, {"power": 2}])
def test_numbers_that_no_power_is_of_are_refused(wrong):
    with pytest.raises(SpecError, match="the first two must be above 0"):
        sample_latents(table(np.random.default_rng(9)), 5, **wrong)


def test_scores_of_other_latents_are_refused():
    latents = table(np.random.default_rng(9))
    foreign = scores(np.random.default_rng(0), latents).with_columns(pl.lit("x").alias("run"))
    with pytest.raises(SpecError, match="same study"):
        compare_groups(foreign, latents)


@pytest.mark.parametrize(("scorer", "ends"), [("detection", (0, 1)), ("simulation", (-1, 1))])
def test_no_interval_of_a_share_lies_outside_what_a_share_can_be(scorer, ends):
    """Two latents of a kind: Student's quantile is 12.7."""
    latents = table(np.random.default_rng(9))
    chosen = sample_latents(latents, per_group=2).latents
    value = pl.Series("value", np.linspace(0.55, 0.95, len(chosen)))
    every = chosen.select("run", "latent", pl.lit(scorer).alias("scorer"), value)
    found = compare_groups(every, latents)[0]
    for frame in (found.kinds, found.counts):
        known = frame.drop_nulls(["mean", "lo", "hi"])
        assert (known["lo"] >= ends[0]).all()
        assert (known["hi"] <= ends[1]).all()
        assert (known["hi"] == 1).any()
    widest = ends[1] - ends[0]
    assert found.differences["unadjusted_lo"].drop_nulls().min() >= -widest
    free = every.with_columns(pl.lit("intervention").alias("scorer"))  # nats have no such ends
    assert compare_groups(free, latents)[0].kinds["hi"].drop_nulls().max() > 1
