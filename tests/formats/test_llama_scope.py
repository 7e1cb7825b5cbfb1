"""Against what lm_saes of October 2024 wrote, loads and computes (tests/peers/write_lm_saes.py)."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.sae.model import from_arrays


@pytest.fixture
def changed(published, tmp_path):
    """A case with other settings, and without some."""

    def copy(case, without=(), **settings):
        folder = tmp_path / "copy"
        shutil.copytree(published.folder / "llama_scope" / case, folder)
        cfg = json.loads((folder / "hyperparams.json").read_text()) | settings
        kept = {key: value for key, value in cfg.items() if key not in without}
        (folder / "hyperparams.json").write_text(json.dumps(kept))
        return folder

    return copy


@pytest.mark.parametrize(
    "case", ["residual", "transcoder", "topk", "trained_as_topk", "centred", "unbiased"]
)
def test_reconstructs_as_their_class(published, case) -> None:
    sae = published("llama_scope", case)
    assert sae.about["site"] == "blocks.8.hook_resid_post"
    assert sae.centred is (case == "centred")


def test_their_rule_written_out(published) -> None:
    """Fold the norms, scale decoder rows to length 1, compare with the threshold as it is."""
    folder = published.folder / "llama_scope" / "transcoder"
    w = load_file(folder / "checkpoints" / "final.safetensors")
    x = load_file(folder.parent / "expected.safetensors")["x"]
    s_in, s_out = math.sqrt(6) / 5.5, math.sqrt(6) / 0.8
    D = w["decoder.weight"] * s_in / s_out
    n = np.linalg.norm(D, axis=0)
    p = (x @ w["encoder.weight"].T + w["encoder.bias"] / s_in) * n
    out = np.where(p > 0.1, p, 0) @ (D / n).T + w["decoder.bias"] / s_out
    sae = from_arrays(read.read(folder))
    np.testing.assert_allclose(sae.reconstruct(x).numpy(), out, atol=1e-5)
    np.testing.assert_allclose(sae.encode(x).numpy(), np.where(p > 0.1, p, 0), atol=1e-5)


def test_the_threshold_of_published_files_is_in_raw_units(make, tmp_path) -> None:
    """Their SAEs have s_in = s_out and decoder rows of length 1: then the rule looks at raw p."""
    D = make("relu").W_dec
    weights = make("relu", W_dec=D / np.linalg.norm(D, axis=1, keepdims=True), centred=False)
    read.write(tmp_path, weights, "llama_scope")
    cfg = json.loads((tmp_path / "hyperparams.json").read_text())
    cfg |= {"dataset_average_activation_norm": {"in": 7.0, "out": 7.0}, "act_fn": "jumprelu"}
    cfg |= {"jump_relu_threshold": 0.25, "sparsity_include_decoder_norm": True}
    (tmp_path / "hyperparams.json").write_text(json.dumps(cfg))
    sae = read.read(tmp_path)
    np.testing.assert_array_equal(sae.threshold, np.float32(0.25))
    np.testing.assert_allclose(sae.b_enc, weights.b_enc * 7 / math.sqrt(6), rtol=1e-6)
    np.testing.assert_allclose(sae.W_dec, weights.W_dec, atol=1e-7)
    assert "dataset-wise norms" in sae.about["folded"][0]


def test_what_is_said_and_done_differently_is_told(published) -> None:
    sae = published("llama_scope", "trained_as_topk")
    assert sae.activation == {"kind": "topk", "k": 3}
    assert "threshold of 0.5" in sae.about["warnings"][0]
    assert published("llama_scope", "topk").about["warnings"] == []


def test_weights_given_by_name_find_their_settings(published) -> None:
    published("llama_scope", "residual", at="residual/checkpoints/final.safetensors")


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"norm_activation": "token-wise"}, SpecError, "token-wise"),
        ({"norm_activation": "batch-wise"}, SpecError, "batch-wise"),
        ({"use_glu_encoder": True}, SpecError, "sigmoid"),
        ({"act_fn": "gelu"}, SpecError, "gelu"),
        ({"jump_relu_threshold": -1}, StoreError, "jump_relu_threshold"),
        ({"d_model": 7}, StoreError, "d_model 7"),
        ({"dataset_average_activation_norm": {"in": 5.5}}, StoreError, "none of"),
        ({"dataset_average_activation_norm": {"in": 0.0, "out": 1}}, StoreError, "no length"),
        ({"dataset_average_activation_norm": None}, StoreError, "none of"),
        ({"use_decoder_bias": "yes"}, StoreError, "true or false"),
    ],
)
def test_other_files_are_refused(changed, settings, error, word) -> None:
    with pytest.raises(error, match=word):
        read.read(changed("residual", **settings))


def test_a_glu_encoder_is_refused_even_if_the_settings_hide_it(changed) -> None:
    folder = changed("residual")
    path = folder / "checkpoints" / "final.safetensors"
    save_file({**load_file(path), "encoder_glu.weight": np.zeros((12, 6), np.float32)}, path)
    with pytest.raises(SpecError, match="also holds encoder_glu"):
        read.read(folder)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_round_trip(tmp_path, make, same, kind, centred) -> None:
    threshold = {"threshold": np.full(12, 0.3, np.float32)} if kind == "jumprelu" else {}
    sae = make(kind, centred=centred, **threshold)
    read.write(tmp_path, sae, "llama_scope")
    again = read.read(tmp_path)
    same(sae, again)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sae, name))
    assert again.centred is centred


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "jumprelu"}, "one threshold"),
        ({"kind": "batchtopk"}, "batchtopk"),
        ({"kind": "relu", "normalised": True}, "normalises each row"),
        ({"kind": "relu", "E": 5}, "one number for both"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "llama_scope")
    assert not (tmp_path / "new").exists()
