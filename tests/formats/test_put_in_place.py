"""An SAE is written whole or not at all, and nothing of another one is lost on the way."""

import json
import os

import numpy as np
import pytest
from tests.faults import at_call, die, forked

import reseed
from reseed.errors import SpecError, StoreError
from reseed.formats import read

FOLDERS = ["reseed", "sparsify", "saelens", "batchtopk", "llama_scope", "llamascopium"]
FILES = ["dictionary_learning", "gemma_scope", "openai", "goodfire"]

NO_BIAS = {"b_enc": np.zeros(12, np.float32)}


def kinds(make, format):
    """Two SAEs that a format can hold, with other weights and another rule or k."""
    if format in ("goodfire", "gemma_scope"):
        first, other = make("relu", centred=False), make("relu", centred=False)
        return first, make("relu", centred=False, W_enc=2 * other.W_enc, W_dec=2 * other.W_dec)
    normal = {"normalised": True} if format == "openai" else {}
    one = make("topk", k=2, **NO_BIAS, **normal)
    return one, make("topk", k=5, **NO_BIAS, **normal, W_enc=2 * one.W_enc, W_dec=2 * one.W_dec)


@pytest.mark.parametrize("format", FOLDERS + FILES)
def test_an_sae_that_is_there_is_replaced_only_when_asked(tmp_path, make, same, format) -> None:
    first, other = kinds(make, format)
    reseed.save(first, tmp_path / "a", format=format)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(SpecError, match=r"already holds .*overwrite"):
        reseed.save(other, tmp_path / "a", format=format)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    reseed.save(other, tmp_path / "a", format=format, overwrite=True)
    same(other, read.read(tmp_path / "a"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("format", FOLDERS + FILES)
def test_killed_at_any_change_it_is_one_of_them_or_none(tmp_path, make, format) -> None:
    first, other = kinds(make, format)

    def write(folder):
        reseed.save(other, folder, format=format, overwrite=True)

    reseed.save(first, tmp_path / "count", format=format)
    with at_call(0, die) as count:
        write(tmp_path / "count")
    seen = set()
    for number in range(1, count[0] + 1):
        folder = tmp_path / str(number)
        reseed.save(first, folder, format=format)

        def killed(folder=folder, number=number):
            with at_call(number, die):
                write(folder)

        assert forked(killed) == -9
        try:
            there = read.read(folder)
        except (SpecError, StoreError):  # between the two renames of a folder
            assert not folder.exists()
            (old,) = tmp_path.glob(f"{folder.name}.*.reseed-old")
            there = read.read(old)
        for sae in (first, other):
            if np.allclose(there.W_dec, sae.W_dec, atol=1e-5):
                assert there.activation == sae.activation
                seen.add(sae.activation.get("k", float(sae.W_dec[0, 0])))
        write(folder)  # what the killed one left is no hindrance
        assert np.allclose(read.read(folder).W_dec, other.W_dec, atol=1e-5)
    assert len(seen) == 2
    assert not [p for p in tmp_path.iterdir() if "building" in p.name]


def test_files_of_others_are_not_touched(tmp_path, make) -> None:
    first, other = kinds(make, "sparsify")
    (tmp_path / "notes.txt").write_text("mine")
    reseed.save(first, tmp_path, format="sparsify")
    with pytest.raises(SpecError, match=r"other files.*notes\.txt.*new folder"):
        reseed.save(other, tmp_path, format="sparsify", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert read.read(tmp_path).activation["k"] == 2
    reseed.save(first, tmp_path / "b.pt", format="dictionary_learning")
    with pytest.raises(SpecError, match=r"config\.json"):
        reseed.save(other, tmp_path / "c.pt", format="dictionary_learning")


def test_nothing_is_written_through_a_link(tmp_path, make) -> None:
    first, other = kinds(make, "sparsify")
    reseed.save(first, tmp_path / "a", format="sparsify")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(SpecError):
        reseed.save(other, tmp_path / "link", format="sparsify", overwrite=True)
    assert read.read(tmp_path / "a").activation["k"] == 2
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.pt").symlink_to(tmp_path / "precious")
    with pytest.raises(SpecError, match=r"already holds 0\.pt"):
        reseed.save(make("topk", normalised=True), tmp_path / "b", format="openai")
    assert (tmp_path / "precious").read_text() == "mine"


def test_convert_asks_before_it_replaces(cli, tmp_path, make) -> None:
    first, other = kinds(make, "sparsify")
    reseed.save(first, tmp_path / "a")
    reseed.save(other, tmp_path / "b")
    assert cli("convert", tmp_path / "a", tmp_path / "c", "--to", "sparsify").returncode == 0
    done = cli("convert", tmp_path / "b", tmp_path / "c", "--to", "sparsify")
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    done = cli("convert", tmp_path / "b", tmp_path / "c", "--to", "sparsify", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert read.read(tmp_path / "c").activation["k"] == 5


def test_a_run_is_exported_with_the_names_of_others(tmp_path, make) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    (study / "study.toml").write_text('[subject]\nmodel = "gpt2"\n')
    run = make("topk", about={"run": "x", "site": "h.6.mlp"})
    reseed.save(run, study / "runs" / "x")
    reseed.save(read.read(study / "runs" / "x"), tmp_path / "lens", format="saelens")
    metadata = json.loads((tmp_path / "lens" / "cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("gpt2", "blocks.6.hook_mlp_out")
    (study / "study.toml").write_text("[" * 5000)
    assert "subject" not in read.read(study / "runs" / "x").about


def test_an_sae_that_was_trained_here_is_saved_by_name(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    sae = reseed.train(x, latents=12, k=2, init_seeds=[0], tokens=400, batch=100)[0]
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        reseed.save(sae, "mine", format="saelens")
        reseed.save(sae, "ours")
    finally:
        os.chdir(here)
    for name in ("mine", "ours"):
        again = reseed.load(tmp_path / name)
        np.testing.assert_allclose(again.reconstruct(x), sae.reconstruct(x), atol=1e-5)
