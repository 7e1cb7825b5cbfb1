"""Matrices without settings."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from reseed.errors import SpecError, StoreError
from reseed.formats import plain
from reseed.formats.files import Files

W_DEC = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
W_ENC = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)


def check(found, encoder=True, **which) -> None:
    assert plain.recognise(found) is (not which)
    given = plain.read(found, **which)
    np.testing.assert_array_equal(given.W_dec, W_DEC)
    assert (given.W_enc is None) is (not encoder)
    if encoder:
        np.testing.assert_array_equal(given.W_enc, W_ENC)
    assert given.W_dec.dtype == np.float32
    assert given.W_dec.flags.c_contiguous
    assert given.about["format"] == "plain"


def test_one_npy(tmp_path) -> None:
    np.save(tmp_path / "anything.npy", W_DEC.astype(np.float64))
    check(Files(tmp_path / "anything.npy"), encoder=False)
    np.save(tmp_path / "anything.npy", np.asfortranarray(W_DEC))
    check(Files(tmp_path / "anything.npy"), encoder=False)


@pytest.mark.parametrize("encoder", [True, False])
def test_files_of_both(tmp_path, encoder) -> None:
    arrays = {"W_dec": W_DEC} | ({"W_enc": W_ENC} if encoder else {})
    np.savez(tmp_path / "a.npz", **arrays)
    save_file(arrays, tmp_path / "a.safetensors")
    torch.save({name: torch.from_numpy(one) for name, one in arrays.items()}, tmp_path / "a.pt")
    (tmp_path / "folder").mkdir()
    for name, one in arrays.items():
        np.save(tmp_path / "folder" / f"{name}.npy", one)
    for name in ("a.npz", "a.safetensors", "a.pt", "folder"):
        check(Files(tmp_path / name), encoder=encoder)


def test_other_names_and_other_orders_by_word(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", D=W_DEC.T, E=W_ENC.T, mean=np.zeros(5))
    found = Files(tmp_path / "a.npz")
    with pytest.raises(SpecError, match="which is the decoder"):
        plain.read(found)
    given = plain.read(found, decoder="D", encoder="E", rows="dimensions")
    np.testing.assert_array_equal(given.W_dec, W_DEC)
    np.testing.assert_array_equal(given.W_enc, W_ENC)
    assert given.about["folded"] == ["matrices transposed"]
    with pytest.raises(SpecError, match="has no 'X'"):
        plain.read(found, decoder="X")
    with pytest.raises(SpecError, match="did you mean 'decoder'"):
        plain.read(found, decodr="X")


def test_an_unnamed_matrix(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", W_DEC)
    check(Files(tmp_path / "a.npz"), encoder=False)


def test_two_decoders_are_not_guessed(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", W_dec=W_DEC, decoder=W_DEC)
    with pytest.raises(SpecError, match="W_dec and decoder"):
        plain.read(Files(tmp_path / "a.npz"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_and_arrays_in_memory(dtype) -> None:
    tensor = torch.nn.Parameter(torch.from_numpy(W_DEC).to(dtype))
    given = plain.dictionary(tensor, torch.from_numpy(W_ENC))
    np.testing.assert_array_equal(given.W_dec, tensor.detach().float().numpy())
    np.testing.assert_array_equal(plain.dictionary(W_DEC.tolist()).W_dec, W_DEC)


@pytest.mark.parametrize(
    ("decoder", "encoder", "error", "word"),
    [
        (W_DEC[0], None, SpecError, "matrix of numbers"),
        (np.zeros((0, 5)), None, SpecError, "matrix of numbers"),
        (np.array([["a"]]), None, SpecError, "matrix of numbers"),
        (W_DEC * np.nan, None, StoreError, "NaN"),
        (np.full((2, 2), 1e300), None, StoreError, "infinity"),
        (W_DEC, W_ENC.T, SpecError, "as many rows"),
    ],
)
def test_what_is_no_dictionary_is_refused(decoder, encoder, error, word) -> None:
    with pytest.raises(error, match=word):
        plain.dictionary(decoder, encoder)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.npy"])
def test_files_of_every_kind_are_read(tmp_path, make, name) -> None:
    sae = make("topk")
    arrays = {"W_dec": sae.W_dec, "W_enc": sae.W_enc}
    if name == "a.npz":
        np.savez(tmp_path / name, **arrays)
    elif name == "a.npy":
        np.save(tmp_path / name, sae.W_dec)
    else:
        save_file(arrays, tmp_path / name)
    again = plain.read(Files(tmp_path / name))
    np.testing.assert_array_equal(again.W_dec, sae.W_dec)
    if name != "a.npy":
        np.testing.assert_array_equal(again.W_enc, sae.W_enc)


def test_other_endings_are_refused(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SpecError, match="npz"):
        plain.read(Files(tmp_path / "a.txt"))


def test_files_of_saes_are_not_plain(published, make, tmp_path) -> None:
    for path in published.folder.rglob("*"):
        if path.suffix in (".safetensors", ".pt") and path.name != "expected.safetensors":
            assert not plain.recognise(Files(path)), path
