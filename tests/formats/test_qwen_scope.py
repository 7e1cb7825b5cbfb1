"""Qwen Scope's dict of four tensors and the code of its model card, written out."""

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.sae.model import from_arrays

NAME = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"


def content(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = {"W_enc": (12, 6), "W_dec": (6, 12), "b_enc": (12,), "b_dec": (6,)}
    return {
        name: (torch.randn(size, generator=generator) * 0.5).to(dtype)
        for name, size in sizes.items()
    }


def reconstructed(sae, x, k):
    """As on the model card, which does not put a ReLU on what it takes."""
    pre = x @ sae["W_enc"].float().T + sae["b_enc"].float()
    values, places = pre.topk(k, dim=-1)
    codes = torch.zeros_like(pre).scatter_(-1, places, values)
    return codes @ sae["W_dec"].float().T + sae["b_dec"].float(), (values > 0).all(dim=-1)


@pytest.fixture
def x():
    return torch.randn(60, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reconstructs_as_the_model_card(tmp_path, x, dtype) -> None:
    """On rows with at least k pre-activations above 0, as all have at their size."""
    folder = tmp_path / NAME
    folder.mkdir()
    torch.save(content(dtype), folder / "layer7.sae.pt")
    theirs, full = reconstructed(content(dtype), x, 3)
    assert full.sum() > 40
    for path in (folder, folder / "layer7.sae.pt"):
        sae = read.read(path)
        assert sae.activation == {"kind": "topk", "k": 3}
        assert "name of the folder" in sae.about["k"]
        ours = from_arrays(sae).reconstruct(x)
        torch.testing.assert_close(ours[full], theirs[full], atol=2e-6, rtol=0)


def test_in_a_hub_cache_the_name_stands_further_up(tmp_path) -> None:
    folder = tmp_path / f"models--Qwen--{NAME}" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    torch.save(content(), folder / "layer0.sae.pt")
    assert read.read(folder / "layer0.sae.pt").activation["k"] == 3


def test_k_is_never_guessed(tmp_path) -> None:
    torch.save(content(), tmp_path / "layer0.sae.pt")
    with pytest.raises(SpecError, match="does not say its k"):
        read.read(tmp_path)
    assert read.read(tmp_path, k=5).activation["k"] == 5
    with pytest.raises(SpecError, match="13"):
        read.read(tmp_path, k=13)


def test_transposed_matrices_are_another_format(tmp_path) -> None:
    """The same four names with the matrices the other way round are SAELens' or BatchTopK's."""
    given = content()
    given |= {"W_enc": given["W_enc"].T.contiguous(), "W_dec": given["W_dec"].T.contiguous()}
    torch.save(given, tmp_path / "layer0.sae.pt")
    assert "qwen_scope" not in read.recognise(tmp_path)
    with pytest.raises(StoreError, match="transposed"):
        read.read(tmp_path, format="qwen_scope", k=3)


@pytest.mark.parametrize("centred", [True, False])
def test_round_trip(tmp_path, make, same, centred) -> None:
    sae = make("topk", centred=centred)
    read.write(tmp_path / NAME, sae, "qwen_scope", layer=4)
    again = read.read(tmp_path / NAME / "layer4.sae.pt")
    same(sae, again)
    np.testing.assert_array_equal(again.W_dec, sae.W_dec)


def test_k_is_not_lost_when_writing(tmp_path, make) -> None:
    for name in ("new", "SAE-Res-x-W32K-L0_4"):
        with pytest.raises(SpecError, match="ends in -L0_3"):
            read.write(tmp_path / name, make("topk"), "qwen_scope")
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "changes", [{"kind": "relu"}, {"kind": "topk", "E": 5}, {"kind": "topk", "normalised": True}]
)
def test_what_it_cannot_express_is_refused(tmp_path, make, changes) -> None:
    with pytest.raises(SpecError, match="cannot be written as qwen_scope"):
        read.write(tmp_path / NAME, make(**changes), "qwen_scope")
