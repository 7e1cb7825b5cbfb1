"""Activations that other libraries stored, as they write them."""

import numpy as np
import polars as pl
import pytest
import torch

from reseed.errors import SpecError, StoreError, SubjectError
from reseed.events import Events
from reseed.spec.subject import ArraysSpec
from reseed.store import Store
from reseed.subjects.arrays import ArraySource, MemorySource, check_files
from reseed.subjects.stored import tables
from reseed.subjects.stored.order import in_words, neighbours

ROWS = np.random.default_rng(0).normal(size=(84, 3)).astype(np.float32)
PARTS = np.split(ROWS, [12, 24, 36, 48, 60, 72])
"""Seven files, 5 to 11: their order is not that of their names."""


def opened(where, block=10):
    return ArraySource(ArraysSpec(kind="arrays", paths={"x": str(where)}, block=block))


def numbered(folder, write, ending):
    folder.mkdir()
    for number, part in enumerate(PARTS):
        write(folder / f"shard_{number + 5}.{ending}", part)
    return folder


def bionemo(path, part):
    pl.DataFrame({f"dim_{i}": part[:, i] for i in (2, 0, 1)}).with_columns(
        id=pl.lit(1.0)
    ).write_parquet(path, row_group_size=5)


def lists(path, part):
    frame = pl.DataFrame({"acts": part.tolist(), "token_ids": [[1, 2]] * len(part)})
    frame.write_parquet(path)


def activault(path, part):
    states = torch.from_numpy(part.reshape(3, 4, 3)).bfloat16()
    torch.save({"states": states, "input_ids": torch.zeros(3, 4, dtype=torch.int64)}, path)


def saelens(path, part):
    held = {"blocks.1.hook_mlp_out": part.reshape(3, 4, 3).tolist(), "token_ids": [[1] * 4] * 3}
    pl.DataFrame(held).write_ipc_stream(path)


def datasets(path, part):
    """`datasets` saves an Array2D as a type of its own around lists of lists, in a stream."""
    pa = pytest.importorskip("pyarrow")

    class Array2D(pa.ExtensionType):
        def __init__(self):
            kind = pa.list_(pa.list_(pa.float32()))
            super().__init__(kind, "datasets.features.features.Array2DExtensionType")

        def __arrow_ext_serialize__(self):
            return b'[[4, 3], "float32"]'

    kind = Array2D()
    stored = pa.array(part.reshape(3, 4, 3).tolist(), kind.storage_type)
    table = pa.table({"blocks.1.hook_mlp_out": pa.ExtensionArray.from_storage(kind, stored)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def old(path, part):
    torch.save(torch.from_numpy(part), path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "ending", "exact"),
    [
        (lambda path, part: np.save(path, part), "npy", True),
        (bionemo, "parquet", True),
        (lists, "parquet", True),
        (activault, "pt", False),
        (old, "pt", True),
        (saelens, "arrow", True),
        (datasets, "arrow", True),
        (lambda path, part: pl.DataFrame({"a": part.tolist()}).write_ipc(path), "arrow", True),
    ],
    ids=["npy", "bionemo", "lists", "activault", "old", "saelens", "datasets", "feather"],
)
def test_a_folder_of_files_is_one_array(tmp_path, write, ending, exact, monkeypatch):
    monkeypatch.setattr(tables, "_WINDOW", 5)
    folder = numbered(tmp_path / "acts", write, ending)
    (folder / "metadata.json").write_text("{}")
    want = ROWS if exact else torch.from_numpy(ROWS).bfloat16().float().numpy()
    for where in (folder, folder / f"shard_*.{ending}"):
        source = opened(where)
        assert source.rows.tolist() == [10] * 8 + [4]
        assert np.array_equal(source.read(range(9))["x"].numpy(), want)
        assert np.array_equal(source.read([7, 1])["x"].numpy(), np.r_[want[70:80], want[10:20]])


def test_a_column_may_have_to_be_named(tmp_path):
    two = {"early": PARTS[0].tolist(), "late": (PARTS[0] + 1).tolist()}
    pl.DataFrame(two).write_parquet(tmp_path / "two.parquet")
    with pytest.raises(SpecError, match="2 columns of lists .*early, late.*after `#`"):
        opened(tmp_path / "two.parquet")
    late = opened(f"{tmp_path}/*.parquet#late").read([0])["x"].numpy()
    assert np.array_equal(late, (PARTS[0] + 1)[:10])
    with pytest.raises(SpecError, match="no column 'lat'.*'late'"):
        opened(f"{tmp_path / 'two.parquet'}#lat")


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("kinds", "is of kind .npy, .pt; files of one of"),
        ("sizes", r"b.npy holds \[4, 2\], and .*a.npy \[4, 3\]"),
        ("empty", "no file in .*acts; check subject.paths"),
        ("code", "Files that would run code are refused"),
        ("ragged", "not all lists of 2 x 3"),
        ("damaged", "cannot be read as a table"),
        ("hollow", "row 0 of .* is no list"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, fault, says, capsys):
    folder = tmp_path / "acts"
    folder.mkdir()
    if fault in ("kinds", "sizes"):
        np.save(folder / "a.npy", np.zeros((4, 3), np.float32))
    if fault == "kinds":
        torch.save(torch.zeros(4, 3), folder / "b.pt")
    elif fault == "sizes":
        np.save(folder / "b.npy", np.zeros((4, 2), np.float32))
    elif fault == "code":
        torch.save({"states": Evil()}, folder / "a.pt")
    elif fault == "ragged":
        uneven = [[[1.0] * 3] * 2, [[1.0] * 3] * 1]
        pl.DataFrame({"a": uneven}).write_parquet(folder / "a.parquet")
    elif fault == "hollow":
        pl.DataFrame({"a": [[], [1.0]]}).write_parquet(folder / "a.parquet")
    elif fault == "damaged":
        (folder / "a.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises((SpecError, SubjectError), match=says):
        opened(folder).read([0])
    assert "run" not in capsys.readouterr().out


def test_files_that_come_or_go_or_change_are_refused(tmp_path):
    folder = numbered(tmp_path / "acts", lambda path, part: np.save(path, part), "npy")
    spec, store = ArraysSpec(kind="arrays", paths={"x": str(folder)}), Store(tmp_path / "study")
    check_files(spec, store, "x", Events())
    (tmp_path / "study" / "runs" / "one").mkdir(parents=True)
    check_files(spec, store, "x", Events())
    np.save(folder / "shard_9.npy", PARTS[4] + 1)
    with pytest.raises(StoreError, match="shard_9.npy .* changed under the same name"):
        check_files(spec, store, "x", Events())
    (folder / "shard_9.npy").unlink()
    with pytest.raises(StoreError, match="leads to 6 files, and led to 7 when"):
        check_files(spec, store, "x", Events())


def test_an_order_is_seen_and_a_shuffle_too():
    draw = np.random.default_rng(1)
    walk = np.zeros((4096, 16))
    for i in range(1, 4096):
        walk[i] = 0.7 * walk[i - 1] + draw.normal(size=16)
    ordered = neighbours(MemorySource({"x": walk}))["x"]
    assert not ordered.shuffled
    assert ordered.near == pytest.approx(0.7, abs=0.05)
    assert abs(ordered.far) < 0.05
    mixed = neighbours(MemorySource({"x": draw.permutation(walk)}))
    assert mixed["x"].shuffled
    assert "no order can be seen" in in_words(mixed)[0]
    assert neighbours(MemorySource({"x": walk[:100]})) == {}
