"""The field's measures on a case worked out by hand, and both sides of a pair."""

import numpy as np
import polars as pl
import pytest

from reseed.matching import measures
from reseed.matching.entries import dense, nearest_in_itself
from reseed.matching.geometry import cosine
from reseed.matching.match import Views, compare

TAU = np.array([0.7])


def side(table: pl.DataFrame, name: str) -> pl.DataFrame:
    return table.filter(pl.col("side") == name)


def at(table: pl.DataFrame, measure: measures.Measure) -> float:
    score = measures.scores(table, measure)
    return float(measures.share_at(score, TAU, strict=measure.strict)[0])


def hand_made() -> pl.DataFrame:
    """Four latents: shared; same counterpart but weak encoder; other counterparts; nothing."""
    return pl.DataFrame(
        {
            "decoder_match": [0, 1, 2, None],
            "encoder_match": [0, 1, 3, 2],
            "decoder_cos": [0.9, 0.8, 0.95, None],
            "encoder_cos": [0.7, 0.5, 0.9, 0.2],
            "decoder_max_cos": [0.9, 0.8, 0.95, 0.3],
            "encoder_max_cos": [0.7, 0.75, 0.9, 0.2],
        }
    )


def test_every_measure_by_hand() -> None:
    table = hand_made()
    assert at(table, measures.SHARED) == 0.25  # at tau counts
    assert at(table, measures.BOTH) == 0.25  # at tau does not, other counterparts do
    assert at(table, measures.EQUAL) == 0.5
    assert at(table, measures.DECODER_ONLY) == 0.75
    assert at(table, measures.MAX_COS_BOTH) == 0.5
    assert measures.scores(table, measures.PW_MCC).mean() == pytest.approx((0.9 + 0.8 + 0.95) / 3)
    assert measures.scores(table, measures.MMCS).mean() == pytest.approx(2.95 / 4)


def test_identifiers_are_distinct_and_documented() -> None:
    assert len({m.id for m in measures.ALL}) == len(measures.ALL)
    assert all(m.formula and m.source and m.unequal_widths and m.version for m in measures.ALL)


def noisy_pair(n: int, m: int) -> tuple[Views, Views]:
    rng = np.random.default_rng(0)
    both = min(n, m) // 2
    encoder, decoder = rng.normal(size=(n, 12)), rng.normal(size=(n, 12))
    encoder_b, decoder_b = rng.normal(size=(m, 12)), rng.normal(size=(m, 12))
    encoder_b[:both] = encoder[:both] + 0.2 * rng.normal(size=(both, 12))
    decoder_b[:both] = decoder[:both] + 0.2 * rng.normal(size=(both, 12))
    return Views(encoder, decoder), Views(encoder_b, decoder_b)


@pytest.mark.parametrize(("n", "m"), [(20, 20), (14, 23), (23, 14)])
def test_both_sides_tell_the_same_story(n: int, m: int) -> None:
    a, b = noisy_pair(n, m)
    table = compare(a, b).table
    left, right = side(table, "a"), side(table, "b")
    assert (len(left), len(right)) == (n, m)
    for view in ("decoder", "encoder"):
        forward = {
            (i, j) for i, j in left.select("latent", f"{view}_match").iter_rows() if j is not None
        }
        back = {
            (j, i) for i, j in right.select("latent", f"{view}_match").iter_rows() if j is not None
        }
        assert forward == back
        assert len(forward) == min(n, m)
    scores = (
        measures.scores(s, measures.SHARED).filter(measures.scores(s, measures.SHARED) >= 0.7)
        for s in (left, right)
    )
    assert len({len(s) for s in scores}) == 1


def test_swapping_the_two_swaps_the_sides() -> None:
    a, b = noisy_pair(14, 23)
    one, two = compare(a, b).table, compare(b, a).table
    columns = ["decoder_match", "decoder_cos", "encoder_match", "encoder_cos", "decoder_max_cos"]
    for here, there in (("a", "b"), ("b", "a")):
        x, y = side(one, here).select(columns), side(two, there).select(columns)
        assert x.select("decoder_match", "encoder_match").equals(
            y.select("decoder_match", "encoder_match")
        )
        np.testing.assert_allclose(x["decoder_cos"].to_numpy(), y["decoder_cos"].to_numpy())


def test_a_dictionary_with_itself_is_one_everywhere() -> None:
    a, _ = noisy_pair(20, 20)
    table = side(compare(a, a).table, "a")
    taus = np.linspace(0, 1, 11)
    for measure in (measures.SHARED, measures.EQUAL):
        score = measures.scores(table, measure)
        np.testing.assert_array_equal(measures.share_at(score, taus, strict=False), 1.0)


def test_share_at_falls_with_tau_and_counts_strictly() -> None:
    score = pl.Series([-1.0, 0.2, 0.5, 0.5, 1.0])
    taus = np.array([0.0, 0.5, 0.50001, 1.0])
    np.testing.assert_allclose(measures.share_at(score, taus, strict=False), [0.8, 0.6, 0.2, 0.2])
    np.testing.assert_allclose(measures.share_at(score, taus, strict=True), [0.8, 0.2, 0.2, 0.0])
    assert np.isnan(measures.share_at(pl.Series([], dtype=pl.Float64), taus, strict=False)).all()


@pytest.mark.parametrize(("n", "m"), [(120, 120), (90, 140), (140, 90)])
def test_comparing_without_the_matrix_gives_the_same_table(monkeypatch, n: int, m: int) -> None:
    pytest.importorskip("numba")
    a, b = noisy_pair(n, m)
    dense = compare(a, b).table
    monkeypatch.setattr("reseed.matching.assignment.DENSE_BELOW", 0)
    sparse = compare(a, b).table
    assert dense.schema == sparse.schema
    for name, kind in dense.schema.items():
        if kind == pl.Float64:
            np.testing.assert_allclose(dense[name].to_numpy(), sparse[name].to_numpy(), atol=1e-12)
        else:
            assert dense[name].equals(sparse[name]), name


def test_mutual_nearest_is_the_same_from_both_sides() -> None:
    a, b = noisy_pair(30, 45)
    table = compare(a, b).table
    S = dense(cosine(a.decoder, b.decoder))
    expected = {(i, j) for i, j in enumerate(S.argmax(axis=1)) if S[:, j].argmax() == i}
    for name, turn in (("a", 1), ("b", -1)):
        mine = side(table, name).filter(pl.col("decoder_mutual"))
        pairs = {pair[::turn] for pair in mine.select("latent", "decoder_nearest").iter_rows()}
        assert pairs == expected


def test_the_nearest_of_a_dictionary_in_itself_leaves_it_out() -> None:
    a, _ = noisy_pair(1300, 2)
    rows = cosine(a.decoder, a.decoder).views[0][0]
    S = dense(cosine(a.decoder, a.decoder))
    np.fill_diagonal(S, -np.inf)
    np.testing.assert_allclose(nearest_in_itself(rows).similarity, S.max(axis=1), atol=1e-7)
