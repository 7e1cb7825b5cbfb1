import numpy as np
import pytest

from reseed.calibration.truth import agree, span


def test_spans_of_one_subspace_agree_whatever_their_rows():
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.standard_normal((20, 3)))[0].T
    a, b = (span(draw.standard_normal((n, 3)) @ basis, 3) for n in (5, 9))
    np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-9)
    assert agree(a, b, 3) == pytest.approx(1)
    assert agree(a, a[:1], 3) == pytest.approx(1 / 3)


def test_agreement_is_the_mean_squared_cosine_of_the_principal_angles():
    from scipy.linalg import subspace_angles

    draw = np.random.default_rng(1)
    a, b = (span(draw.standard_normal((3, 12)), 3) for _ in range(2))
    expected = (np.cos(subspace_angles(a.T, b.T)) ** 2).mean()
    assert agree(a, b, 3) == pytest.approx(expected)
    turn = np.linalg.qr(draw.standard_normal((12, 12)))[0]
    assert agree(a @ turn, b @ turn, 3) == pytest.approx(expected)


def test_one_direction_and_none():
    one = np.ones((4, 6)) + 1e-3 * np.random.default_rng(0).standard_normal((4, 6))
    assert span(one.astype(np.float32), 3).shape == (1, 6)
    assert span(np.zeros((0, 6), np.float32), 3).shape == (0, 6)
    assert agree(span(one, 3), np.zeros((0, 6)), 3) == 0
