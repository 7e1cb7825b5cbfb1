"""Against what dictionary_learning wrote and computes (tests/peers/write_formats.py)."""

import shutil

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.formats.published.dictionary_learning import TENSORS

SCALED = sorted(set(TENSORS) - {"AutoEncoderNew"})


@pytest.mark.parametrize("case", TENSORS)
def test_reconstructs_as_each_class(published, case) -> None:
    sae = published("dictionary_learning", case)
    assert sae.about["dict_class"] == case
    assert sae.centred is (case not in ("AutoEncoderNew", "JumpReluAutoEncoder"))


@pytest.mark.parametrize("case", SCALED)
def test_backups_are_scaled_back(published, case) -> None:
    sae = published("dictionary_learning", f"backup_{case}")
    assert "2.5" in sae.about["folded"][0]
    assert "backup" in " ".join(sae.about["warnings"])


@pytest.fixture
def lone(published, tmp_path):
    """The `ae.pt` of a class, changed, without its config.json."""

    def change(case, **tensors):
        state = torch.load(
            published.folder / "dictionary_learning" / case / "ae.pt", weights_only=True
        )
        kept = {k: v for k, v in (dict(state) | tensors).items() if v is not None}
        torch.save(kept, tmp_path / "ae.pt")
        return tmp_path / "ae.pt"

    return change


def test_topk_and_batchtopk_are_not_guessed_between(lone, published) -> None:
    path = lone("BatchTopKSAE")
    with pytest.raises(SpecError, match="AutoEncoderTopK or a BatchTopKSAE"):
        read.read(path)
    sae = read.read(path, dict_class="BatchTopKSAE")
    np.testing.assert_allclose(sae.threshold, 0.3)
    assert read.read(path, dict_class="AutoEncoderTopK").activation == {"kind": "topk", "k": 3}


def test_other_classes_need_no_config(lone) -> None:
    assert read.read(lone("AutoEncoder")).activation == {"kind": "relu"}


def test_checkpoints_find_the_config_above(published, tmp_path) -> None:
    case = published.folder / "dictionary_learning" / "BatchTopKSAE"
    shutil.copytree(case, tmp_path / "trainer_0")
    (tmp_path / "trainer_0" / "checkpoints").mkdir()
    shutil.copy(case / "ae.pt", tmp_path / "trainer_0" / "checkpoints" / "ae_10.pt")
    found = read.list_saes(tmp_path)
    assert found == ["trainer_0", "trainer_0/checkpoints/ae_10.pt"]
    sae = read.read(tmp_path, inner=found[1])
    assert sae.about["dict_class"] == "BatchTopKSAE"


def test_a_threshold_that_was_never_set_is_no_value(lone) -> None:
    """Its class takes -1 as a threshold, and gives a plain relu; the rule of training was not."""
    path = lone("BatchTopKSAE", threshold=torch.tensor(-1.0))
    sae = read.read(path, dict_class="BatchTopKSAE")
    assert sae.activation == {"kind": "batchtopk", "k": 3}
    assert sae.threshold is None
    assert "never set" in " ".join(sae.about["warnings"])


def test_files_of_before_there_were_thresholds(lone) -> None:
    sae = read.read(lone("AutoEncoderTopK", threshold=None), dict_class="AutoEncoderTopK")
    assert sae.activation == {"kind": "topk", "k": 3}


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({"bias": torch.full((6,), torch.nan)}, "NaN"),
        ({"bias": torch.zeros(7)}, "does not fit"),
        ({"encoder.weight": torch.zeros(6, 12)}, "does not fit"),
        ({"bias": "no tensor"}, "no array"),
    ],
)
def test_damaged_tensors(lone, tensors, word) -> None:
    with pytest.raises(StoreError, match=word):
        read.read(lone("AutoEncoder", **tensors))


def test_a_backup_without_a_norm_factor_stays_as_it_is(lone, tmp_path, published, same) -> None:
    state = torch.load(lone("AutoEncoder"), weights_only=True)
    torch.save({"step": 1, "ae": state, "config": {}, "norm_factor": None}, tmp_path / "ae.pt")
    same(published("dictionary_learning", "AutoEncoder"), read.read(tmp_path))
    torch.save({"step": 1, "ae": state, "config": {}, "norm_factor": 0.0}, tmp_path / "ae.pt")
    with pytest.raises(StoreError, match="no scale"):
        read.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"kind": "topk"}, "AutoEncoderTopK"),
        ({"kind": "topk", "centred": False}, "AutoEncoderTopK"),
        ({"kind": "batchtopk"}, "BatchTopKSAE"),
        ({"kind": "relu"}, "AutoEncoder"),
        ({"kind": "relu", "centred": False}, "AutoEncoderNew"),
        ({"kind": "jumprelu"}, "JumpReluAutoEncoder"),
    ],
)
@pytest.mark.parametrize("file", ["folder", "ae_7.pt"])
def test_round_trip(tmp_path, make, same, changes, name, file) -> None:
    sae = make(**changes)
    read.write(tmp_path / file, sae, "dictionary_learning")
    again = read.read(tmp_path / file)
    assert again.about["dict_class"] == name
    same(sae, again)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "groupmax", "k": 4}, "groupmax"),
        ({"kind": "relu", "E": 5}, "reads 6 dimensions and writes 5"),
        ({"kind": "relu", "normalised": True}, "normalise"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "dictionary_learning")
    assert not (tmp_path / "new").exists()
