import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reseed.errors import SpecError, StoreError, SubjectError
from reseed.events import Events
from reseed.spec.subject import ArraysSpec
from reseed.store import Store
from reseed.subjects.arrays import ArraySource, MemorySource, check_files
from reseed.subjects.subject import known_sites, open_subject


def source(block=4, **paths):
    return ArraySource(
        ArraysSpec(kind="arrays", paths={k: str(v) for k, v in paths.items()}, block=block)
    )


def npy(path, array):
    np.save(path, array, allow_pickle=True)
    return path


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
def test_npy_blocks_in_any_order(tmp_path, rows, kind):
    s = source(a=npy(tmp_path / "a.npy", rows.astype(kind)))
    assert s.sites == {"a": 3}
    assert s.rows.tolist() == [4, 4, 2]
    got = s.read([2, 0])["a"]
    assert got.dtype == torch.float32
    want = rows.astype(kind).astype(np.float32)[[8, 9, 0, 1, 2, 3]]
    np.testing.assert_array_equal(got.numpy(), want)


def test_safetensors_with_bfloat16_beside_npy(tmp_path, rows):
    t = torch.from_numpy(rows).to(torch.bfloat16)
    save_file({"x": t, "ints": torch.arange(10)}, tmp_path / "f.safetensors")
    s = source(a=npy(tmp_path / "a.npy", rows), b=f"{tmp_path / 'f.safetensors'}#x")
    assert torch.equal(s.read([1])["b"], t[4:8].float())
    with pytest.raises(SpecError, match="did you mean 'ints'"):
        source(b=f"{tmp_path / 'f.safetensors'}#int")
    with pytest.raises(SubjectError, match="I64"):
        source(b=f"{tmp_path / 'f.safetensors'}#ints")


def test_memory_gives_what_files_give(tmp_path, rows):
    file = source(a=npy(tmp_path / "a.npy", rows))
    for kind in (rows, torch.from_numpy(rows).requires_grad_()):
        memory = MemorySource({"a": kind}, block=4)
        assert torch.equal(memory.read([1, 2])["a"], file.read([1, 2])["a"])
    assert not memory.read([0])["a"].requires_grad
    assert MemorySource({"a": rows}).read([])["a"].shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_nan_and_infinity_are_named_with_block_and_row(tmp_path, rows, bad):
    wide = rows.astype(np.float64)
    wide[6, 1] = bad
    s = source(acts=npy(tmp_path / "a.npy", wide))
    s.read([0])
    with pytest.raises(SubjectError, match=r"'acts': row 6 \(block 1\)"):
        s.read([0, 1])


def test_large_finite_rows_are_not_mistaken_for_infinite():
    MemorySource({"a": np.full((4, 2), 3e38, np.float32)}).read([0])


def test_refused_files(tmp_path, rows):
    with pytest.raises(SubjectError, match="no file"):
        source(a=tmp_path / "missing.npy")
    with pytest.raises(SubjectError, match="objects are refused"):
        source(a=npy(tmp_path / "o.npy", np.array([[{}]], object)))
    with pytest.raises(SubjectError, match="int64"):
        source(a=npy(tmp_path / "i.npy", np.zeros((2, 2), np.int64)))
    with pytest.raises(SubjectError, match=r"\[10\]"):
        source(a=npy(tmp_path / "v.npy", rows[:, 0]))
    with pytest.raises(SubjectError, match="a: 10, b: 9"):
        source(a=npy(tmp_path / "a.npy", rows), b=npy(tmp_path / "b.npy", rows[1:]))
    whole = npy(tmp_path / "a.npy", rows).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-7])
    with pytest.raises(SubjectError, match="cannot be read"):
        source(a=tmp_path / "cut.npy")
    (tmp_path / "cut.safetensors").write_bytes(b"nonsense")
    with pytest.raises(SubjectError, match="not a whole"):
        source(a=f"{tmp_path}/cut.safetensors#x")
    with pytest.raises(SpecError, match="is of kind .csv"):
        source(a=tmp_path / "a.csv")


@pytest.mark.parametrize("change", ["all rows", "a tenth", "a row", "another length"])
def test_files_that_changed_are_refused(tmp_path, rows, change):
    path, store = npy(tmp_path / "a.npy", rows), Store(tmp_path / "study")
    spec = ArraysSpec(kind="arrays", paths={"site": str(path)})
    check_files(spec, store, "x", Events())
    check_files(spec, store, "x", Events())
    os.utime(path, (1, 1))  # touched, or copied to another machine: the same
    check_files(spec, store, "x", Events())
    other = rows.copy()
    store.path("activations/shard-00000").mkdir(parents=True)
    store.path("runs/a.part").mkdir(parents=True)
    if change == "all rows":
        other *= 1.01
    elif change == "a tenth":
        other[:1] *= 3
    elif change == "a row":
        other[7] = 100
    else:
        other = other[:9]
    np.save(path, other)
    with pytest.raises(StoreError, match=r"a\.npy \(site 'site'\) changed under the same name"):
        check_files(spec, store, "x", Events())
    assert store.path("activations").exists()
    np.save(path, rows)
    check_files(spec, store, "x", Events())
    np.save(path, other)
    shutil.rmtree(store.path("runs"))  # nothing was trained: all may change
    check_files(spec, store, "x", Events())
    assert not store.path("activations").exists()


def test_files_are_known_one_by_one(tmp_path, rows):
    store, paths = Store(tmp_path / "study"), {}
    for site in "ab":
        paths[site] = str(npy(tmp_path / f"{site}.npy", rows))
        check_files(ArraysSpec(kind="arrays", paths=paths), store, "x", Events())
    np.save(paths["b"], rows + 1)
    store.path("runs/a").mkdir(parents=True)
    check_files(ArraysSpec(kind="arrays", paths={"a": paths["a"]}), store, "x", Events())
    with pytest.raises(StoreError, match=r"b\.npy"):
        check_files(ArraysSpec(kind="arrays", paths=paths), store, "x", Events())


@pytest.mark.parametrize("folder", ["#1", "a#b", "x [y]", "~odd"])
def test_names_of_files_may_hold_signs(tmp_path, rows, folder, monkeypatch):
    (tmp_path / folder).mkdir()
    plain = npy(tmp_path / folder / "a#b.npy", rows)
    save_file({"k": torch.from_numpy(rows)}, tmp_path / folder / "f#g.safetensors")
    s = source(a=plain, b=f"{tmp_path / folder / 'f#g.safetensors'}#k")
    assert s.sites == {"a": 3, "b": 3}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source(a=f"~/{folder}/a#b.npy").sites == {"a": 3}


def test_names_of_sites_may_hold_brackets(tmp_path, rows):
    spec = ArraysSpec(kind="arrays", paths={"a[/b]": str(npy(tmp_path / "a.npy", rows))}, block=4)
    store = Store(tmp_path / "study")
    opened = open_subject(spec, None, ["a[/b]"], 8, store, Events())
    assert list(opened.source.sites) == ["a[/b]"]
    assert known_sites(spec, "a[*") == ["a[/b]"]
    with pytest.raises(SpecError, match=r"no site 'a\[1\]'"):
        open_subject(spec, None, ["a[1]"], 8, store, Events())
