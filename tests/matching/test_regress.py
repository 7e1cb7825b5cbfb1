"""Sparse non-negative fits and neighbourhoods against SciPy."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.optimize import nnls

from reseed.errors import SpecError
from reseed.matching.beyond.regress import best_supports, fits, top
from reseed.matching.beyond.structure import Overlap, overlaps, p_values
from reseed.matching.geometry import rows


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def dictionary(n: int, d: int, seed: int, power: float = 0.0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) ** -power)


def plain(a: np.ndarray, b: np.ndarray, most: int) -> float:
    """Cosine of the best fit over all supports of `most` rows, by SciPy."""
    least = min(
        nnls(b[list(some)].T, a)[1] for some in combinations(range(len(b)), min(most, len(b)))
    )
    return float(np.sqrt(max(1 - least**2, 0.0)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(2, 7), st.integers(0, 10**6), st.sampled_from([0.0, 1.0]))
def test_on_a_short_list_the_optimum_is_exact(m: int, d: int, seed: int, power: float) -> None:
    """All of at most 8 rows are listed, so fits are those of SciPy over all triples."""
    b = dictionary(m, d, seed, power)
    a = dictionary(2, d, seed + 1, power)
    found = fits(rows(a, "A"), rows(b, "B"))
    for i in range(2):
        for most in (1, 2, 3):
            assert found.cosine[i, most - 1] == pytest.approx(plain(a[i], b, most), abs=1e-6)


@pytest.mark.parametrize(("power", "often"), [(0.0, 0.95), (1.0, 0.8)])
def test_how_often_the_short_list_holds_the_best_triple(power: float, often: float) -> None:
    """Not always: what is found is never above the optimum and seldom much below."""
    a, b = dictionary(40, 16, 1, power), dictionary(24, 16, 2, power)
    found = fits(rows(a, "A"), rows(b, "B")).cosine[:, 2]
    best = np.array([plain(row, b, 3) for row in a])
    assert (found <= best + 1e-9).all()
    assert (found >= best - 1e-9).mean() >= often
    assert (best - found).max() < 0.1


def test_weights_are_those_of_nnls_and_positive() -> None:
    a, b = dictionary(30, 12, 1), dictionary(100, 12, 2)
    found = fits(rows(a, "A"), rows(b, "B"))
    for i in range(30):
        for most in range(3):
            there = found.partners[i, most] >= 0
            some, weights = found.partners[i, most][there], found.weights[i, most][there]
            assert (weights > 0).all()
            assert (np.diff(weights) <= 0).all()
            np.testing.assert_allclose(nnls(b[some].T, a[i])[0], weights, atol=1e-9)
            assert found.cosine[i, most] == pytest.approx(unit(weights @ b[some]) @ a[i])
    assert (np.diff(found.cosine, axis=1) >= 0).all()
    S = a @ b.T
    np.testing.assert_array_equal(found.nearest, S.argmax(axis=1))
    np.testing.assert_allclose(found.nearest_cosine, S.max(axis=1))


def test_planted_sums_are_found_in_a_large_dictionary() -> None:
    rng = np.random.default_rng(0)
    b = dictionary(3000, 96, 2)
    which = np.stack([rng.choice(3000, 3, replace=False) for _ in range(50)])
    a = unit(np.einsum("kj,kjd->kd", rng.uniform(0.4, 1.0, (50, 3)), b[which]))
    found = fits(rows(a * 7.0, "A"), rows(b * 0.1, "B"))
    hits = [set(p) == set(w) for p, w in zip(found.partners[:, 2], which, strict=True)]
    assert np.mean(hits) > 0.95
    np.testing.assert_allclose(found.cosine[hits, 2], 1.0)


def test_nothing_positive_duplicates_and_zero_rows() -> None:
    a = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1, 0]])
    b = np.array([[-1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    found = fits(rows(a, "A"), rows(b, "B"))
    assert (found.partners[:2] == -1).all()
    assert found.cosine[:2].tolist() == [[0.0] * 3] * 2
    # a duplicate adds nothing, so it is no second partner
    assert (found.partners[2] >= 0).sum(axis=1).tolist() == [1, 1, 1]
    assert found.cosine[2].tolist() == [1.0] * 3


def test_no_rows_to_explain() -> None:
    none = rows(np.eye(3), "A")
    empty = type(none)(exact=none.exact[:0], scale=none.scale[:0])
    assert fits(empty, none).partners.shape == (0, 3, 3)


def test_dimensions_must_agree() -> None:
    with pytest.raises(SpecError, match="different spaces"):
        fits(rows(np.eye(3), "A"), rows(np.eye(4), "B"))


def test_all_supports_of_a_list_by_hand() -> None:
    """a = (b0 + b1) / sqrt 2, and b2 close to a."""
    b = unit(np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 1]]))
    a = unit(np.array([[1.0, 1, 0]]))
    found = best_supports(a @ b.T, (b @ b.T)[None], 3)
    assert found.support[0, 0].tolist() == [2, -1, -1]
    assert set(found.support[0, 1][:2]) == {0, 1}
    np.testing.assert_allclose(found.energy[0], [2 / 3, 1, 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3000), st.integers(1, 12), st.integers(0, 10**6))
def test_the_largest_entries_of_rows(n: int, m: int, count: int, seed: int) -> None:
    block = np.random.default_rng(seed).integers(0, 500, (n, m)).astype(np.float32)
    found = top(block, count)
    assert found.shape == (n, min(count, m))
    for i in range(n):
        assert len(set(found[i])) == min(count, m)
        np.testing.assert_array_equal(np.sort(block[i, found[i]]), np.sort(block[i])[-count:])


def plain_overlap(a: np.ndarray, b: np.ndarray, i: int, size: int, rank: int):
    spans = []
    for pool in (a, b):
        near = np.argsort(-np.abs(pool @ a[i]), kind="stable")[:size]
        spans.append(np.linalg.svd(pool[near], full_matrices=False)[2][:rank].T)
    energy = np.sort(np.cos(subspace_angles(*spans)) ** 2)[::-1]
    inside = ((a[i] @ spans[1]) ** 2).sum()
    return energy.mean(), (energy[1:] if rank > 1 else energy).mean(), inside


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 30), st.integers(3, 30), st.integers(1, 3), st.integers(0, 10**6))
def test_overlap_is_that_of_scipys_angles(n: int, m: int, rank: int, seed: int) -> None:
    a, b = dictionary(n, 9, seed), dictionary(m, 9, seed + 1)
    found = overlaps(rows(3 * a, "A"), rows(b, "B"), size=5, rank=rank)
    for i in range(n):
        wanted = plain_overlap(a, b, i, 5, rank)
        np.testing.assert_allclose([v[i] for v in found], wanted, atol=1e-6)


def test_a_dictionary_overlaps_wholly_with_itself_in_any_order() -> None:
    a = dictionary(60, 20, 1)
    found = overlaps(rows(a, "A"), rows(a[::-1] * 3, "B"), size=8, rank=3)
    np.testing.assert_allclose(found.mean, 1.0)
    np.testing.assert_allclose(found.rest, 1.0)


def test_overlap_does_not_see_a_common_rotation() -> None:
    a, b = dictionary(40, 20, 1), dictionary(50, 20, 2)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(20, 20)))[0]
    plain_, turned = (
        overlaps(rows(x, "A"), rows(y, "B"), size=8, rank=3)
        for x, y in ((a, b), (a @ turn, b @ turn))
    )
    for one, two in zip(plain_, turned, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_directions_that_are_not_there_count_nothing() -> None:
    """Three copies of one row span one direction, not three."""
    a = np.repeat(np.eye(5)[:1], 3, axis=0)
    found = overlaps(rows(a, "A"), rows(a, "B"), size=8, rank=3)
    np.testing.assert_allclose(found.mean, 1 / 3)
    np.testing.assert_allclose(found.rest, 0.0, atol=1e-12)


def test_too_few_rows_for_a_rank_cannot_be_told() -> None:
    found = overlaps(rows(np.eye(5)[:2], "A"), rows(np.eye(5), "B"), size=8, rank=3)
    assert np.isnan(found.mean).all()
    null = overlaps(rows(np.eye(5), "A"), rows(np.eye(5), "B"), size=8, rank=3)
    assert np.isnan(p_values(found, null)).all()


def test_p_values_by_hand() -> None:
    null = Overlap(*(np.array([0.1, 0.2, 0.3, np.nan]) for _ in range(3)))
    found = Overlap(np.array([0.9, 0.25]), np.array([0.9, 0.9]), np.array([0.25, 0.0]))
    assert p_values(found, null).tolist() == [0.5, 1.0]
    nothing = Overlap(*(np.zeros(0) for _ in range(3)))
    assert np.isnan(p_values(found, nothing)).all()
