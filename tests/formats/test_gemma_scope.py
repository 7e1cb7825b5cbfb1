"""Gemma Scope's arrays and the formula of its paper (arXiv 2408.05147), written out."""

import math

import numpy as np
import pytest

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.sae.model import from_arrays

D, E, F = 6, 5, 12


def params(*, E=D, lower=False):
    rng = np.random.default_rng(0)
    sizes = {"W_enc": (D, F), "W_dec": (F, E), "b_enc": (F,), "b_dec": (E,), "threshold": (F,)}
    out = {name: 0.5 * rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    out["threshold"] = np.abs(out["threshold"])
    return {name.lower() if lower else name: array for name, array in out.items()}


def reconstructed(p, x):
    p = {name.lower(): array for name, array in p.items()}
    pre = x @ p["w_enc"] + p["b_enc"]
    return np.maximum(pre, 0) * (pre > p["threshold"]) @ p["w_dec"] + p["b_dec"]


def x(n=20):
    return np.random.default_rng(1).normal(size=(n, D)).astype(np.float32)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("outputs", [D, E])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reconstructs_by_the_formula(tmp_path, lower, outputs, save) -> None:
    given = params(E=outputs, lower=lower)
    save(tmp_path / "params.npz", **given)
    for path in (tmp_path, tmp_path / "params.npz"):
        sae = read.read(path)
        assert sae.about["format"] == "gemma_scope"
        assert sae.about["folded"] == []
        ours = from_arrays(sae).reconstruct(x()).numpy()
        np.testing.assert_allclose(ours, reconstructed(given, x()), atol=1e-6)


def test_embedding_saes_are_scaled(tmp_path) -> None:
    """Trained on rows through √D: told by the folder they are published in, or by the caller."""
    folder = tmp_path / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    given = params()
    np.savez(folder / "params.npz", **given)
    (tmp_path / "copy.npz").write_bytes((folder / "params.npz").read_bytes())
    root = math.sqrt(D)
    scaled = {**given, "W_enc": given["W_enc"] / root, "W_dec": given["W_dec"] * root}
    for path, which in (
        (folder, {}),
        (folder / "params.npz", {}),
        (tmp_path / "copy.npz", {"embedding": True}),
    ):
        sae = read.read(path, **which)
        assert "√D" in sae.about["folded"][0]
        ours = from_arrays(sae).reconstruct(x()).numpy()
        np.testing.assert_allclose(ours, reconstructed(scaled, x()), atol=1e-6)
    for path, which in ((folder, {"embedding": False}), (tmp_path / "copy.npz", {})):
        ours = from_arrays(read.read(path, **which)).reconstruct(x()).numpy()
        np.testing.assert_allclose(ours, reconstructed(given, x()), atol=1e-6)


def test_a_scaling_nobody_described_is_refused(tmp_path) -> None:
    np.savez(tmp_path / "params.npz", **params(), scaling_factor=np.ones(F, np.float32))
    read.read(tmp_path)
    np.savez(tmp_path / "params.npz", **params(), scaling_factor=np.full(F, 2, np.float32))
    with pytest.raises(SpecError, match="scaling_factor"):
        read.read(tmp_path)


def test_half_precision(tmp_path) -> None:
    half = {name: array.astype(np.float16) for name, array in params().items()}
    np.savez(tmp_path / "params.npz", **half)
    ours = from_arrays(read.read(tmp_path)).reconstruct(x()).numpy()
    single = {name: array.astype(np.float32) for name, array in half.items()}
    np.testing.assert_allclose(ours, reconstructed(single, x()), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"w_enc": np.zeros((D, F), np.float32)}, StoreError, "twice"),
        ({"extra": np.zeros(2)}, SpecError, "also holds extra"),
        ({"W_enc": np.zeros((F, D), np.float32)}, StoreError, "transposed"),
        ({"b_enc": np.zeros(F + 1, np.float32)}, StoreError, "b_enc"),
        ({"threshold": np.full(F, np.inf)}, StoreError, "infinity"),
        ({"W_dec": np.full((F, D), 1e300)}, StoreError, "infinity"),
        ({"b_dec": None}, StoreError, "lacks b_dec"),
        ({"b_dec": np.array(["a"] * D, object)}, StoreError, "pickled"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, error, word) -> None:
    given = {name: one for name, one in {**params(), **changes}.items() if one is not None}
    np.savez(tmp_path / "params.npz", **given)
    with pytest.raises(error, match=word):
        read.read(tmp_path, format="gemma_scope")


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", ["jumprelu", "relu"])
def test_round_trip(tmp_path, make, same, kind, centred) -> None:
    sae = make(kind, centred=centred)
    read.write(tmp_path, sae, "gemma_scope")
    again = read.read(tmp_path)
    same(sae, again)
    np.testing.assert_array_equal(again.W_enc, sae.W_enc)
    np.testing.assert_array_equal(again.W_dec, sae.W_dec)
    read.write(tmp_path / "one.npz", make(kind, E=5), "gemma_scope")
    same(make(kind, E=5), read.read(tmp_path / "one.npz"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "topk"}, "topk"),
        ({"kind": "batchtopk"}, "batchtopk"),
        ({"kind": "relu", "normalised": True}, "normalises each row"),
        ({"kind": "relu", "W_skip": np.eye(6, dtype=np.float32)}, "skip"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "gemma_scope")
    assert not (tmp_path / "new").exists()
