"""Against what the BatchTopK repository wrote and computes (tests/peers/write_formats.py)."""

import json
import shutil

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.formats import read


@pytest.mark.parametrize("kind", ["vanilla", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("norm", ["", "_unit_norm"])
def test_reconstructs_as_its_classes(published, kind, norm) -> None:
    sae = published("batchtopk", kind + norm)
    assert sae.normalised is bool(norm)
    assert sae.about["site"] == "blocks.1.hook_resid_pre"


def test_the_bias_that_is_never_used_is_left_out(published) -> None:
    sae = published("batchtopk", "topk")
    assert not sae.b_enc.any()
    assert "never uses" in sae.about["folded"][0]
    assert published("batchtopk", "vanilla").b_enc.any()


def test_a_missing_threshold_is_said(published) -> None:
    sae = published("batchtopk", "batchtopk")
    assert sae.activation == {"kind": "batchtopk", "k": 3}
    assert "no threshold is saved" in sae.about["warnings"][0]


@pytest.mark.parametrize(
    ("settings", "word"), [({"sae_type": "quantile"}, "quantile"), ({"activation": "gelu"}, "relu")]
)
def test_other_kinds_are_refused(published, tmp_path, settings, word) -> None:
    shutil.copytree(published.folder / "batchtopk" / "topk", tmp_path / "copy")
    cfg = json.loads((tmp_path / "copy" / "config.json").read_text()) | settings
    (tmp_path / "copy" / "config.json").write_text(json.dumps(cfg))
    with pytest.raises(SpecError, match=word):
        read.read(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk", "batchtopk"])
@pytest.mark.parametrize("normalised", [False, True])
def test_round_trip(tmp_path, make, same, kind, normalised) -> None:
    bias = {} if "relu" in kind else {"b_enc": np.zeros(12, np.float32)}
    sae = make(kind, normalised=normalised, **bias)
    read.write(tmp_path, sae, "batchtopk")
    same(sae, read.read(tmp_path))


def test_thresholds_at_or_below_zero_pass_what_relu_passes(tmp_path, make, same) -> None:
    sae = make("jumprelu", threshold=np.linspace(-1, 0, 12).astype(np.float32))
    read.write(tmp_path, sae, "batchtopk")
    same(sae, read.read(tmp_path))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "topk"}, "no encoder bias"),
        ({"kind": "groupmax", "k": 4}, "groupmax"),
        ({"kind": "relu", "E": 5}, "reads 6 dimensions and writes 5"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "batchtopk")
    assert not (tmp_path / "new").exists()
