"""Invariance between paired views, against correlations computed one by one."""

import numpy as np
import pytest
from scipy.sparse import csr_array

import reseed
from reseed.errors import SpecError


def scenes(seed=0, places=24, units=4, latents=6):
    """Latents 0-2 see the same in both views, 3-4 only which scene it is, 5 is silent."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), places)
    level = rng.random((units, latents))[unit]
    a, b = level + rng.random((2, len(unit), latents)) / 4
    b[:, :3] = a[:, :3] + rng.random((len(unit), 3)) / 4
    a[:, 5] = b[:, 5] = 0
    return a, b, unit


def plainly(a, b, unit, draws=199):
    """r, mean r of shuffles inside units, p."""
    rng = np.random.default_rng(1)
    out = []
    for x, y in zip(a.T, b.T, strict=True):
        if not x.any():
            out.append((0, 0, 1))
            continue
        r, null = np.corrcoef(x, y)[0, 1], []
        for _ in range(draws):
            mixed = y.copy()
            for u in np.unique(unit):
                mixed[unit == u] = rng.permutation(y[unit == u])
            null.append(np.corrcoef(x, mixed)[0, 1])
        out.append((r, np.mean(null), (1 + np.sum(np.array(null) >= r)) / (1 + draws)))
    return np.array(out).T


def test_it_is_what_corrcoef_says():
    a, b, unit = scenes()
    found = reseed.paired(a, csr_array(b), [f"scene {u}" for u in unit], draws=199).latents
    r, null, p = plainly(a, b, unit)
    np.testing.assert_allclose(found["r"], r, atol=1e-12)
    np.testing.assert_allclose(found["r_null"], null, atol=0.03)
    np.testing.assert_allclose(found["p"], p, atol=0.12)


def test_scenes_that_differ_are_not_invariance():
    a, b, unit = scenes()
    found = reseed.paired(a, b, unit)
    table = found.latents
    assert (table["p"][:3] <= 0.01).all()
    assert (table["r"][3:5] > 0.5).all()  # a free correlation would call them invariant
    assert (table["p"][3:5] > 0.05).all()
    assert found.live == 5
    assert found.share == pytest.approx(3 / 5)
    low, high = found.excess_95
    assert low < found.excess < high
    assert "60.0%" in repr(found)


def test_intervals_leave_out_one_unit_at_a_time():
    a, b, unit = scenes()
    found = reseed.paired(a, b, unit)
    without = [np.corrcoef(a[unit != u, 0], b[unit != u, 0])[0, 1] for u in range(4)]
    error = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    row = found.latents.row(0, named=True)
    assert row["r_hi"] - row["r"] == pytest.approx(min(3.1824 * error, 1 - row["r"]), rel=1e-3)
    few = reseed.paired(a[unit < 2], b[unit < 2], unit[unit < 2])
    assert few.share_95 is None
    assert few.latents["r_lo"].null_count() == 6


def test_chance_is_kept():
    """Of views that have nothing in common but their scenes one latent in a hundred counts."""
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(5), 20)
    level = rng.random((5, 400))[unit]
    a, b = (level + rng.random((2, 100, 400))) * (rng.random((2, 100, 400)) < 0.3)
    found = reseed.paired(a, b, unit, draws=199)
    assert found.share < 0.03
    assert found.excess == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes_b": np.ones((8, 3))}, "codes_a are"),
        ({"units": [0, 0, 1]}, "there are 8 places"),
        ({"units": np.zeros((8, 2))}, r"shape \[8, 2\]"),
        ({"units": ["a"] * 6 + [None] * 2}, "cannot be told apart .*NoneType"),
        ({"units": [None] * 8}, "cannot be told apart"),
        ({"units": [[0]] * 4 + [[0, 1]] * 4}, "cannot be told apart"),
        ({"units": [1.0] * 6 + [np.nan] * 2}, "2 of 8 places have no unit"),
        ({"codes_a": np.ones((0, 2)), "codes_b": np.ones((0, 2)), "units": []}, "0 of 0 places"),
        ({"units": [0, 0, 0, 0, 0, 0, 0, 1]}, "has one place"),
        ({"draws": 20}, "fewer than 99"),
        ({"codes_a": -np.ones((8, 2))}, "negative"),
        ({"codes_a": np.zeros((8, 2)), "codes_b": np.zeros((8, 2))}, "no latent fires"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    given = {"codes_a": np.ones((8, 2)), "codes_b": np.ones((8, 2)), "units": [0] * 4 + [1] * 4}
    with pytest.raises(SpecError, match=words):
        reseed.paired(**given | change)
