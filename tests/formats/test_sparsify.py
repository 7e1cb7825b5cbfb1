"""Against what sparsify 1.3.3 wrote and computes (tests/peers/write_formats.py)."""

import json
import shutil

import numpy as np
import pytest

from reseed.errors import SpecError, StoreError
from reseed.formats import read


@pytest.mark.parametrize(
    "case", ["topk", "groupmax", "num_latents_0", "transcoder", "skip_transcoder", "skip", "bf16"]
)
def test_reconstructs_as_sparsify(published, case) -> None:
    sae = published("sparsify", case)
    assert sae.W_enc.shape == (12, 6)
    assert sae.centred is ("transcoder" not in case)
    assert (sae.W_skip is not None) is ("skip" in case)


def test_seed_folders_are_listed_and_not_guessed(published) -> None:
    run = published.folder / "sparsify" / "run"
    assert read.list_saes(run) == ["layers.1.mlp/seed0", "layers.1.mlp/seed1"]
    with pytest.raises(SpecError, match=r"2 SAEs.*seed0, layers.1.mlp/seed1"):
        read.read(run)
    assert read.read(run, inner="layers.1.mlp/seed1").about["init_seed"] == 1
    sae = published("sparsify", "run/layers.1.mlp/seed1")
    assert sae.about["site"] == "layers.1.mlp"


def test_a_file_of_the_folder_names_it_too(published) -> None:
    published("sparsify", "topk", at="topk/sae.safetensors")
    published("sparsify", "topk", at="topk/cfg.json")


@pytest.fixture
def copy(published, tmp_path):
    """A copy of a published SAE with changed settings."""

    def change(case="topk", **settings):
        folder = tmp_path / "copy"
        shutil.copytree(published.folder / "sparsify" / case, folder)
        cfg = json.loads((folder / "cfg.json").read_text()) | settings
        (folder / "cfg.json").write_text(json.dumps({k: v for k, v in cfg.items() if v != "gone"}))
        return folder

    return change


def test_unknown_settings_do_no_harm(copy) -> None:
    assert read.read(copy(signed=False, of_tomorrow=1)).activation == {"kind": "topk", "k": 3}


def test_settings_of_before_there_were_kinds(copy) -> None:
    sae = read.read(copy(activation="gone", transcode="gone", skip_connection="gone"))
    assert sae.activation["kind"] == "topk"
    assert sae.centred


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"signed": True}, SpecError, "signed"),
        ({"k": 4000}, SpecError, "4000 cannot be applied to 12"),
        ({"k": 10**4000}, StoreError, "whole number"),
        ({"expansion_factor": 10**4000, "num_latents": 0}, StoreError, "whole number"),
        ({"k": "gone"}, StoreError, "k should be a whole number"),
        ({"num_latents": 13}, StoreError, "does not fit"),
        ({"d_in": 7}, StoreError, "does not fit"),
        ({"activation": "softmax"}, SpecError, "softmax"),
        ({"transcode": "yes"}, StoreError, "true or false"),
        ({"skip_connection": True}, StoreError, "lacks W_skip"),
    ],
)
def test_settings_that_do_not_fit(copy, settings, error, word) -> None:
    with pytest.raises(error, match=word):
        read.read(copy(**settings))


@pytest.mark.parametrize("kind", ["topk", "groupmax"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_round_trip_is_bit_equal(tmp_path, make, kind, centred, skip) -> None:
    W_skip = np.eye(6, dtype=np.float32) if skip else None
    sae = make(kind, centred=centred, W_skip=W_skip)
    read.write(tmp_path, sae, "sparsify")
    again = read.read(tmp_path)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sae, name))
    assert (again.activation, again.centred) == (sae.activation, centred)
    np.testing.assert_array_equal(again.W_skip, W_skip)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "jumprelu"}, "activation is jumprelu"),
        ({"kind": "topk", "normalised": True}, "normalise"),
        ({"kind": "topk", "E": 5}, "reads 6 dimensions and writes 5"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "sparsify")
    assert not (tmp_path / "new").exists()
