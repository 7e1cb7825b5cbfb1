"""Shares of a crosscoder's latents, on rows whose parts are known."""

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.sae.architectures.crosscoder import relative_norms

ROWS = np.array(
    [[3, 4, 0, 0, 0], [0, 0, 0, 0, 2], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [10, 0, 0.1, 0, 10]],
    np.float32,
)


def test_latents_are_told_apart():
    found = relative_norms(ROWS, [2, 2, 1])
    assert found["kind"].to_list() == ["exclusive", "exclusive", "partly", "zero", "partly"]
    assert found["part"].to_list()[:2] == [0, 2]
    np.testing.assert_allclose(found.select("share_0", "share_1", "share_2").row(0), (1, 0, 0))
    np.testing.assert_allclose(found["share_0"][2], 0.5)
    assert np.isnan(found["share_0"][3])
    assert relative_norms(ROWS[2:3], [2, 3])["kind"].to_list() == ["shared"]


def test_scales_put_the_sites_on_one_footing():
    rows = np.array([[1, 100]], np.float32)
    assert relative_norms(rows, [1, 1])["kind"].to_list() == ["exclusive"]
    found = relative_norms(rows, [1, 1], [1.0, 0.01])
    np.testing.assert_allclose(found["share_0"], 0.5)


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match=r"parts = \[2, 2\] .* 5 dimensions"):
        relative_norms(ROWS, [2, 2])
    with pytest.raises(SpecError, match="1 scales"):
        relative_norms(ROWS, [2, 3], [1.0])
