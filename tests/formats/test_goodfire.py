"""Goodfire's state dict and the class of its model card, written out."""

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.sae.model import from_arrays


class Theirs(torch.nn.Module):
    """Two linear layers and a ReLU between them; nothing is centred or scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_linear, self.decoder_linear = torch.nn.Linear(6, 12), torch.nn.Linear(12, 6)

    def forward(self, x):
        return self.decoder_linear(torch.relu(self.encoder_linear(x)))


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    return Theirs()


@pytest.fixture
def x():
    return torch.randn(30, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["Llama-3.3-70B-SAE-l50.pt", "Llama-3.1-8B-SAE-l19.pth"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reconstructs_as_the_model_card(tmp_path, theirs, x, name, dtype) -> None:
    torch.save(theirs.to(dtype).state_dict(), tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        sae = read.read(path)
        assert sae.about["format"] == "goodfire"
        ours = from_arrays(sae).reconstruct(x)
        torch.testing.assert_close(ours, theirs.float()(x).detach(), atol=1e-6, rtol=0)


def test_what_we_write_their_class_loads(tmp_path, make, theirs, x) -> None:
    sae = make("relu")
    read.write(tmp_path, sae, "goodfire")
    theirs.load_state_dict(torch.load(tmp_path / "sae.pt", weights_only=True))
    ours = from_arrays(sae).reconstruct(x)
    torch.testing.assert_close(theirs(x).detach(), ours, atol=2e-6, rtol=0)


@pytest.mark.parametrize("centred", [True, False])
def test_round_trip(tmp_path, make, same, centred) -> None:
    sae = make("relu", centred=centred)
    read.write(tmp_path / "a.pth", sae, "goodfire")
    again = read.read(tmp_path / "a.pth")
    same(sae, again)
    np.testing.assert_array_equal(again.W_dec, sae.W_dec)


@pytest.mark.parametrize(
    "changes", [{"kind": "topk"}, {"kind": "relu", "E": 5}, {"kind": "relu", "normalised": True}]
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes) -> None:
    with pytest.raises(SpecError, match="cannot be written as goodfire"):
        read.write(tmp_path / "new", make(**changes), "goodfire")
    assert not (tmp_path / "new").exists()


def test_other_files_are_refused(tmp_path, theirs) -> None:
    state = theirs.state_dict()
    torch.save({**state, "threshold": torch.zeros(12)}, tmp_path / "a.pt")
    with pytest.raises(SpecError, match="also holds threshold"):
        read.read(tmp_path / "a.pt")
    torch.save({**state, "decoder_linear.bias": torch.full((6,), torch.nan)}, tmp_path / "a.pt")
    with pytest.raises(StoreError, match="NaN"):
        read.read(tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(SpecError, match="2 SAEs"):
        read.read(tmp_path)
