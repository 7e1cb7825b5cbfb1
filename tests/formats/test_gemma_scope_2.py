"""Gemma Scope 2's arrays and its published class, written out."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.sae.model import from_arrays

D, F = 6, 12
CONFIG = {
    "architecture": "jump_relu",
    "model_name": "gemma-v3-270m-pt",
    "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output",
    "affine_connection": False,
}


def params(*, E=D, skip=False):
    rng = np.random.default_rng(0)
    sizes = {"w_enc": (D, F), "w_dec": (F, E), "b_enc": (F,), "b_dec": (E,), "threshold": (F,)}
    sizes |= {"affine_skip_connection": (D, E)} if skip else {}
    out = {name: 0.5 * rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return {**out, "threshold": np.abs(out["threshold"])}


def write(folder, given, **config):
    save_file(given, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))


def reconstructed(p, x):
    pre = x @ p["w_enc"] + p["b_enc"]
    out = np.maximum(pre, 0) * (pre > p["threshold"]) @ p["w_dec"] + p["b_dec"]
    return out + x @ p["affine_skip_connection"] if "affine_skip_connection" in p else out


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(20, D)).astype(np.float32)


@pytest.mark.parametrize("outputs", [D, 5])
@pytest.mark.parametrize("skip", [False, True])
def test_reconstructs_by_the_formula(tmp_path, x, skip, outputs) -> None:
    given = params(E=outputs, skip=skip)
    write(tmp_path, given, affine_connection=skip)
    for path in (tmp_path, tmp_path / "params.safetensors"):
        sae = read.read(path)
        assert sae.about["subject"] == "gemma-v3-270m-pt"
        assert sae.about["site"] == CONFIG["hf_hook_point_in"]
        ours = from_arrays(sae).reconstruct(x).numpy()
        np.testing.assert_allclose(ours, reconstructed(given, x), atol=1e-6)


def test_settings_need_not_be_there(tmp_path, x) -> None:
    save_file(params(), tmp_path / "params.safetensors")
    ours = from_arrays(read.read(tmp_path)).reconstruct(x).numpy()
    np.testing.assert_allclose(ours, reconstructed(params(), x), atol=1e-6)


def test_bfloat16(tmp_path, x) -> None:
    half = {name: torch.from_numpy(array).bfloat16() for name, array in params().items()}
    save_tensors(half, tmp_path / "params.safetensors")
    ours = from_arrays(read.read(tmp_path)).reconstruct(x).numpy()
    single = {name: tensor.float().numpy() for name, tensor in half.items()}
    np.testing.assert_allclose(ours, reconstructed(single, x), atol=1e-6)


def test_cross_layer_transcoders_are_refused(tmp_path) -> None:
    save_file(
        params() | {"w_dec": np.zeros((F, 3, D), np.float32)}, tmp_path / "params.safetensors"
    )
    with pytest.raises(SpecError, match="cross-layer transcoder: its latents write to 3 layers"):
        read.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "error", "word"),
    [
        ({"architecture": "topk"}, SpecError, "topk"),
        ({"affine_connection": True}, SpecError, "promises affine_skip"),
    ],
)
def test_settings_of_something_else_are_refused(tmp_path, config, error, word) -> None:
    write(tmp_path, params(), **config)
    with pytest.raises(error, match=word):
        read.read(tmp_path)


def test_nan_is_refused(tmp_path) -> None:
    save_file(params() | {"b_dec": np.full(D, np.nan, np.float32)}, tmp_path / "params.safetensors")
    with pytest.raises(StoreError, match="NaN"):
        read.read(tmp_path)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("kind", ["jumprelu", "relu"])
def test_round_trip(tmp_path, make, same, kind, skip) -> None:
    W_skip = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32) if skip else None
    sae = make(kind, E=5, W_skip=W_skip, about={"subject": "a", "site": "b", "site_out": "c"})
    read.write(tmp_path, sae, "gemma_scope_2")
    again = read.read(tmp_path)
    same(sae, again)
    assert {key: again.about[key] for key in sae.about} == sae.about
    for name in ("W_enc", "W_dec", "W_skip"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sae, name))


def test_what_it_cannot_express_is_refused(tmp_path, make) -> None:
    for changes in ({"kind": "topk"}, {"kind": "relu", "normalised": True}):
        with pytest.raises(SpecError):
            read.write(tmp_path / "new", make(**changes), "gemma_scope_2")
    assert not (tmp_path / "new").exists()
