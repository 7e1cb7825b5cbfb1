"""Intervals, nulls, families and counts against cases with known answers."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.matching.match import Views
from reseed.stability import shares
from reseed.stability.intervals import jackknife_over_pairs
from reseed.stability.notes import hidden_fvu
from reseed.stability.nulls import CovarianceNull
from reseed.stability.over_seeds.families import consistency, families, graph_of
from reseed.stability.proportions import wilson


def spectrum_rows(n: int, d: int, power: float, seed: int) -> np.ndarray:
    scale = np.arange(1, d + 1) ** -power
    rows = np.random.default_rng(seed).normal(size=(n, d)) * scale
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_jackknife_is_exact_for_a_sum_of_run_effects() -> None:
    """With value(i, j) = (e_i + e_j) / 2 the mean is that of e, with the error of a mean."""
    effects = dict(zip("abcdef", [0.1, 0.5, 0.2, 0.9, 0.4, 0.3], strict=True))
    pairs = list(combinations(effects, 2))
    values = np.array([(effects[i] + effects[j]) / 2 for i, j in pairs])
    mean, low, high = jackknife_over_pairs(pairs, values)
    e = np.array(list(effects.values()))
    error = e.std(ddof=1) / np.sqrt(len(e))
    assert mean == pytest.approx(e.mean())
    # leaving out one of n runs moves a mean over pairs as it moves the mean of the effects
    assert (high - low) / 2 == pytest.approx(2.5706 * error, rel=1e-3)


@pytest.mark.parametrize("runs", [3, 5, 8])
@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.97), (0.5, 0.98), (5.0, 1.0)])
def test_coverage_of_the_jackknife_over_runs(runs, noise, most) -> None:
    """Nominal 95 %: exact where runs differ, too wide (never too narrow) where only pairs do."""
    rng, names = np.random.default_rng(0), list("abcdefgh")[:runs]
    pairs = list(combinations(names, 2))
    studies = 4000
    effects = rng.normal(size=(studies, runs))
    values = np.stack(
        [(effects[:, i] + effects[:, j]) / 2 for i, j in combinations(range(runs), 2)]
    ) + noise * rng.normal(size=(len(pairs), studies))
    _, low, high = jackknife_over_pairs(pairs, values)
    assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= most


@pytest.mark.parametrize(
    ("init", "data", "run", "pair", "most"),
    [(1.0, 0.0, 0.0, 0.2, 0.97), (1.0, 1.0, 0.0, 0.2, 1.0), (0.0, 0.0, 1.0, 0.2, 1.0)],
    ids=["init", "both", "runs"],
)
def test_coverage_with_crossed_seeds(init, data, run, pair, most) -> None:
    """Runs that share a seed are dependent; leaving out runs alone would be far too narrow."""
    rng, studies = np.random.default_rng(1), 3000
    design = {f"{i}{d}": (i, d) for i in range(3) for d in range(3)}
    pairs = [
        (a, b)
        for a, b in combinations(design, 2)
        if design[a][0] != design[b][0] and design[a][1] != design[b][1]
    ]
    of_init, of_data = (s * rng.normal(size=(3, studies)) for s in (init, data))
    effect = {
        name: of_init[i] + of_data[d] + run * rng.normal(size=studies)
        for name, (i, d) in design.items()
    }
    values = np.stack([(effect[a] + effect[b]) / 2 for a, b in pairs])
    values += pair * rng.normal(size=values.shape)
    _, low, high = jackknife_over_pairs(pairs, values, design)
    assert 0.92 <= ((low <= 0) & (high >= 0)).mean() <= most
    if init and not data:
        _, low, high = jackknife_over_pairs(pairs, values)
        assert ((low <= 0) & (high >= 0)).mean() < 0.9


def test_crossed_seeds_of_two_levels_have_no_interval() -> None:
    design = {f"{i}{d}": (i, d) for i in range(2) for d in range(3)}
    pairs = [("00", "11"), ("01", "10"), ("00", "12"), ("02", "11")]
    mean, low, _ = jackknife_over_pairs(pairs, np.arange(4.0), design)
    assert mean == 1.5
    assert np.isnan(low)


def test_one_pair_has_no_interval() -> None:
    mean, low, high = jackknife_over_pairs([("a", "b")], np.array([0.4]))
    assert mean == 0.4
    assert np.isnan(low)
    assert np.isnan(high)


def test_wilson_knows_how_little_three_runs_tell() -> None:
    low, _ = wilson(np.array([2, 4, 9]) / 9, 9)
    assert wilson(np.array([1.0]), 2)[0][0] == pytest.approx(2 / (2 + 1.96**2), abs=1e-3)
    assert (np.diff(low) > 0).all()


@pytest.mark.parametrize(("power", "bare_rule_says"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.8)])
def test_the_covariance_null_explains_what_anisotropy_alone_gives(power, bare_rule_says) -> None:
    """Independent dictionaries: a bare 0.7 rule calls most of the anisotropic ones shared."""
    pair = ("a", "b")
    rows = {run: spectrum_rows(300, 40, power, seed) for seed, run in enumerate(pair)}
    views = {run: Views(r, r) for run, r in rows.items()}
    found = shares.PairTable(pair, shares.compare(*views.values()).table)
    draws = shares.draw_nulls(pair, {run: CovarianceNull(v) for run, v in views.items()}, 5)
    everyone = shares.everyone(found)
    observed = shares.curve(found, shares.measures.SHARED, everyone)
    null = shares.null_curves(draws, shares.measures.SHARED)
    assert observed[70] >= bare_rule_says
    assert abs(observed[70] - null[:, 70].mean()) < 0.06
    cosine = shares.mean_score(found, shares.measures.PW_MCC, everyone)
    assert cosine == pytest.approx(
        shares.null_means(draws, shares.measures.PW_MCC).mean(), abs=0.02
    )


def test_unit_rows_of_the_null_have_the_second_moments_of_the_real_ones() -> None:
    rng = np.random.default_rng(0)
    encoder = spectrum_rows(3000, 6, 1.0, 0) + 0.3
    decoder = encoder + 0.3 * rng.normal(size=encoder.shape)
    null = CovarianceNull(Views(encoder, decoder))
    drawn = null.draw("test")

    def moments(views: Views) -> np.ndarray:
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in views]
        both = np.concatenate(unit, axis=1)
        return both.T @ both / len(both)

    # the moments of each view are adjusted; those between the views follow from one Gaussian
    found, wanted = moments(drawn), moments(Views(encoder, decoder))
    for view in (slice(0, 6), slice(6, 12)):
        values, basis = np.linalg.eigh(wanted[view, view])
        np.testing.assert_allclose(np.diag(basis.T @ found[view, view] @ basis), values, atol=0.02)
    np.testing.assert_allclose(found, wanted, atol=0.08)
    np.testing.assert_array_equal(null.draw("test").decoder, drawn.decoder)
    assert not np.array_equal(null.draw("test", 1).decoder, drawn.decoder)


def test_a_zero_row_is_left_out_of_the_null() -> None:
    rows = spectrum_rows(50, 6, 0.5, 0)
    rows[3] = 0
    assert len(CovarianceNull(Views(rows, rows)).draw("x").decoder) == 49


def edges(*rows: tuple[str, int, str, int, float]) -> pl.DataFrame:
    names = ["run_a", "latent_a", "run_b", "latent_b", "similarity"]
    return pl.DataFrame(rows, schema=names, orient="row")


def members(found: pl.DataFrame) -> list[set[tuple[str, int]]]:
    return [
        {(run, latent) for run, latent in part.select("run", "latent").iter_rows()}
        for part in found.partition_by("family", maintain_order=True)
    ]


def test_families_by_hand() -> None:
    """A closed triangle, a lone pair, and a chain that contradicts itself."""
    found = edges(
        ("a", 0, "b", 0, 0.9), ("b", 0, "c", 0, 0.9), ("a", 0, "c", 0, 0.8),
        ("a", 1, "b", 1, 0.8),
        ("a", 2, "b", 2, 0.95), ("b", 2, "c", 2, 0.9), ("a", 3, "c", 2, 0.75),
    )  # fmt: skip
    assert members(families(found)) == [
        {("a", 0), ("b", 0), ("c", 0)},
        {("a", 2), ("b", 2), ("c", 2)},
        {("a", 1), ("b", 1)},
    ]
    # 3 chains of the triangle, all closed; a2-b2-c2 and b2-c2-a3, both open
    assert consistency(graph_of(found))[:2] == (5, 3)


def test_no_shared_pair_makes_no_family() -> None:
    assert families(edges(("a", 0, "b", 0, 0.9)).clear()).is_empty()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_families_never_hold_two_latents_of_a_run_and_forget_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (a, int(i), b, int(j), round(float(rng.random()), 1))
        for a, b in combinations("abcd", 2)
        for i, j in zip(range(5), rng.permutation(5), strict=True)
        if rng.random() < 0.6
    ]
    if not rows:
        return
    found = families(edges(*rows))
    for family in members(found):
        assert len({run for run, _ in family}) == len(family) >= 2
    shuffled = edges(*[rows[i] for i in rng.permutation(len(rows))])
    assert families(shuffled).equals(found)


@pytest.mark.parametrize(
    ("fvu", "robust", "noted"), [(0.008, 0.46, True), (0.43, 0.42, False), (0.010, 0.013, False)]
)
def test_where_far_rows_decide_the_fvu_it_is_said(fvu, robust, noted):
    fit = {"fvu": fvu, "fvu_robust": robust, "far_rows": 0.003, "far_variance": 0.99}
    sentences = hidden_fvu(fit)
    assert bool(sentences) == noted
    if noted:
        assert "0.30% of the rows" in sentences[0]
        assert "99% of the variance" in sentences[0]
    assert not hidden_fvu({**fit, "far_rows": 0.0})
