"""Against what lm_saes of February 2025 wrote and computes (tests/peers/write_lm_saes.py)."""

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.sae.model import from_arrays


@pytest.mark.parametrize("case", ["jumprelu", "transcoder", "centred", "unnormed"])
def test_reconstructs_as_their_class(published, case) -> None:
    sae = published("llama_scope_r1", case)
    assert sae.about["site"] == "blocks.8.hook_resid_post"


def test_their_rule_written_out(published) -> None:
    """All in units of the scaled rows; the gate looks at p times the length of the row."""
    folder = published.folder / "llama_scope_r1" / "transcoder"
    w = load_file(folder / "sae_weights.safetensors")
    x = load_file(folder.parent / "expected.safetensors")["x"]
    s_in, s_out = math.sqrt(6) / 5.5, math.sqrt(6) / 0.8
    p = s_in * x @ w["encoder.weight"].T + w["encoder.bias"]
    n = np.linalg.norm(w["decoder.weight"], axis=0)
    codes = p * (p * n > np.exp(w["log_jumprelu_threshold"]))
    out = (codes @ w["decoder.weight"].T + w["decoder.bias"]) / s_out
    sae = from_arrays(read.read(folder))
    np.testing.assert_allclose(sae.reconstruct(x).numpy(), out, atol=1e-5)
    np.testing.assert_allclose(sae.encode(x).numpy(), codes / s_in, atol=1e-5)


def test_norms_are_looked_at_only_if_asked_for(published, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(published.folder / "llama_scope_r1" / "unnormed", folder)
    assert read.read(folder).about["folded"] == [
        "lengths of decoder rows, by which the rule scales pre-activations"
    ]
    cfg = json.loads((folder / "config.json").read_text()) | {"norm_activation": "dataset-wise"}
    (folder / "config.json").write_text(json.dumps(cfg))
    assert "dataset-wise norms" in read.read(folder).about["folded"][0]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_round_trip(tmp_path, make, same, kind, centred) -> None:
    sae = make(kind, centred=centred)
    read.write(tmp_path, sae, "llama_scope_r1")
    same(sae, read.read(tmp_path))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "jumprelu", "threshold": np.zeros(12, np.float32)}, "logarithm"),
        ({"kind": "batchtopk"}, "batchtopk"),
        ({"kind": "relu", "normalised": True}, "normalises each row"),
        ({"kind": "relu", "W_skip": np.eye(6, dtype=np.float32)}, "skip"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "llama_scope_r1")
    assert not (tmp_path / "new").exists()


def test_thresholds_must_be_there(published, tmp_path, make) -> None:
    read.write(tmp_path, make("relu"), "llama_scope_r1")
    cfg = json.loads((tmp_path / "config.json").read_text()) | {"act_fn": "jumprelu"}
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    with pytest.raises(StoreError, match="no thresholds"):
        read.read(tmp_path)
