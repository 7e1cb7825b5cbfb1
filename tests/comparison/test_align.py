"""Two bases turned into one: known rotations come back, and crossing over is judged honestly."""

import numpy as np
import pytest

import reseed
from reseed.comparison.align import Sums
from reseed.errors import SpecError, SubjectError
from reseed.records import SAEArrays


def rotation(n: int, m: int, seed: int = 0):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(n, m), max(n, m))))[0]
    return q[:n, :m]


def alignment(x, y, parts: int = 3):
    sums = Sums(x.shape[1], y.shape[1])
    for a, b in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
        sums.add(a, b)
    return sums.alignment()


@pytest.mark.parametrize(("d_a", "d_b"), [(8, 8), (5, 8)])
def test_a_known_rotation_comes_back(d_a: int, d_b: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(2, 1, size=(200, d_a)) * np.arange(1, d_a + 1)
    R = rotation(d_a, d_b)
    y = 2.5 * x @ R + 7
    found = alignment(x, y)
    np.testing.assert_allclose(found.R, R, atol=1e-8)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.to_b(x), y, atol=1e-7)
    np.testing.assert_allclose(found.to_a(y), x, atol=1e-7)


def test_the_best_rotation_of_all() -> None:
    """No other rotation near it is better, with noise too."""
    rng = np.random.default_rng(2)
    x, noise = rng.normal(size=(2, 300, 6))
    y = x @ rotation(6, 6) + 0.3 * noise
    found = alignment(x, y)

    def error(R):
        a, b = x - x.mean(0), y - y.mean(0)
        scale = np.einsum("ij,ij->", a @ R, b) / np.square(a @ R).sum()
        return np.square(b - scale * a @ R).sum()

    for seed in range(20):
        step = 1e-2 * np.random.default_rng(seed).normal(size=(6, 6))
        u, _, v = np.linalg.svd(found.R + step)
        assert error(u @ v) >= error(found.R) - 1e-9


def test_parts_and_whole_are_the_same() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 100, 4))
    np.testing.assert_allclose(alignment(x, y, 1).R, alignment(x, y, 7).R, atol=1e-10)


def test_too_few_or_other_rows_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(10, 8))
    with pytest.raises(SpecError, match="at least 16"):
        alignment(x, x)
    with pytest.raises(SpecError, match="same tokens"):
        Sums(8, 8).add(x, x[:5])
    with pytest.raises(SpecError, match="do not vary"):
        alignment(np.ones((50, 4)), np.ones((50, 4)))


torch = pytest.importorskip("torch")


def world(features: int = 24, d: int = 32, n: int = 4096):
    """Activations of known features, and the SAE that knows them."""
    rng = np.random.default_rng(0)
    D = rng.normal(size=(features, d)).astype(np.float32)
    D = np.linalg.qr(D.T)[0].T.astype(np.float32)  # orthonormal, so the SAE is exact
    codes = rng.exponential(size=(n, features)) * (rng.random((n, features)) < 0.1)
    x = (codes @ D).astype(np.float32)
    sae = SAEArrays(
        W_enc=D,
        b_enc=np.zeros(features, np.float32),
        W_dec=D,
        b_dec=np.zeros(d, np.float32),
        activation={"kind": "relu"},
        about={},
    )
    return x, sae


def test_activations_give_firing_and_reconstruction() -> None:
    x, sae = world()
    dead = np.concatenate([sae.W_dec, -sae.W_dec])
    wide = SAEArrays(
        W_enc=dead,
        b_enc=np.full(48, -1e-3, np.float32),
        W_dec=dead,
        b_dec=sae.b_dec,
        activation=sae.activation,
        about={},
    )
    found = reseed.compare(sae, wide, activations=x)
    behaviour = [one["on_activations"] for one in found.summary["saes"]]
    assert behaviour[0]["fvu"] < 1e-6
    assert behaviour[0]["live"] == 24
    assert behaviour[1]["dead"] >= 24
    assert found.summary["pairs"][0]["numbers"]["shared"]["b"] == 0.5
    live = found.curve.filter(measure="shared", stratum="live", tau=0.7)
    assert live["share_b"].item() == 1.0
    assert {"alive", "firing_rate"} <= set(found.latents.columns)


def test_the_wrong_site_is_noticed() -> None:
    x, sae = world()
    wrong = 5 + 0.1 * np.random.default_rng(3).normal(size=x.shape)
    found = reseed.compare(sae, sae, activations=wrong.astype(np.float32))
    assert any("worse than their mean" in one for one in found.warnings)
    with pytest.raises(SubjectError, match="1 rows of the activations .* give more of them"):
        reseed.compare(sae, sae, activations=x[:1])
    with pytest.raises(SpecError, match="32 dimensions"):
        reseed.compare(sae, sae, activations=x[:, :16])


def test_two_subjects_need_an_alignment(tmp_path) -> None:
    x, sae = world()
    R = rotation(32, 32).astype(np.float32)
    turned = SAEArrays(
        W_enc=sae.W_enc @ R,
        b_enc=sae.b_enc,
        W_dec=sae.W_dec @ R,
        b_dec=sae.b_dec,
        activation=sae.activation,
        about={},
    )
    y = x @ R
    bare = reseed.compare(sae, turned)
    assert bare.shared < 0.2
    # in one folder: what was found without, or by other activations, is not taken for this
    more = {"null_draws": 1, "out": tmp_path}
    assert reseed.compare(sae, turned, activations=[x, y], **more).shared < 0.2
    swapped = [x, y[:, ::-1].copy()]
    assert reseed.compare(sae, turned, activations=swapped, align="procrustes", **more).shared < 0.2
    found = reseed.compare(sae, turned, activations=[x, y], align="procrustes", **more)
    assert found.shared == 1.0
    (crossing,) = found.summary["crossing"]
    assert crossing["fvu"]["map_alone"] < 1e-6
    assert crossing["fvu"]["through_first"] < 1e-6
    # unrelated activations align to nothing: directions are not shared, crossing over loses more
    other = np.random.default_rng(9).normal(size=x.shape).astype(np.float32)
    lost = reseed.compare(sae, sae, activations=[x, other], align="procrustes")
    assert lost.shared < 0.2
    assert lost.summary["crossing"][0]["fvu"]["through_first"] > 0.2


def test_paths_of_activations(tmp_path) -> None:
    x, sae = world()
    np.save(tmp_path / "x.npy", x)
    given = str(tmp_path / "x.npy")
    found = reseed.compare(sae, sae, activations=given)
    assert found.summary["saes"][0]["on_activations"]["rows"] == len(x)
    with pytest.raises(SpecError, match="one for each"):
        reseed.compare(sae, sae, activations=[x])
    with pytest.raises(SpecError, match="rows"):
        reseed.compare(sae, sae, activations=[x, x[:100]])
    with pytest.raises(SpecError, match="needs `out`|need `out`"):
        reseed.compare(sae, sae, activations={"model": "m", "text": "t", "site": "s"})
