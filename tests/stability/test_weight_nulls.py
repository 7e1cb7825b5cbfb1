"""Random dictionaries keep what they are said to keep, and agree as much as was measured."""

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.matching.assignment import assign
from reseed.matching.match import Views, compare
from reseed.matching.measures import SHARED, scores, share_at
from reseed.stability import shares
from reseed.stability.nulls.names import NULLS, null_of_control
from reseed.stability.nulls.weights import (
    BANDS,
    CovarianceNull,
    IsotropicNull,
    RotationNull,
    SameNull,
    weight_null,
)


def spectrum(n, d, power, seed):
    """Independent unit rows whose amplitudes fall as k^-power over dimensions."""
    rows = np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) ** -float(power)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def agreement(a, b):
    """Mean max |cos|; mean of the signed assignment, and the shares of its pairs above .5, .7."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    similarity = a @ b.T
    matched = assign(similarity).similarity
    largest = np.abs(similarity).max(axis=1).mean()
    return largest, matched.mean(), (matched > 0.5).mean(), (matched > 0.7).mean()


def views(n, d, power, seed):
    """Encoder rows are decoder rows with a bit of noise, as after a training."""
    decoder = spectrum(n, d, power, seed)
    noise = np.random.default_rng(seed + 100).normal(size=(n, d)) * 0.2 / np.sqrt(d)
    return Views(3 * (decoder + noise), decoder)


# measured on independent random dictionaries: mean max |cos|, assignment mean, share > .5, > .7
TABLE = {
    (128, 1024, 0.0): (0.300, 0.272, 0.0, 0.0),
    (128, 1024, 0.5): (0.548, 0.488, 0.43, 0.026),
    (128, 1024, 1.0): (0.871, 0.829, 0.995, 0.88),
}
LARGE = {(768, 8192, 0.0): 0.143, (768, 8192, 0.5): 0.464, (512, 4096, 1.0): 0.885}
"""mean max |cos|; the exact assignment of these takes minutes"""


def check(found, wanted):
    np.testing.assert_allclose(found[:2], wanted[:2], atol=0.01)
    np.testing.assert_allclose(found[2:], wanted[2:], atol=0.035)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_independent_dictionaries_and_the_covariance_null_agree_as_much_as_was_measured(case):
    d, n, power = case
    rows = [spectrum(n, d, power, seed) for seed in (0, 1)]
    check(agreement(*rows), TABLE[case])
    nulls = [CovarianceNull(Views(r, r)) for r in rows]
    check(agreement(*(null.draw("test", side).decoder for side, null in enumerate(nulls))),
          TABLE[case])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_larger_dictionaries_are_as_near_as_was_measured(case):
    d, n, power = case
    a, b = (spectrum(n, d, power, seed).astype(np.float32) for seed in (0, 1))
    assert np.abs(a @ b.T).max(axis=1).mean() == pytest.approx(LARGE[case], abs=0.003)


def test_the_isotropic_null_is_the_flat_row_of_the_table():
    null = IsotropicNull(1024, 128)
    a, b = null.draw("a"), null.draw("b")
    check(agreement(a.decoder, b.decoder), TABLE[128, 1024, 0.0])
    np.testing.assert_allclose(np.linalg.norm(a.decoder, axis=1), 1.0)
    assert np.array_equal(a.encoder, a.decoder)


def test_isotropic_chance_is_far_too_low_for_an_anisotropic_dictionary():
    """Why N1 alone is no null: it says .30 where chance is .87."""
    wide, flat = TABLE[128, 1024, 1.0], TABLE[128, 1024, 0.0]
    rows = spectrum(1024, 128, 1.0, 0)
    haar = [RotationNull(Views(rows, rows)).draw("t", side).decoder for side in "ab"]
    assert agreement(*haar)[0] < flat[0] < wide[0] - 0.5


def test_rotated_inside_bands_is_as_anisotropic_as_the_real_ones():
    """Two independent dictionaries of one spectrum: N3b says what they share, as N2 does."""
    for power in (0.5, 1.0):
        rows = [spectrum(1024, 128, power, seed) for seed in (0, 1)]
        nulls = [RotationNull(Views(r, r), BANDS) for r in rows]
        drawn = [null.draw("t", side).decoder for side, null in enumerate(nulls)]
        found, wanted = agreement(*drawn), TABLE[128, 1024, power]
        np.testing.assert_allclose(found[:2], wanted[:2], atol=0.02)
        assert found[3] == pytest.approx(wanted[3], abs=0.05)


@pytest.mark.parametrize("bands", [None, 1.0, 1.5, 4.0])
def test_a_rotation_keeps_the_inner_geometry(bands):
    real = views(60, 20, 1.0, 0)
    turned = RotationNull(real, bands).draw("t")
    for before, after in zip(real, turned, strict=True):
        np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-9)
    np.testing.assert_allclose(
        turned.encoder @ turned.decoder.T, real.encoder @ real.decoder.T, atol=1e-9
    )
    assert not np.allclose(turned.decoder, real.decoder)


def test_bands_keep_the_second_moments():
    """Between bands exactly, inside up to the ratio; a rotation of everything flattens them."""
    rows = spectrum(2000, 24, 1.0, 0)
    wanted, basis = np.linalg.eigh(rows.T @ rows / len(rows))

    def spread(bands):
        null = RotationNull(Views(rows, rows), bands)
        drawn = null.draw("t").decoder
        moments = basis.T @ (drawn.T @ drawn / len(drawn)) @ basis
        return null.bands, moments[::-1, ::-1]

    for ratio in (1.3, 2.0, 5.0):
        bands, moments = spread(ratio)
        assert bands[0][0] == 0
        assert [first for first, _ in bands[1:]] == [last for _, last in bands[:-1]]
        for first, last in bands:
            inside = slice(first, last)
            real = wanted[::-1][inside]
            assert real[0] <= ratio * real[-1] * (1 + 1e-9)
            assert np.trace(moments[inside, inside]) == pytest.approx(real.sum())
            np.testing.assert_allclose(moments[inside, :first], 0, atol=1e-12)
            np.testing.assert_allclose(moments[inside, last:], 0, atol=1e-12)
            ends = np.linalg.eigvalsh(moments[inside, inside])
            np.testing.assert_allclose(np.sort(ends), np.sort(real), atol=1e-12)
    np.testing.assert_allclose(np.diag(spread(1.0)[1]), wanted[::-1], atol=1e-12)
    assert np.diag(spread(None)[1]).max() < 0.7 * wanted[-1]


def test_a_full_rotation_is_uniform():
    """The image of one direction has mean 0 and second moments 1/D, whatever the direction."""
    start = np.array([[1.0, 0.0, 0.0]])
    null = RotationNull(Views(start, start))
    images = np.concatenate([null.draw(i).decoder for i in range(3000)])
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(images.T @ images / len(images), np.eye(3) / 3, atol=0.03)


@pytest.mark.parametrize("name", ["N0", "N1", "N2", "N3", "N3b"])
def test_draws_depend_on_their_key_alone(name):
    null = weight_null(name, views(40, 10, 0.5, 0))
    first, again, other = null.draw("pair", "a", 0), null.draw("pair", "a", 0), null.draw("b")
    for one, two in zip(first, again, strict=True):
        assert one.shape == (40, 10)
        assert np.array_equal(one, two)
    assert np.array_equal(first.decoder, other.decoder) == (name == "N0")


def test_the_same_run_gives_the_ceiling():
    real = views(60, 12, 0.5, 0)
    (draw,) = shares.draw_nulls(("a", "a"), {"a": SameNull(real)}, 1)
    mine = draw.table.filter(side="a")
    assert share_at(scores(mine, SHARED), np.array([0.999]), strict=False)[0] == 1.0


@pytest.mark.parametrize("name", ["N1", "N2", "N3", "N3b"])
def test_a_null_of_runs_that_agree_says_little(name):
    """Two noisy copies of a flat dictionary share everything; every null of them shares nothing."""
    one = views(100, 40, 0.0, 0)
    noise = np.random.default_rng(5).normal(size=(100, 40)) * 0.05
    pair = {"a": one, "b": Views(one.encoder + 3 * noise, one.decoder + noise)}
    nulls = {run: weight_null(name, v) for run, v in pair.items()}
    (draw,) = shares.draw_nulls(("a", "b"), nulls, 1)

    def shared(table):
        return share_at(scores(table, SHARED), np.array([0.7]), strict=False)[0]

    assert shared(compare(*pair.values()).table) == 1.0
    assert shared(draw.table) == 0.0


def test_zero_rows_are_left_out_of_a_rotation():
    real = views(20, 6, 0.5, 0)
    real.decoder[3] = 0
    assert RotationNull(real, 2.0).draw("t").decoder.shape == (19, 6)


def test_what_cannot_be_is_refused():
    real = views(20, 6, 0.5, 0)
    with pytest.raises(SpecError, match="at least 1"):
        RotationNull(real, 0.5)
    with pytest.raises(SpecError, match="at least 1"):
        RotationNull(real, float("nan"))
    with pytest.raises(SpecError, match="nothing to draw"):
        IsotropicNull(0, 5)
    with pytest.raises(SpecError, match="'N5' is not made from weights"):
        weight_null("N5", real)


def test_the_nulls_by_name():
    ids = [kind.id for kind in NULLS]
    assert len(set(ids)) == len(ids)
    assert {one[:2] for one in ids} == {f"N{i}" for i in range(10)}
    assert null_of_control("gaussian").id == "N5a"
    assert all((kind.made == "control runs") == (kind.control is not None) for kind in NULLS)
