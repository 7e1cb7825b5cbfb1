"""What random latents reach at best: exact by hand, and a test that is level where rows are odd."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import ortho_group

from reseed.calibration.nulls_check import DISTRIBUTIONS, check_nulls
from reseed.matching.blocks.nearest import raise_best
from reseed.matching.match import Views, compare
from reseed.matching.measures import LOWEST, MAX_COS_BOTH, SHARED, scores
from reseed.seeds import generator
from reseed.stability import fdr, shares
from reseed.stability.decoys import (
    OWN,
    TRUSTED,
    Best,
    Decoys,
    decoys,
    decoys_in_group,
    reached,
)
from reseed.stability.nulls import AXES, GAUSSIAN, RAW, CovarianceNull, Mirrored, principal_axes
from reseed.stability.summary import found_at_fdr

PAIR = ("a", "b")


def drawn(name: str, count: int, seed: int, dimensions: int = 48) -> np.ndarray:
    own, shared = (np.random.default_rng(key) for key in ([seed, count], [99, dimensions]))
    rows = DISTRIBUTIONS[name](count, dimensions, own, shared)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def null_of(rows: np.ndarray) -> CovarianceNull:
    return CovarianceNull(Views(rows, rows))


def test_p_values_take_the_side_the_measure_and_the_heaviest_kind():
    def best(both, each):
        return Best(np.array(both), np.array(each))

    null = Decoys(
        sides=(
            {GAUSSIAN: best([0.1, 0.2, 0.3], [0.9] * 3), RAW: best([0.1, 0.6, 0.7], [0.1] * 3)},
            {GAUSSIAN: best([0.9, 0.9, 0.9], [0.0] * 3)},
        ),
        itself=(0.0, 0.0),
    )
    np.testing.assert_allclose(null.p_values("a", np.array([0.5, 0.15]), SHARED), [3 / 4, 3 / 4])
    np.testing.assert_allclose(null.p_values("b", np.array([0.5]), SHARED), [1.0])
    np.testing.assert_allclose(null.p_values("a", np.array([0.5]), MAX_COS_BOTH), [1.0])
    np.testing.assert_allclose(null.p_values("b", np.array([0.5]), MAX_COS_BOTH), [1 / 4])


def test_mirrored_rows_keep_sizes_and_what_ties_encoder_to_decoder():
    rng = np.random.default_rng(0)
    decoder = rng.normal(size=(50, 8))
    null = CovarianceNull(Views(decoder + 0.1 * rng.normal(size=decoder.shape), decoder))
    encoder_rows, decoder_rows = Mirrored(null).draw("x")
    np.testing.assert_allclose(np.abs(decoder_rows), np.abs(null.rows[1]))
    assert (np.sign(decoder_rows) != np.sign(null.rows[1])).mean() > 0.3
    both = (encoder_rows * decoder_rows).sum(axis=1)
    np.testing.assert_allclose(both, (null.rows[0] * null.rows[1]).sum(axis=1), atol=1e-6)
    # along other axes lengths stay, and drawing gives the rows back in their own coordinates
    other = CovarianceNull(Views(rng.normal(size=(40, 8)), rng.normal(size=(40, 8))))
    turned = Mirrored(null, principal_axes([other])).draw("x")
    np.testing.assert_allclose(np.linalg.norm(turned.decoder, axis=1), 1.0, atol=1e-5)
    # a coordinate of one sign keeps it
    same = Mirrored(null_of(np.abs(decoder))).take(np.arange(50), generator("test"))
    assert (same[0] > 0).all()


def test_decoys_of_a_side_have_as_many_candidates_as_it_really_has():
    """The mean best of 64 isotropic rows among 1,024 others, and of 1,024 among 64."""
    a, b = drawn("Gaussian", 64, 1), drawn("Gaussian", 1024, 2)
    null = decoys(null_of(a), null_of(b))
    real = a @ b.T
    for kinds, best in zip(null.sides, (real.max(axis=1), real.max(axis=0)), strict=True):
        assert {name.split(" of ")[0].rstrip(",") for name in kinds} == {GAUSSIAN, RAW, AXES}
        for kind in kinds.values():
            assert kind.both.mean() == pytest.approx(best.mean(), abs=0.02)
            assert len(kind.both) >= 1024


def test_a_narrow_side_does_not_turn_the_wide_one_out_of_its_common_direction():
    """Along the axes of 64 rows the most alike of 1,024 decoys came out .024 below real rows."""
    a, b = (drawn("log-normal along one", count, 5) for count in (64, 1024))
    decoy = decoys(null_of(a), null_of(b)).sides[0][f"{AXES}, of B"].both
    others = b @ b.T
    np.fill_diagonal(others, -1.0)
    top = np.quantile(others.max(axis=1), 0.998)
    assert np.quantile(decoy, 0.998) == pytest.approx(top, abs=0.012)


def test_a_row_of_the_wide_side_is_a_decoy_once_for_the_narrow_one():
    """Drawn again and again its p would fall below what 512 rows can tell."""
    a, b = (drawn("log-normal along one", count, 5) for count in (32, 512))
    narrow, wide = decoys(null_of(a), null_of(b)).sides
    assert {name: len(best.both) for name, best in narrow.items() if name.endswith("of B")} == {
        f"{RAW}, of B": 512,
        f"{AXES}, of B": 512,
    }
    assert min(len(best.both) for best in wide.values()) >= 2000


def test_what_queries_reach_is_that_of_all_similarities_whatever_the_blocks():
    rng = np.random.default_rng(0)
    queries, candidates = ([rng.normal(size=(n, 6)) for _ in range(2)] for n in (1_100, 40))
    all_of = [x @ y.T for x, y in zip(queries, candidates, strict=True)]
    owner = np.arange(40) * 27 - 5  # the first has none among the queries
    owner[0] = -1
    for block in all_of:
        block[owner[1:], np.arange(1, 40)] = -1.0
    both, each = np.full(1_100, -1.0, np.float32), np.full((2, 1_100), -1.0, np.float32)
    for part in (slice(0, 13), slice(13, 40)):
        given = [kind[part].astype(np.float32) for kind in candidates]
        asked = [kind.astype(np.float32) for kind in queries]
        raise_best(both, each, asked, given, owner[part])
    np.testing.assert_allclose(both, np.minimum(*all_of).max(axis=1).clip(-1), atol=1e-5)
    np.testing.assert_allclose(each, [block.max(axis=1).clip(-1) for block in all_of], atol=1e-5)


def test_two_runs_of_a_group_have_the_decoys_of_a_pair():
    runs = {"a": null_of(drawn("3 coordinates", 90, 1)), "b": null_of(drawn("Gaussian", 70, 2))}
    alone = decoys(runs["a"], runs["b"], "key")
    grouped = decoys_in_group(runs, [PAIR], "key")[PAIR]
    assert alone.itself == grouped.itself
    for one, other in zip(alone.sides, grouped.sides, strict=True):
        assert list(one) == list(other)
        for kind, best in one.items():
            np.testing.assert_array_equal(best, other[kind])


def test_decoys_of_a_run_reach_what_they_would_beside_each_other_run_alone():
    """One pass tells the best among as many candidates as each of the others has."""
    counts = {"a": 300, "b": 260, "c": 40}
    runs = {run: null_of(drawn("Student 3", n, at)) for at, (run, n) in enumerate(counts.items())}
    own, *others = runs.values()
    best = reached(own, others, "a").best
    for kind, by_count in best.items():
        assert sorted(by_count) == ([] if kind == OWN else [40, 260, 300])
    for kind in (GAUSSIAN, RAW, AXES):
        few, more, most = (best[kind][count].both for count in (40, 260, 300))
        assert (few <= more).all()
        assert (more <= most).all()
    grouped = decoys_in_group(runs, [("a", "b"), ("a", "c"), ("b", "c")])
    for (a, b), null in grouped.items():
        alone = decoys(runs[a], runs[b])
        for one, other in zip(null.sides, alone.sides, strict=True):
            assert {kind: len(best.both) for kind, best in one.items()} == {
                kind: len(best.both) for kind, best in other.items()
            }
            for kind, reach in one.items():
                assert np.quantile(reach.both, 0.95) == pytest.approx(
                    np.quantile(other[kind].both, 0.95), abs=0.05
                )


@pytest.mark.parametrize("name", ["8 coordinates", "Gaussian, k^-1/2", "log-normal along one"])
def test_a_group_of_runs_keeps_the_level_and_the_power(name):
    """60 rows are in all runs, the others in one; numbers of latents differ."""
    shared = drawn(name, 60, 0)
    runs = {
        run: np.concatenate([shared, drawn(name, count - 60, 10 + at)])
        for at, (run, count) in enumerate({"a": 240, "b": 250, "c": 230}.items())
    }
    noisy = {
        run: Views(rows + 0.05 * np.random.default_rng(at).normal(size=rows.shape), rows)
        for at, (run, rows) in enumerate(runs.items())
    }
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    nulls = decoys_in_group({run: CovarianceNull(views) for run, views in noisy.items()}, pairs)
    for a, b in pairs:
        pair = shares.PairTable((a, b), compare(noisy[a], noisy[b]).table)
        for test in fdr.examine(pair, nulls[a, b], shares.everyone(pair)):
            found = test.q <= fdr.LEVEL
            assert found[60:].sum() <= max(2, 0.1 * found.sum())
            assert name == "log-normal along one" or found[:60].mean() > 0.9


@pytest.mark.parametrize("encoder", ["tied", "noisy"])
def test_nothing_is_found_among_independent_rows_however_odd(encoder):
    """By a Gaussian null 10 to 65 % are, of the odd ones with tied encoders."""
    table = check_nulls(
        distributions=("8 coordinates", "Student 2", "log-normal along one", "one in ten massive"),
        encoders=(encoder,), widths=((256, 256),), planted=((0, 0),), repeats=2,
    )  # fmt: skip
    assert table["fdr"].max() <= 0.5  # pairs in which anything is found, of two
    assert table["found"].max() <= 0.01
    assert table["small_p"].max() <= 0.1


def test_unequal_widths_keep_the_level_and_the_power():
    """Held against a null pooled over both sides every latent of the narrow one is found."""
    table = check_nulls(
        distributions=("Gaussian", "3 coordinates"), encoders=("tied",),
        widths=((64, 1024),), planted=((0, 0), (0.25, 0.9)), repeats=2,
    )  # fmt: skip
    alone, planted = (table.filter(planted=share) for share in (0.0, 0.25))
    assert alone["found"].max() <= 0.02
    assert planted["fdr"].mean() <= 0.05
    assert planted.filter(distribution="Gaussian")["power"].item() == 1.0


def test_leftovers_are_not_found_because_they_have_each_other():
    """Half is planted at .5, encoders are untied: two assignments of few agree by chance."""
    table = check_nulls(
        distributions=("Gaussian, k^-1/2",), encoders=("untied",), widths=((300, 300),),
        planted=((0.5, 0.6),), repeats=3,
    )  # fmt: skip
    assert table["fdr"].item() <= 0.025


def test_rows_that_are_odd_in_no_axes_say_so_and_are_held_against_their_own():
    turn = ortho_group.rvs(48, random_state=0)
    a, b = (drawn("3 coordinates", 200, seed) @ turn for seed in (1, 2))
    null = decoys(null_of(a), null_of(b))
    assert min(null.itself) > 0.1
    assert any(name.startswith(OWN) for name in null.sides[0])
    pair = shares.PairTable(PAIR, compare(Views(a, a), Views(b, b)).table)
    assert fdr.share_found(fdr.examine(pair, null, shares.everyone(pair))) <= 0.01
    plain = decoys(null_of(a @ turn.T), null_of(b @ turn.T))
    assert max(plain.itself) <= TRUSTED


def test_chance_of_shares_is_that_of_mirrored_rows_where_gaussian_ones_reach_tau_less():
    a, b = (drawn("3 coordinates", 200, seed) for seed in (1, 2))
    nulls = {"a": null_of(a), "b": null_of(b)}
    kind = decoys(nulls["a"], nulls["b"]).heaviest(0.7)
    assert kind == RAW
    pair = shares.PairTable(PAIR, compare(Views(a, a), Views(b, b)).table)
    everyone = shares.everyone(pair)
    share = shares.share_of(pair, SHARED, everyone, 0.7)
    chance = {
        kind: shares.null_curves(shares.draw_nulls(PAIR, nulls, 2, kind), SHARED)[:, 70].mean()
        for kind in (GAUSSIAN, RAW)
    }
    assert share > 0.08
    assert chance[GAUSSIAN] < 0.02
    assert chance[RAW] == pytest.approx(share, abs=0.04)
    gaussian = [null_of(drawn("Gaussian, k^-1/2", 200, seed)) for seed in (1, 2)]
    assert decoys(*gaussian).heaviest(0.7) == GAUSSIAN


def test_a_stratum_is_matched_among_itself():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 12)), rng.normal(size=(6, 12))
    b[:3] = a[:3]
    pair = shares.PairTable(PAIR, compare(Views(a, a), Views(b, b)).table)
    live = {"a": np.array([1, 1, 0, 1, 1, 0], bool), "b": np.array([1, 0, 1, 1, 0, 1], bool)}
    among = shares.among(pair, live).table
    for side, partners in (("a", live["b"]), ("b", live["a"])):
        rows = among.filter(pl.col("side") == side)
        before = pair.table.filter(pl.col("side") == side)
        counts = partners[before["decoder_match"].to_numpy()]
        assert (rows["decoder_match"].is_not_null().to_numpy() == counts).all()
        assert (scores(rows, SHARED).to_numpy()[~counts] == LOWEST).all()
        nearest = partners[before["decoder_nearest"].to_numpy()]
        assert (scores(rows, MAX_COS_BOTH).to_numpy()[~nearest] == LOWEST).all()
        assert (
            scores(rows, SHARED).to_numpy()[counts] == scores(before, SHARED).to_numpy()[counts]
        ).all()
    assert shares.among(pair, shares.everyone(pair)) is pair


def test_nine_in_ten_dead_find_the_live_no_partners():
    """Matched among all and held against random live ones, a sixth of the live would be found."""
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(600, 24)) for _ in range(2))
    live = np.arange(600) < 60
    strata = {
        "all": dict.fromkeys(PAIR, np.ones(600, bool)),
        "live": dict.fromkeys(PAIR, live),
        "dead": dict.fromkeys(PAIR, ~live),
    }
    pair = shares.PairTable(PAIR, compare(Views(a, a), Views(b, b)).table)
    nulls = [null_of(rows[live]) for rows in (a, b)]
    chance = shares.Chance(
        shares.draw_nulls(PAIR, dict(zip(PAIR, nulls, strict=True)), 1),
        {PAIR: decoys(*nulls)},
    )
    table = found_at_fdr([pair], [pair], {"live": chance}, strata)
    assert table["live"].value <= 0.02
    assert "all" not in table
