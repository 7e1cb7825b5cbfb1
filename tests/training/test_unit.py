"""What comes out does not depend on the unit that activations are measured in."""

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SubjectError
from reseed.events import Events
from reseed.sae.architectures import ARCHITECTURES
from reseed.subjects.arrays import MemorySource
from reseed.training.scale import measured, raw, unraw

D, F = 16, 24
RNG = np.random.default_rng(3)
ROWS = RNG.standard_normal((F, D)) / 4.0
CODES = (RNG.random((1000, F)) < 0.1) * RNG.gamma(4.0, 0.25, (1000, F))
X = (CODES @ ROWS + 0.3).astype(np.float32)
Y = (CODES @ RNG.standard_normal((F, D)) * 40.0).astype(np.float32)
MORE = {
    "jumprelu": {"bandwidth": 0.1, "threshold": 0.05},
    "crosscoder": {"parts": [6, 10], "k": 3},
    "llamascope": {"k": 3, "threshold_rows": 512},
    "archetypal": {"k": 3, "fit_rows": 512},
    "nmf": {"latents": 12, "fit_rows": 512, "rounds": 20},
    "ica": {"latents": 12, "fit_rows": 512, "rounds": 20},
    "pca": {"latents": 12, "k": 3},
    "kmeans": {"fit_rows": 512, "rounds": 20},
    "matryoshka": {"k": 3, "prefixes": [0.25, 0.5]},
    "relu": {}, "gated": {"target_l0": 3}, "panneal": {"target_l0": 3},
}  # fmt: skip
POWERS = (2.0**-13, 2.0**13)
"""Eight decades; exact in floats, so that what comes out is too."""


def trained(name, unit, **more):
    settings = {"latents": F, "init_seeds": [0, 1], "batch": 128, "tokens": 1280}
    settings |= {} if "lr" in ARCHITECTURES[name].settings.without else {"lr": 1e-2}
    settings |= MORE.get(name, {"k": 3}) | more
    if "transcoder" in name:
        settings["target"] = Y * np.float32(unit)
    return reseed.train(X * np.float32(unit), name, **settings)


def told(saes, unit, target):
    """Live codes, what is left over, and how alike the decoders are."""
    x, y = torch.tensor(X * np.float32(unit)), torch.tensor(target * np.float32(unit))
    codes = saes[0].encode(x)
    error = ((saes[0].reconstruct(x) - y) / unit).double()
    left = float(
        error.square().sum() / torch.tensor(target - target.mean(0)).double().square().sum()
    )
    similarity = reseed.match(saes[0].W_dec, saes[1].W_dec).similarity
    return codes > 0, left, np.sort(similarity)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_eight_decades_of_units_give_the_same(name) -> None:
    target = Y if "transcoder" in name else X
    fires, left, similarity = told(trained(name, 1.0), 1.0, target)
    for unit in POWERS:
        now = told(trained(name, unit), unit, target)
        assert (now[0] != fires).float().mean() < 1e-3
        assert now[1] == pytest.approx(left, rel=1e-3)
        np.testing.assert_allclose(now[2], similarity, atol=1e-4)


def test_decades_that_are_not_exact_in_floats_give_nearly_the_same() -> None:
    """Rounding differs, as it does between two processors, and nothing else."""
    _, left, similarity = told(trained("topk", 1.0), 1.0, X)
    for unit in (1e-3, 1e3):
        now = told(trained("topk", unit), unit, X)
        assert now[1] == pytest.approx(left, rel=0.05)
        assert now[2].mean() == pytest.approx(similarity.mean(), abs=0.05)


def test_units_beyond_what_squares_of_floats_hold() -> None:
    """Squared lengths of 1e-32 and 1e32 are 0 and infinite in float32."""
    _, left, _ = told(trained("topk", 1.0), 1.0, X)
    for unit in (1e-32, 1e32):
        assert told(trained("topk", unit), unit, X)[1] == pytest.approx(left, rel=0.05)


def test_without_a_scale_the_unit_is_that_of_the_rows() -> None:
    a, b = (trained("topk", unit, scale=False)[0] for unit in (1.0, 1e-3))
    assert "scale" not in a.about
    assert not torch.allclose(a.b_dec, b.b_dec * 1e3, rtol=1e-2)


def test_the_scale_gives_rows_a_mean_length_of_one_and_is_told() -> None:
    sae = trained("topk", 1.0)[0]
    length = np.linalg.norm(X.astype(np.float64), axis=1).mean()
    assert sae.about["scale"] == pytest.approx(1 / length, rel=1e-6)
    both = trained("transcoder", 1.0)[0]
    assert both.about["target_scale"] == pytest.approx(
        1 / np.linalg.norm(Y.astype(np.float64), axis=1).mean(), rel=1e-6
    )


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_a_scale_that_is_taken_out_can_be_put_in_again(kind) -> None:
    sae = trained(kind, 1.0)[0]
    again = raw(unraw(sae, 0.02), 0.02, 0.02)
    torch.testing.assert_close(again.encode(X), sae.encode(X), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again.reconstruct(X), sae.reconstruct(X), rtol=1e-4, atol=1e-4)


def test_rows_of_zeros_have_no_scale() -> None:
    source = MemorySource({"x": np.zeros((40, 4), np.float32)})
    with pytest.raises(SubjectError, match="40 rows that were looked at are all alike"):
        measured(source, [0], ["x"], Events())
