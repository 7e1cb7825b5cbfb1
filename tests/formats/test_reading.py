"""Recognising, choosing, and converting between all formats that there are."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import reseed
from reseed.errors import SpecError, StoreError
from reseed.formats import read
from reseed.formats.checks import Format
from reseed.formats.facts import facts, warnings
from reseed.records import SAEArrays

NO_BIAS = {"b_enc": np.zeros(12, np.float32)}
SAES = {
    "topk": {"kind": "topk"},
    "topk without bias": {"kind": "topk", **NO_BIAS},
    "topk normalised": {"kind": "topk", "normalised": True},
    "topk transcoder": {"kind": "topk", "centred": False},
    "groupmax": {"kind": "groupmax", "k": 4},
    "relu": {"kind": "relu"},
    "relu uncentred": {"kind": "relu", "centred": False},
    "relu transcoder": {"kind": "relu", "E": 5},
    "relu skip": {"kind": "relu", "E": 5, "W_skip": 0.1 * np.ones((5, 6), np.float32)},
    "jumprelu": {"kind": "jumprelu"},
    "jumprelu uncentred": {"kind": "jumprelu", "centred": False},
    "jumprelu transcoder": {"kind": "jumprelu", "E": 5},
    "batchtopk": {"kind": "batchtopk"},
}
AT_LEAST = {
    "topk": {"reseed", "sparsify", "saelens", "dictionary_learning"},
    "topk without bias": {"reseed", "sparsify", "saelens", "dictionary_learning", "batchtopk"},
    "relu": {"reseed", "saelens", "dictionary_learning", "batchtopk", "e2e_sae"},
    "jumprelu": {"reseed", "saelens", "dictionary_learning", "batchtopk"},
}
"""Formats that must be able to hold these; the others are asked."""


@pytest.mark.parametrize("name", SAES)
def test_round_trips_through_every_format(tmp_path, make, same, name) -> None:
    """Whatever writes an SAE reads it back; `test_pairs` goes on from there to every other."""
    sae, written, reasons = make(**SAES[name]), {}, {}
    for format in read.names():
        try:
            read.write(tmp_path / format, sae, format)
        except SpecError as refused:
            reasons[format] = str(refused)
            assert not (tmp_path / format).exists()  # noqa: PT017  (nothing is left behind)
        else:
            assert read.recognise(tmp_path / format) == [format]
            written[format] = read.read(tmp_path / format)
            same(sae, written[format])
    assert all(len(reason) > 15 for reason in reasons.values())
    assert written.keys() >= AT_LEAST.get(name, {"reseed"})


def test_names_are_unique_and_modules_complete() -> None:
    assert len(set(read.names())) == len(read.FORMATS)
    for module in read.FORMATS:
        assert all(callable(getattr(module, name)) for name in ("recognise", "read", "write"))
        assert module.__doc__


@pytest.mark.parametrize("peer", ["sparsify", "saelens", "dictionary_learning", "batchtopk"])
def test_every_published_case_is_recognised_as_one_format(published, peer) -> None:
    for folder in sorted((published.folder / peer).iterdir()):
        if folder.is_dir() and folder.name != "run":
            assert read.recognise(folder) == [peer], folder


def test_foreign_files_are_recognised_as_nothing(tmp_path) -> None:
    (tmp_path / "cfg.json").write_text("[1]")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"wte": np.zeros((2, 2))}, tmp_path / "model.safetensors")
    for path in (tmp_path, *tmp_path.iterdir()):
        assert read.recognise(path) == []
    with pytest.raises(SpecError, match=r"cfg\.json.*formats that are known: reseed, sparsify"):
        read.read(tmp_path)
    for name in ("ae.pt", "sae.safetensors"):
        (tmp_path / name).write_bytes(b"neither zip nor header")
        assert read.recognise(tmp_path) == []
        with pytest.raises((SpecError, StoreError), match=name):
            read.read(tmp_path)
        (tmp_path / name).unlink()


def test_an_ambiguous_folder_names_its_candidates(tmp_path, make) -> None:
    read.write(tmp_path, make("topk"), "sparsify")
    with pytest.raises(SpecError, match="already holds an SAE as sparsify"):
        read.write(tmp_path, make("topk"), "dictionary_learning")
    read.write(tmp_path, make("topk"), "sparsify", overwrite=True)
    read.write(tmp_path / "other", make("topk"), "dictionary_learning")
    for file in (tmp_path / "other").iterdir():
        file.rename(tmp_path / file.name)
    with pytest.raises(SpecError, match=r"sparsify, dictionary_learning.*--format"):
        read.read(tmp_path)
    assert read.read(tmp_path, format="sparsify").about["format"] == "sparsify"
    with pytest.raises(SpecError, match="did you mean 'sparsify'"):
        read.read(tmp_path, format="sparsfy")


def test_layers_are_listed_in_order(tmp_path, make) -> None:
    for layer in (10, 2, 1):
        read.write(tmp_path / "saes" / f"layers.{layer}.mlp", make("topk"), "sparsify")
    names = [f"layers.{layer}.mlp" for layer in (1, 2, 10)]
    assert read.list_saes(tmp_path / "saes") == names
    with pytest.raises(SpecError, match=r"3 SAEs.*--inner.*layers\.1\.mlp, layers\.2\.mlp"):
        read.read(tmp_path / "saes")
    assert read.read(tmp_path / "saes", inner="layers.10.mlp").about["site"] == "layers.10.mlp"
    with pytest.raises(SpecError, match="layers.1.mlp"):
        read.read(tmp_path / "saes", inner="layers.3.mlp")


def test_what_is_not_there(tmp_path, make) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        read.read(tmp_path / "none")
    read.write(tmp_path / "one", make("topk"), "sparsify")
    with pytest.raises(SpecError, match="has no seed1 in it"):
        read.read(tmp_path / "one", inner="seed1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="holds nothing"):
        read.read(tmp_path / "empty")


def test_load_gives_an_sae_with_its_source(tmp_path, make) -> None:
    read.write(tmp_path, make("topk"), "sparsify")
    sae = reseed.load(tmp_path)
    assert sae.reconstruct(np.zeros((3, 6))).shape == (3, 6)
    assert sae.about["source"] == str(tmp_path)
    read.write(tmp_path / "a", sae.arrays(), "reseed")
    read.write(tmp_path / "b", read.read(tmp_path / "a"), "reseed")
    kept = reseed.load(tmp_path / "b").about
    assert (kept["format"], kept["source"]) == ("reseed", str(tmp_path / "b"))
    assert kept["origin"] == {"format": "sparsify", "source": str(tmp_path)}


def test_arrays_of_other_types_are_written_in_float32(tmp_path, make, same) -> None:
    sae = make("topk")
    twice = replace(sae, W_enc=sae.W_enc.astype(np.float64), W_dec=np.asfortranarray(sae.W_dec))
    for format in ("sparsify", "dictionary_learning"):
        read.write(tmp_path / format, twice, format)
        same(sae, read.read(tmp_path / format))
    assert load_file(tmp_path / "sparsify" / "sae.safetensors")["W_dec"].dtype == np.float32


def test_only_complete_saes_are_written(tmp_path, make) -> None:
    bad = make("topk", b_enc=np.full(12, np.nan, np.float32))
    with pytest.raises(StoreError, match="NaN"):
        read.write(tmp_path / "new", bad, "sparsify")
    with pytest.raises(SpecError, match="13 cannot be applied"):
        read.write(tmp_path / "new", make("topk", k=13), "sparsify")
    assert not (tmp_path / "new").exists()


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def without(key):
    def change(path) -> None:
        arrays = load_file(path)
        save_file({k: v for k, v in arrays.items() if k != key}, path)

    return change


def with_(key, make_array):
    def change(path) -> None:
        arrays = load_file(path)
        save_file(arrays | {key: make_array(arrays[key])}, path)

    return change


DAMAGES = {
    "cut": (cut, "not a whole safetensors file"),
    "missing": (without("b_dec"), "lacks b_dec"),
    "NaN": (with_("b_dec", lambda a: a * np.nan), "NaN"),
    "infinite": (with_("W_dec", lambda a: a.astype(np.float64) * 1e300), "infinity"),
    "transposed": (with_("W_dec", lambda a: np.ascontiguousarray(a.T)), "does not fit"),
    "flat": (with_("W_dec", lambda a: a.ravel()), "does not fit"),
    "empty": (with_("b_dec", lambda a: a[:0]), "does not fit"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", ["reseed", "sparsify", "saelens"])
def test_damaged_weights_are_named(tmp_path, make, format, damage) -> None:
    change, word = DAMAGES[damage]
    read.write(tmp_path, make("topk"), format)
    (file,) = tmp_path.glob("*.safetensors")
    change(file)
    for given in (format, None) if damage != "missing" else (format,):
        with pytest.raises(StoreError, match=word) as caught:
            read.read(tmp_path, format=given)
        assert file.name in str(caught.value)


def test_inspect_shows_what_it_is(cli, tmp_path, make, published) -> None:
    done = cli("inspect", published.folder / "saelens" / "training_batchtopk_scaled")
    assert done.returncode == 0, done.stderr
    for word in ("saelens", "12", "jumprelu, threshold", "scaled by 2.5"):
        assert word in done.stdout
    assert "norm 1" not in done.stdout
    done = cli("inspect", published.folder / "saelens" / "topk")
    assert "12 of 12 decoder rows do not have norm 1" in done.stdout
    done = cli("inspect", published.folder / "sparsify" / "run")
    assert done.returncode == 2
    assert "--inner" in done.stderr
    done = cli("inspect", published.folder / "sparsify" / "run", "--inner", "layers.1.mlp/seed0")
    assert "layers.1.mlp" in done.stdout


def test_convert_writes_another_format(cli, tmp_path, published, same) -> None:
    source = published.folder / "sparsify" / "topk"
    done = cli("convert", source, tmp_path / "new", "--to", "saelens")
    assert done.returncode == 0, done.stderr
    same(read.read(source), read.read(tmp_path / "new"))
    done = cli("convert", source, tmp_path / "no", "--to", "e2e_sae")
    assert done.returncode == 2
    assert "relu only" in done.stderr
    done = cli("convert", source, tmp_path / "no", "--to", "saelns")
    assert "did you mean 'saelens'" in done.stderr


def test_facts_warn_of_what_looks_wrong(make) -> None:
    sae = make("topk", F=4, D=6)
    sae.W_dec[1] = 0
    sae.W_enc[2] = 0
    sae.b_enc[2] = -1
    said = " ".join(warnings(sae))
    assert "4 of 4 decoder rows do not have norm 1" in said
    assert "1 latents have an decoder row of zeros" not in said
    assert "1 latent has a decoder row of zeros" in said
    assert "can never fire" in said
    assert "transposed" in said
    unit = make("relu")
    unit.W_dec[:] /= np.linalg.norm(unit.W_dec, axis=1, keepdims=True)
    assert warnings(unit) == []
    assert dict(facts(unit))["rule"] == "relu"


def test_reading_needs_no_torch(python, published) -> None:
    code = f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Forbid())
from reseed.formats import read
from reseed.errors import SpecError
from pathlib import Path
at = Path({str(published.folder)!r})
for case in ("dictionary_learning/AutoEncoder", "saelens/gated", "batchtopk/topk"):
    sae = read.read(at / case)
try:
    read.write(Path("x"), sae, "dictionary_learning")
except SpecError as error:
    print(error)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "reseed[train]" in done.stdout


def test_a_cut_settings_file_is_named(tmp_path, make) -> None:
    read.write(tmp_path, make("topk"), "sparsify")
    (tmp_path / "cfg.json").write_text((tmp_path / "cfg.json").read_text()[:20])
    with pytest.raises(StoreError, match=r"cfg\.json is no JSON"):
        read.read(tmp_path, format="sparsify")


def test_settings_of_the_wrong_kind_are_named(tmp_path, make) -> None:
    read.write(tmp_path, make("topk"), "reseed")
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    for change in ({"activation": "topk"}, {"activation": {"kind": "x"}}, {"version": 2}):
        (tmp_path / "cfg.json").write_text(json.dumps(cfg | change))
        with pytest.raises((SpecError, StoreError), match=r"cfg\.json"):
            read.read(tmp_path)


def test_backups_are_recognised_by_their_keys(published) -> None:
    case = published.folder / "dictionary_learning" / "backup_AutoEncoder"
    assert read.recognise(case) == ["dictionary_learning"]


@pytest.mark.parametrize("name", read.names())
def test_choices_that_a_format_does_not_have_are_refused(tmp_path, name) -> None:
    with pytest.raises(SpecError, match=f"{name} has no option 'colour'"):
        read.read(tmp_path, format=name, colour=1)


def test_a_format_is_one_record(monkeypatch, tmp_path, make, same) -> None:
    def as_npz(path, sae):
        np.savez(path, W=sae.W_enc, V=sae.W_dec, b=sae.b_enc, c=sae.b_dec)

    def of_npz(files):
        held = files.npz(files.path.name)
        return SAEArrays(
            W_enc=held["W"],
            W_dec=held["V"],
            b_enc=held["b"],
            b_dec=held["c"],
            activation={"kind": "relu"},
            about={},
        )

    own = Format(
        name="mine",
        recognise=lambda files: files.is_file and files.keys(files.path.name) == set("WVbc"),
        read=of_npz,
        write=as_npz,
        kinds=("relu",),
    )
    monkeypatch.setattr(read, "FORMATS", (*read.FORMATS, own))
    sae = make("relu")
    read.write(tmp_path / "x.npz", sae, "mine")
    again = read.read(tmp_path / "x.npz")
    same(sae, again)
    assert again.about["format"] == "mine"
    with pytest.raises(SpecError, match="cannot be written as mine: its activation is topk"):
        read.write(tmp_path / "y.npz", make("topk"), "mine")
