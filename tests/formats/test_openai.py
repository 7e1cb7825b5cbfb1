"""Against what OpenAI's own class wrote and computes (tests/peers/write_openai.py)."""

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.formats import read


@pytest.mark.parametrize("case", ["topk", "relu"])
def test_reconstructs_as_their_class(published, case) -> None:
    sae = published("openai", case)
    assert sae.normalised is (case == "topk")
    assert sae.centred


def test_a_folder_of_layers_asks_which(published, tmp_path, make) -> None:
    for layer in (2, 10):
        read.write(tmp_path, make("relu"), "openai", layer=layer)
    with pytest.raises(SpecError, match=r"2 SAEs.*2\.pt, 10\.pt"):
        read.read(tmp_path)
    assert read.read(tmp_path, inner="10.pt").activation == {"kind": "relu"}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("kind", "normalised"), [("topk", True), ("relu", False)])
def test_round_trip(tmp_path, make, same, kind, normalised, centred) -> None:
    sae = make(kind, normalised=normalised, centred=centred)
    read.write(tmp_path / "3.pt", sae, "openai")
    again = read.read(tmp_path / "3.pt")
    same(sae, again)
    if centred:
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            np.testing.assert_array_equal(getattr(again, name), getattr(sae, name))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "topk"}, "does not normalise rows"),
        ({"kind": "relu", "normalised": True}, "for ReLU never"),
        ({"kind": "jumprelu"}, "jumprelu"),
        ({"kind": "relu", "E": 5}, "one number for both"),
        ({"kind": "relu", "W_skip": np.eye(6, dtype=np.float32)}, "skip"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.write(tmp_path / "new", make(**changes), "openai")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"activation": "Identity"}, SpecError, "no sparse codes"),
        ({"activation_state_dict": {"k": 3, "postact_fn": "Identity"}}, SpecError, "Identity"),
        ({"activation_state_dict": {}}, StoreError, "should hold k"),
        ({"activation_state_dict": {"k": 13, "postact_fn": "ReLU"}}, SpecError, "13"),
        ({"more": torch.zeros(2)}, SpecError, "also holds more"),
        ({"encoder.weight": torch.zeros(6, 12)}, StoreError, "transposed"),
        ({"pre_bias": None}, StoreError, "pre_bias"),
    ],
)
def test_other_files_are_refused(published, tmp_path, changes, error, word) -> None:
    content = torch.load(published.folder / "openai" / "topk" / "6.pt", weights_only=True)
    torch.save(
        {k: v for k, v in {**content, **changes}.items() if v is not None}, tmp_path / "6.pt"
    )
    with pytest.raises(error, match=word):
        read.read(tmp_path, format="openai")


def test_without_a_word_on_the_rule_it_is_relu(published, tmp_path) -> None:
    """As their loader takes it."""
    content = torch.load(published.folder / "openai" / "relu" / "6.pt", weights_only=True)
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    torch.save(tensors, tmp_path / "6.pt")
    assert read.read(tmp_path / "6.pt").activation == {"kind": "relu"}
