"""Lambda from a null, against known chance levels and against independent dictionaries."""

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError
from reseed.matching.match import Views


def rows(power: float, seed: int, n: int = 1024, d: int = 128) -> np.ndarray:
    """Independent rows whose amplitudes fall as k^-power."""
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1.0, d + 1) ** -power


def best_of(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The largest cosine of each row of either side to any of the other."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (A, B))
    return np.concatenate([(a @ b.T).max(axis=1), (a @ b.T).max(axis=0)])


def test_isotropic_rows_give_the_known_level() -> None:
    """Mean max signed cosine of 1,024 isotropic unit vectors in 128 dimensions: .283."""
    A, B = rows(0, 0), rows(0, 1)
    best = best_of(A, B)
    assert best.shape == (2048,)
    assert best.mean() == pytest.approx(0.283, abs=0.003)
    middle = reseed.reject_threshold(A, B, quantile=0.5)
    # the heaviest of several kinds of decoys, so a little above
    assert np.median(best) - 0.005 < middle < np.median(best) + 0.02
    high = reseed.reject_threshold(A, B)
    assert 0.34 < high < 0.39
    assert high == pytest.approx(np.quantile(best, 0.99), abs=0.02)


@pytest.mark.parametrize(("power", "low", "high"), [(0.5, 0.70, 0.79), (1.0, 0.95, 1.0)])
def test_anisotropy_raises_it_as_it_raises_chance(power: float, low: float, high: float) -> None:
    A, B = rows(power, 0), rows(power, 1)
    found = reseed.reject_threshold(A, B)
    best = best_of(A, B)
    assert low < found < high
    assert found == pytest.approx(np.quantile(best, 0.99), abs=0.02)


def test_few_chance_pairs_come_through_and_shared_ones_do() -> None:
    A, B = rows(0.5, 0), rows(0.5, 1)
    A, B = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (A, B))
    B[:200] = A[:200] + 0.2 * B[:200]
    found = reseed.match(A, B, reject=reseed.reject_threshold(A, B))
    shared = (found.pairs[:, 0] == found.pairs[:, 1]) & (found.pairs[:, 0] < 200)
    assert shared.sum() > 195
    # of 824 independent latents 1 % have a chance counterpart above it
    assert (~shared).sum() < 20


def test_unequal_widths_let_one_in_a_hundred_of_the_narrow_side_through() -> None:
    """Pooled over both sides lambda would let 5 to 8 % of the narrow one through."""
    through = []
    for seed in range(3):
        A, B = rows(0.5, seed, 128, 32), rows(0.5, seed + 9, 1024, 32)
        kept = reseed.match(A, B, reject=reseed.reject_threshold(A, B)).pairs
        through.append(len(kept) / len(A))
    assert np.mean(through) < 0.02


def test_views_of_both_rows() -> None:
    a, b = (Views(rows(0, s, 300, 32), rows(0, s + 9, 300, 32)) for s in (0, 1))
    found = {view: reseed.reject_threshold(a, b, view=view) for view in
             ("decoder", "encoder", "mean", "minimum")}  # fmt: skip
    assert found["minimum"] < found["mean"] < found["decoder"]
    white = reseed.reject_threshold(a, b, view="whitened", covariance=4 * np.eye(32))
    assert white == pytest.approx(found["encoder"], abs=0.02)


def test_the_same_seed_gives_the_same() -> None:
    A, B = rows(0, 0, 50, 8), rows(0, 1, 70, 8)
    assert reseed.reject_threshold(A, B) == reseed.reject_threshold(A, B)
    assert reseed.reject_threshold(A, B) != reseed.reject_threshold(A, B, seed=1)


def test_zero_rows_are_left_out() -> None:
    A, B = rows(0, 0, 60, 8), rows(0, 1, 60, 8)
    A[:20] = 0
    assert reseed.reject_threshold(A, B) == reseed.reject_threshold(A[20:], B)
    assert reseed.reject_threshold(np.zeros((5, 8)), B) == 0
    assert reseed.reject_threshold(A[20:21], B) > 0


def test_encoder_and_decoder_in_one_beside_two() -> None:
    A, B, E = (rows(0, seed, 60, 32) for seed in range(3))
    tied, untied = Views(A, A), Views(E, B)
    found = reseed.reject_threshold(tied, untied, view="minimum")
    apart = reseed.reject_threshold(Views(A, A.copy()), untied, view="minimum")
    assert found == pytest.approx(apart, abs=0.02)


@pytest.mark.parametrize(
    ("A", "more", "says"),
    [
        (np.full((3, 8), np.nan), {}, "A: 3 of 3 rows have NaN"),
        (np.ones((3, 7)), {}, "rows of 7 dimensions and B of 8"),
        (np.ones((3, 8)), {"view": "mean"}, "not an SAE"),
        (np.ones((3, 8)), {"quantile": 1.5}, r"quantile=1\.5"),
        (np.ones((3, 8)), {"draws": 0}, "draws=0"),
    ],
)
def test_nonsense_is_refused(A, more, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        reseed.reject_threshold(A, rows(0, 1, 60, 8), **more)
