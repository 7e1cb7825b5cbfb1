"""Against what SAELens 6.54.12 wrote and computes (tests/peers/write_formats.py)."""

import json
import shutil

import numpy as np
import pytest

from reseed.errors import SpecError, StoreError
from reseed.formats import read

KINDS = {
    "standard": "relu",
    "standard_uncentred": "relu",
    "standard_layer_norm": "relu",
    "topk": "topk",
    "topk_rescaled": "topk",
    "jumprelu": "jumprelu",
    "jumprelu_bf16": "jumprelu",
    "gated": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "batchtopk_finished": "jumprelu",
    "batchtopk_scaled_finished": "jumprelu",
    "batchtopk_plain_scaled_finished": "jumprelu",
    "old_standard": "relu",
    "old_topk": "topk",
    "old_gated": "jumprelu",
}


@pytest.mark.parametrize("case", KINDS)
def test_reconstructs_as_saelens(published, case) -> None:
    sae = published("saelens", case)
    assert sae.activation["kind"] == KINDS[case]
    assert sae.normalised is (case == "standard_layer_norm")
    assert (sae.W_skip is not None) is ("skip" in case)
    assert sae.W_dec.shape == (12, 5 if "transcoder" in case else 6)


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ("topk", ""),
        ("topk_scaled", "scaled by 2.5"),
        ("batchtopk", "threshold"),
        ("batchtopk_scaled", "scaled by 2.5"),
        ("batchtopk_plain_scaled", "scaled by 0.3"),
        ("matryoshka", "threshold"),
        ("standard_scaled", "scaled by 0.3"),
        ("jumprelu_scaled", "scaled by 2.5"),
        ("gated_scaled", "gate"),
        ("standard_whitened", "whitening"),
        ("gated_whitened", "whitening"),
        ("topk_whitened", "whitening"),
    ],
)
def test_checkpoints_compute_what_the_finished_sae_does(published, case, word) -> None:
    """SAELens itself loads these in scaled units; the finished SAE is the truth."""
    sae = published("saelens", f"training_{case}")
    assert word in " ".join(sae.about["folded"])
    if case in ("topk", "topk_scaled", "batchtopk", "batchtopk_scaled", "matryoshka"):
        np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)
    if case.startswith("batchtopk"):
        finished = published("saelens", f"{case}_finished")
        for name in ("W_enc", "b_enc", "threshold"):
            ours, theirs = getattr(sae, name), getattr(finished, name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_a_reader_should_know_is_said(published) -> None:
    def warned(case):
        return " ".join(published("saelens", case).about["warnings"])

    assert "round them away" in warned("jumprelu_bf16")
    assert "before version 6" in warned("old_topk")
    assert warned("topk") == ""
    old = published("saelens", "old_standard").about
    assert (old["subject"], old["site"]) == ("gpt2-small", "blocks.1.hook_resid_pre")


@pytest.mark.parametrize(
    ("case", "word"), [("refused_abstopk", "both signs"), ("refused_constant_norm", "one length")]
)
def test_kinds_without_counterpart_are_refused(published, case, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.read(published.folder / "saelens" / case)


@pytest.fixture
def copy(published, tmp_path):
    """A copy of a published SAE with changed settings."""

    def change(case, **settings):
        folder = tmp_path / "copy"
        shutil.copytree(published.folder / "saelens" / case, folder)
        cfg = json.loads((folder / "cfg.json").read_text()) | settings
        (folder / "cfg.json").write_text(json.dumps(cfg))
        return folder

    return change


@pytest.mark.parametrize(
    ("case", "settings", "error", "word"),
    [
        ("topk", {"architecture": "matching_pursuit"}, SpecError, "several steps"),
        ("topk", {"architecture": "temporal"}, SpecError, "tokens before"),
        ("topk", {"architecture": "topkk"}, StoreError, "topkk"),
        ("topk", {"k": None}, StoreError, "whole number"),
        ("topk", {"d_sae": 11}, StoreError, "does not fit"),
        ("topk", {"normalize_activations": "sphere"}, StoreError, "sphere"),
        ("standard", {"normalize_activations": "covariance_whitening"}, SpecError, "whitening"),
        ("transcoder", {"normalize_activations": "layer_norm"}, SpecError, "transcoder"),
        ("old_topk", {"activation_fn_kwargs": {}}, StoreError, "k should"),
        ("old_standard", {"activation_fn_str": "tanh-relu"}, SpecError, "tanh-relu"),
    ],
)
def test_settings_that_do_not_fit(copy, case, settings, error, word) -> None:
    with pytest.raises(error, match=word):
        read.read(copy(case, **settings))


def test_a_lost_scaling_factor_is_warned_of(copy) -> None:
    folder = copy("standard", normalize_activations="expected_average_only_in")
    assert "activation_scaler.json" in " ".join(read.read(folder).about["warnings"])
    (folder / "activation_scaler.json").write_text('{"scaling_factor": -1.0}')
    with pytest.raises(StoreError, match="no scale"):
        read.read(folder)


def test_a_threshold_that_was_never_set_is_warned_of(copy, published) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy("training_batchtopk")
    arrays = load_file(folder / "sae_weights.safetensors")
    save_file(
        arrays | {"topk_threshold": np.zeros((), np.float64)}, folder / "sae_weights.safetensors"
    )
    assert "never set" in " ".join(read.read(folder).about["warnings"])


def test_factors_of_finetuning_are_folded(copy, published, same) -> None:
    from dataclasses import replace

    from safetensors.numpy import load_file, save_file

    folder = copy("old_standard", finetuning_scaling_factor=True)
    file = folder / "sae_weights.safetensors"
    factor = np.linspace(0.5, 1.5, 12, dtype=np.float32)
    save_file(load_file(file) | {"scaling_factor": factor}, file)
    plain = published("saelens", "old_standard")
    scaled = read.read(folder)
    same(replace(plain, W_dec=plain.W_dec * factor[:, None]), scaled)
    assert "finetuning" in " ".join(scaled.about["folded"])


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({"kind": "topk"}, "topk"),
        ({"kind": "relu"}, "standard"),
        ({"kind": "relu", "centred": False}, "standard"),
        ({"kind": "jumprelu"}, "jumprelu"),
        ({"kind": "topk", "normalised": True}, "topk"),
        ({"kind": "relu", "E": 5}, "transcoder"),
        ({"kind": "jumprelu", "E": 5}, "jumprelu_transcoder"),
        ({"kind": "relu", "W_skip": np.ones((6, 6), np.float32)}, "skip_transcoder"),
        (
            {"kind": "jumprelu", "E": 5, "W_skip": np.ones((5, 6), np.float32)},
            "jumprelu_skip_transcoder",
        ),
    ],
)
def test_round_trip(tmp_path, make, same, changes, architecture) -> None:
    sae = make(**changes)
    read.write(tmp_path, sae, "saelens")
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"] == architecture
    assert cfg["metadata"]["sae_lens_version"] >= "6"
    again = read.read(tmp_path)
    same(sae, again)
    assert again.about["warnings"] == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "groupmax", "k": 4}, "groupmax"),
        ({"kind": "batchtopk"}, "batch rule"),
        ({"kind": "topk", "E": 5}, "no transcoder with topk"),
        ({"kind": "relu", "E": 5, "normalised": True}, "scale back"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "saelens")
    assert not (tmp_path / "new").exists()
