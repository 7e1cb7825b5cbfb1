"""Delphi's cache of latents: what is written is read again, and damaged files are refused."""

import json

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

import reseed
from reseed.evidence.delphi import delphi_model, read_delphi_cache, write_delphi_cache
from reseed.evidence.rows import Fired, Reader
from reseed.spec.analysis import EvidenceSpec

S, L, F = 30, 16, 11
ALL = EvidenceSpec(examples=1000, window=8, strongest=0)


def pieces(ids):
    return [f" t{one}" for one in ids]


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 70_000, (S, L))


@pytest.fixture(scope="module")
def dense():
    """[S, L, F]; latent 3 is dead. Numbers that float16 holds exactly."""
    rng = np.random.default_rng(1)
    out = rng.integers(1, 40, (S, L, F)) / 8
    out[rng.random(out.shape) > 0.05] = 0
    out[:, :, 3] = 0
    return out.astype(np.float32)


def fired(dense):
    at = np.nonzero(dense)
    return Fired(*at, dense[at])


@pytest.fixture
def cache(tmp_path, tokens, dense):
    folder = tmp_path / "latents" / "layers.6.mlp"
    write_delphi_cache(folder, tokens, fired(dense), F, "some/model", files=3)
    return folder


def test_everything_written_is_read_again(cache, tokens, dense) -> None:
    tables = read_delphi_cache(cache, pieces, ALL)
    shown = tables.joined()
    assert set(shown["kind"]) == {"firing", "random"}
    found = np.zeros_like(dense)
    seen = np.zeros((S, L, F), int)
    for row in shown.iter_rows(named=True):
        first = row["position"] - int(np.argmax(row["activations"]))
        places = slice(first, first + len(row["tokens"]))
        found[row["block"], places, row["latent"]] = row["activations"]
        seen[row["block"], places, row["latent"]] += 1
        assert row["tokens"] == pieces(tokens[row["block"], places])
        assert row["document"] == row["block"]
    np.testing.assert_array_equal(found, dense)
    assert (seen == 1).all()
    counts = tables.counts.group_by("latent").agg(pl.col("firing", "silent").sum()).sort("latent")
    want = (dense.reshape(S, 2, 8, F).max(axis=2) > 0).sum(axis=(0, 1))
    assert counts["firing"].to_list() == want.tolist()
    assert (counts["firing"] + counts["silent"]).to_list() == [2 * S] * F


def test_files_do_not_matter_to_the_sample(tmp_path, tokens, dense) -> None:
    spec = EvidenceSpec(examples=4, window=8)
    tables = []
    for files in (1, 2, F):
        write_delphi_cache(tmp_path / str(files), tokens, fired(dense), F, "some/model", files)
        tables.append(read_delphi_cache(tmp_path / str(files), pieces, spec))
    for other in tables[1:]:
        assert all(a.equals(b) for a, b in zip(tables[0], other, strict=True))


def test_chosen_latents_are_those_of_the_whole(cache) -> None:
    spec = EvidenceSpec(examples=4, window=8)
    whole = read_delphi_cache(cache, pieces, spec)
    some = read_delphi_cache(cache, pieces, spec, latents=[2, 9])
    keep = pl.col("latent").is_in([2, 9])
    assert some.examples.equals(whole.examples.filter(keep))
    assert some.counts.equals(whole.counts.filter(keep))
    assert set(some.windows["window"]) == set(some.examples["window"])


def test_the_files_are_as_delphi_writes_them(cache, tokens, dense) -> None:
    names = sorted(path.name for path in cache.iterdir())
    assert names == ["0_2.safetensors", "3_6.safetensors", "7_10.safetensors", "config.json"]
    held = load_file(cache / "3_6.safetensors")
    assert {name: array.dtype for name, array in held.items()} == {
        "locations": np.uint16,
        "activations": np.float16,
        "tokens": np.int64,
    }
    want = np.argwhere(dense[:, :, 3:7])
    np.testing.assert_array_equal(held["locations"], want)
    np.testing.assert_array_equal(held["tokens"], tokens)
    config = json.loads((cache / "config.json").read_text())
    assert config["model_name"] == delphi_model(cache) == "some/model"
    assert config["cache_ctx_len"] == L


def test_large_activations_are_kept_and_tiny_ones_left_out(tmp_path, tokens) -> None:
    dense = np.zeros((S, L, 2), np.float32)
    dense[0, 3, 0], dense[1, 5, 0], dense[2, 5, 1] = 1e5, 5e-6, 2.0
    write_delphi_cache(tmp_path / "c", tokens, fired(dense), 2, "m", files=2)
    assert load_file(tmp_path / "c" / "0_0.safetensors")["activations"].tolist() == [1e5]
    assert load_file(tmp_path / "c" / "1_1.safetensors")["activations"].dtype == np.float16
    firing = read_delphi_cache(tmp_path / "c", pieces, ALL).examples.filter(kind="firing")
    assert firing["strength"].to_list() == [1e5, 2.0]


def test_what_cannot_be_written_is_refused(cache, tokens, dense, tmp_path) -> None:
    with pytest.raises(reseed.StoreError, match="holds a cache already"):
        write_delphi_cache(cache, tokens, fired(dense), F, "m")
    (tmp_path / "config.json").write_text("precious")
    with pytest.raises(reseed.StoreError, match="or other files"):
        write_delphi_cache(tmp_path, tokens, fired(dense), F, "m")
    assert (tmp_path / "config.json").read_text() == "precious"
    for bad in ({"files": 0}, {"files": F + 1}, {"tokens": tokens[0]}, {"tokens": tokens[:0]}):
        arguments = {"tokens": tokens, "files": 2, **bad}
        with pytest.raises(reseed.SpecError, match="cannot be written"):
            write_delphi_cache(
                tmp_path / "x", arguments["tokens"], fired(dense), F, "m", arguments["files"]
            )


def change(**arrays):
    def damage(folder):
        path = folder / "3_6.safetensors"
        held = load_file(path)
        for name, make in arrays.items():
            new = make(held[name])
            held = (
                {**held, name: new} if new is not None else {k: held[k] for k in held if k != name}
            )
        save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, path)

    return damage


def put(array, index, value):
    out = array.copy()
    out[index] = value
    return out


def renamed(to):
    return lambda folder: (folder / "3_6.safetensors").rename(folder / to)


def cut_short(folder):
    path = folder / "3_6.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def long_header(folder):
    (folder / "3_6.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


DAMAGE = {
    "cut": (cut_short, "not a whole safetensors file"),
    "header": (long_header, "not a whole safetensors file"),
    "empty": (lambda f: (f / "3_6.safetensors").write_bytes(b""), "not a whole safetensors file"),
    "infinite": (change(activations=lambda a: put(a, 0, np.inf)), "65,504"),
    "NaN": (change(activations=lambda a: put(a, 0, np.nan)), "65,504"),
    "negative": (change(activations=lambda a: -a), "delphi #131"),
    "whole numbers": (change(activations=lambda a: a.astype(np.int32)), "not all finite"),
    "fewer activations": (change(activations=lambda a: a[1:]), "not one activation"),
    "no activations": (change(activations=lambda a: None), "not one activation"),
    "no tokens": (change(tokens=lambda a: None), "save_tokens"),
    "flat tokens": (change(tokens=lambda a: a[0]), "tokens should be a table"),
    "negative tokens": (change(tokens=lambda a: -a), "tokens should be a table"),
    "other tokens": (change(tokens=lambda a: a + 1), "other tokens than the files before"),
    "no locations": (change(locations=lambda a: None), "locations should be a table"),
    "two columns": (change(locations=lambda a: a[:, :2]), r"should be \[n, 3\]"),
    "sequence": (change(locations=lambda a: put(a, (0, 0), S)), "stay below"),
    "position": (change(locations=lambda a: put(a, (0, 1), L)), "stay below"),
    "latent": (change(locations=lambda a: put(a, (0, 2), 4)), "stay below"),
    "twice": (change(locations=lambda a: put(a, 1, a[0])), "fires twice"),
    "floats": (change(locations=lambda a: a.astype(np.float32)), "locations should be a table"),
    "overlap": (renamed("2_6.safetensors"), "latents of another file"),
    "backwards": (renamed("6_3.safetensors"), "latents of another file"),
    "too many latents": (renamed("11_999999999.safetensors"), "claims 999,999,989 latents"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_and_hostile_files_are_refused(cache, kind) -> None:
    damage, message = DAMAGE[kind]
    damage(cache)
    with pytest.raises(reseed.StoreError, match=message):
        read_delphi_cache(cache, pieces, EvidenceSpec(examples=2, window=8))


def test_a_folder_without_a_cache_is_named(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(reseed.StoreError, match=r"FIRST_LAST\.safetensors"):
            read_delphi_cache(folder, pieces)
    for text in ("", "[]", '{"model_name": 3}', "{}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(reseed.StoreError, match=r"config\.json"):
            delphi_model(tmp_path)


def test_a_file_in_which_nothing_fires_is_read(tmp_path, tokens) -> None:
    """Delphi itself fails to write one, after the whole pass."""
    write_delphi_cache(tmp_path / "c", tokens, fired(np.zeros((S, L, 4))), 4, "m", files=2)
    tables = read_delphi_cache(tmp_path / "c", pieces, EvidenceSpec(examples=2, window=8))
    assert set(tables.examples["kind"]) == {"random"}
    assert tables.counts["firing"].sum() == 0


def test_a_run_is_written_whole(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from reseed.events import Events
    from reseed.evidence.delphi import write_run_for_delphi
    from reseed.sae.model import SAE
    from reseed.subjects.arrays import MemorySource
    from reseed.subjects.language.blocks import TokenBlocks

    rng = np.random.default_rng(2)
    x = rng.standard_normal((6 * 10, 5)).astype(np.float32)
    source = MemorySource({"s": x}, block=10)
    keep = np.ones((6, 12), bool)
    keep[:, [0, 4]] = False
    text = TokenBlocks(
        ids=rng.integers(0, 99, (6, 12)).astype(np.uint32),
        document=np.zeros((6, 12), np.int32),
        keep=keep,
        rows=np.full(6, 10),
        documents=pl.DataFrame(),
        about={},
    )
    weights = torch.from_numpy(rng.standard_normal((8, 5)).astype(np.float32))
    sae = SAE(
        W_enc=weights, b_enc=torch.zeros(8), W_dec=weights.clone(), b_dec=torch.zeros(5),
        activation={"kind": "topk", "k": 2},
    )  # fmt: skip
    blocks = np.array([1, 4, 5])
    folder = tmp_path / "c"
    write_run_for_delphi(
        folder, Reader(sae, "s"), source, blocks, text, Events(), model="m", files=2
    )
    found = np.zeros((3, 12, 8))
    for first in (0, 4):
        held = load_file(folder / f"{first}_{first + 3}.safetensors")
        sequence, position, latent = held["locations"].astype(int).T
        found[sequence, position, latent + first] = held["activations"]
        np.testing.assert_array_equal(held["tokens"], text.ids[blocks])
    want = np.zeros((3, 12, 8))
    want[:, keep[0]] = sae.encode(x.reshape(6, 10, 5)[blocks].reshape(-1, 5)).reshape(3, 10, 8)
    np.testing.assert_allclose(found, want, rtol=1e-3)
