"""Against what llamascopium's own class wrote and computes (tests/peers/write_llamascopium.py)."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.formats.published.llama_scope import expansion
from reseed.sae.model import from_arrays

CASES = [
    "topk", "topk_unnormed", "jumprelu", "transcoder", "transcoder_topk", "relu", "batchtopk",
    "bf16",
]  # fmt: skip


@pytest.fixture
def changed(published, tmp_path):
    def copy(case, tensors=None, **settings):
        folder = tmp_path / "copy"
        shutil.copytree(published.folder / "llamascopium" / case, folder)
        cfg = json.loads((folder / "config.json").read_text()) | settings
        (folder / "config.json").write_text(json.dumps(cfg))
        if tensors is not None:
            path = folder / "sae_weights.safetensors"
            save_file(load_file(path) | tensors, path)
        return folder

    return copy


@pytest.mark.parametrize("case", CASES)
def test_reconstructs_as_their_class(published, case) -> None:
    """With dataset-wise norms, decoder lengths in the rule, transcoders, no bias, `.pt`, bf16."""
    sae = published("llamascopium", case)
    assert not sae.centred
    assert sae.about["site"] == "blocks.3.hook_resid_post"


def test_uninitialised_norms_are_not_looked_at(published, changed) -> None:
    """Where no norms were measured, their files hold whatever was in memory."""
    before = published("llamascopium", "topk_unnormed")
    for wrong in (-4.1e-10, np.nan, 0.0):
        name = "dataset_average_activation_norm.blocks.3.hook_resid_post"
        folder = changed("topk_unnormed", {name: np.array(wrong, np.float32)})
        after = read.read(folder)
        np.testing.assert_array_equal(after.W_dec, before.W_dec)
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="no length"):
            read.read(changed("topk", {name: np.array(wrong, np.float32)}))
        shutil.rmtree(folder)


def test_thresholds_are_folded_with_the_rest(published) -> None:
    """Raw codes are those of the scaled rows through s_in; their own folding leaves thresholds."""
    folder = published.folder / "llamascopium" / "transcoder"
    w = load_file(folder / "sae_weights.safetensors")
    sae = read.read(folder)
    s_in = np.sqrt(6) / 4.5
    threshold = np.exp(w["activation_function.log_jumprelu_threshold"])
    length = np.linalg.norm(w["W_D"], axis=1)
    np.testing.assert_allclose(sae.threshold, threshold / length / s_in, rtol=1e-5)


@pytest.mark.parametrize("case", ["jumprelu", "topk"])
def test_latents_that_write_nothing_never_fire(published, changed, case) -> None:
    """Their rule looks at p times the length of the row, which is 0."""
    W_D = load_file(published.folder / "llamascopium" / case / "sae_weights.safetensors")["W_D"]
    W_D[4] = 0
    x = load_file(published.folder / "llamascopium" / "expected.safetensors")["x"]
    sae = from_arrays(read.read(changed(case, {"W_D": W_D})))
    assert not sae.encode(x)[:, 4].any()
    assert sae.encode(x).any()


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"sae_type": "crosscoder"}, SpecError, "crosscoder"),
        ({"sae_type": "clt"}, SpecError, "clt"),
        ({"norm_activation": "token-wise"}, SpecError, "token-wise"),
        ({"use_glu_encoder": True}, SpecError, "sigmoid"),
        ({"act_fn": "layertopk"}, SpecError, "layertopk"),
        ({"expansion_factor": 3.0}, StoreError, "expansion_factor"),
        ({"d_model": 12}, StoreError, "d_model 12"),
        ({"top_k": 13}, SpecError, "13"),
        ({"top_k": "three"}, StoreError, "whole number"),
        ({"hook_point_out": "blocks.9"}, StoreError, "none of 'blocks.9'"),
    ],
)
def test_other_files_are_refused(changed, settings, error, word) -> None:
    with pytest.raises(error, match=word):
        read.read(changed("topk", **settings))


def test_a_glu_encoder_is_refused_even_if_the_settings_hide_it(changed) -> None:
    with pytest.raises(SpecError, match="also holds W_E_glu"):
        read.read(changed("topk", {"W_E_glu": np.zeros((6, 12), np.float32)}))


def test_a_distributed_checkpoint_says_what_to_do(changed) -> None:
    folder = changed("topk")
    (folder / "sae_weights.safetensors").unlink()
    (folder / "sae_weights.dcp").mkdir()
    with pytest.raises(SpecError, match=r"sae_weights\.dcp.*save_checkpoint"):
        read.read(folder)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "batchtopk"])
def test_round_trip(tmp_path, make, same, kind, centred) -> None:
    sae = make(kind, centred=centred)
    read.write(tmp_path, sae, "llamascopium")
    again = read.read(tmp_path)
    same(sae, again)
    np.testing.assert_array_equal(again.W_dec, sae.W_dec)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "jumprelu", "threshold": np.zeros(12, np.float32)}, "logarithm"),
        ({"kind": "groupmax"}, "groupmax"),
        ({"kind": "relu", "normalised": True}, "normalises each row"),
        ({"kind": "relu", "E": 5}, "one number for both"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "llamascopium")
    assert not (tmp_path / "new").exists()


@given(st.integers(1, 10**6), st.integers(1, 20_000))
def test_the_expansion_factor_gives_the_width_back(F, D) -> None:
    assert int(D * expansion(F, D)) == F
