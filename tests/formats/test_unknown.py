"""What is said of a path that is no SAE as it lies there: what it is, and the next step."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import reseed
from reseed.errors import ReseedError, SpecError
from reseed.formats import read

D, F = 6, 12
SETTINGS = json.dumps({"d_in": D, "k": 4, "num_latents": F})
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"


@pytest.fixture
def folder(tmp_path):
    arrays = {"encoder.weight": torch.randn(F, D), "encoder.bias": torch.zeros(F),
              "W_dec": torch.randn(F, D), "b_dec": torch.zeros(D)}  # fmt: skip
    save_file(arrays, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(SETTINGS)
    return tmp_path


def test_settings_that_are_missing_or_cut(folder) -> None:
    (folder / "cfg.json").unlink()
    with pytest.raises(SpecError, match=r"no cfg\.json beside sae\.safetensors"):
        reseed.load(folder)
    (folder / "cfg.json").write_text(SETTINGS[:20])
    with pytest.raises(ReseedError, match=r"cfg\.json is no JSON"):
        reseed.load(folder)
    (folder / "cfg.json").write_text('{"learning_rate": 1}')
    with pytest.raises(SpecError, match=r"cfg\.json has learning_rate"):
        reseed.load(folder)


def test_a_byte_order_mark_is_passed_over(folder) -> None:
    (folder / "cfg.json").write_text("\ufeff" + SETTINGS)
    assert reseed.load(folder).activation == {"kind": "topk", "k": 4}


@pytest.mark.parametrize("name", ["sae.safetensors", "cfg.json", "ae.pt", "params.npz"])
def test_a_pointer_of_git_lfs_is_named(folder, name) -> None:
    if not (folder / name).exists():
        for file in folder.iterdir():
            file.unlink()
    (folder / name).write_text(LFS)
    with pytest.raises(ReseedError, match="git lfs pull"):
        reseed.load(folder)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("EleutherAI/sae-pythia-160m-32k", "hf:EleutherAI/sae-pythia-160m-32k"),
        ("owner/repo/layers.6@main", "hf:owner/repo/layers.6@main"),
        ("a\0b", "NUL"),
        ("https://huggingface.co/o/r/tree/main/layers.6", "write hf:o/r/layers.6@main"),
        ("https://huggingface.co/o/r", "write hf:o/r"),
        ("./nowhere", "does not exist"),
    ],
)
def test_names_that_are_no_path_here(name, word) -> None:
    with pytest.raises(SpecError, match=word):
        read.read(name)


@pytest.mark.parametrize("file", ["ae.pt", "x.safetensors"])
def test_a_crosscoder_is_named(tmp_path, file) -> None:
    arrays = {
        "encoder.weight": torch.randn(2, D, F),
        "encoder.bias": torch.zeros(F),
        "decoder.weight": torch.randn(2, F, D),
        "decoder.bias": torch.zeros(2, D),
    }
    save = torch.save if file == "ae.pt" else save_file
    save(arrays, tmp_path / file)
    with pytest.raises(ReseedError, match="crosscoder"):
        reseed.load(tmp_path / file)


def test_the_arrays_of_an_unknown_file_are_listed(tmp_path) -> None:
    torch.save({"sd": {"A": torch.zeros(3, 2)}, "B": torch.zeros(4, 3)}, tmp_path / "x.pt")
    np.savez(tmp_path / "y.npz", C=np.zeros((5, 2)))
    with pytest.raises(SpecError, match=r"sd {A}, B \[4, 3\].*--read W_enc=NAME"):
        reseed.load(tmp_path / "x.pt")
    with pytest.raises(SpecError, match=r"x\.pt holds .*B \[4, 3\].*y\.npz holds C \[5, 2\]"):
        reseed.load(tmp_path)


def test_what_torch_save_did_not_write_is_named(tmp_path) -> None:
    (tmp_path / "ae.pt").write_text("<!doctype html><title>404</title>")
    with pytest.raises(SpecError, match="page that says why"):
        reseed.load(tmp_path)


def test_fewer_latents_than_dimensions_are_no_alarm_where_settings_say_so(tmp_path, make) -> None:
    from reseed.formats.facts import warnings

    sae = make("topk", F=4, D=6, k=2)
    reseed.save(sae, tmp_path / "a")
    assert "transposed" not in " ".join(warnings(read.read(tmp_path / "a")))
