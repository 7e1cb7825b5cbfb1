"""Containers of arrays: the same as the libraries that write them read; refused when damaged."""

import contextlib
import json
import pathlib
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from reseed.errors import SpecError, StoreError
from reseed.formats.files import Files


@pytest.fixture
def found(tmp_path):
    return Files(tmp_path)


def assert_same(ours, theirs) -> None:
    """What we read of a dict of torch, against what `torch.load` gives."""
    assert list(ours) == [str(key) for key in theirs]
    for key, value in theirs.items():
        mine = ours[str(key)]
        if isinstance(value, dict):
            assert_same(mine, value)
        elif isinstance(value, torch.Tensor):
            half = value.dtype in (torch.float16, torch.bfloat16)
            value = (value.float() if half else value).detach().numpy()
            assert mine.dtype == value.dtype
            np.testing.assert_array_equal(mine, value)
        else:
            assert mine == value


DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
]  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])  # as since torch 1.6, and as before it
def test_torch_files_as_torch_reads_them(found, zipped) -> None:
    shared = torch.randn(4, 6)
    kept = {dtype: torch.randn(3, 2).mul(9).to(getattr(torch, dtype)) for dtype in DTYPES}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.randn(3))])
    content = {
        **kept,
        "transposed": shared.T,
        "part": shared[1:3, ::2],
        "scalar": torch.tensor(3, dtype=torch.int32),
        "empty": torch.zeros(0, 5),
        "state": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "plain": [1, 2.5, "text", None, True, (1, 2), torch.Size([3])],
        0: "a number as a name",
    }
    torch.save(content, found.path / "x.pt", _use_new_zipfile_serialization=zipped)
    ours = found.torch_dict("x.pt")
    assert_same(ours, torch.load(found.path / "x.pt", weights_only=True))
    assert ours.shape("part") == (2, 3)
    assert ours.shape("plain") is None


def test_safetensors_as_safetensors_reads_them(found) -> None:
    kept = {dtype: torch.randn(3, 2).mul(9).to(getattr(torch, dtype)) for dtype in DTYPES}
    save_file(kept | {"empty": torch.zeros(0, 5)}, found.path / "x.safetensors", {"a": "b"})
    ours = found.tensors("x.safetensors")
    assert ours.metadata == {"a": "b"}
    assert_same(
        {k: ours[k] for k in sorted(ours)},
        dict(sorted((kept | {"empty": torch.zeros(0, 5)}).items())),
    )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_as_numpy_reads_them(found, save) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "columns": np.asfortranarray(rng.normal(size=(3, 4))),
        "half": rng.normal(size=5).astype(np.float16),
        "whole": np.arange(4),
        "scalar": np.float64(3),
    }
    save(found.path / "x.npz", **arrays)
    ours = found.npz("x.npz")
    for name, value in arrays.items():
        np.testing.assert_array_equal(ours[name], value)
        np.save(found.path / "x.npy", value)
        np.testing.assert_array_equal(found.npy("x.npy"), value)
    assert ours["half"].dtype == np.float32


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def zipped(path, pickled: bytes, storages=(b"",)):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for i, data in enumerate(storages):
            archive.writestr(f"archive/data/{i}", data)


def test_code_in_a_pickle_is_not_run(found, tmp_path) -> None:
    mark = tmp_path / "mark"
    torch.save({"a": torch.zeros(2), "b": Runs(mark)}, tmp_path / "x.pt")
    with pytest.raises(StoreError, match=r"open.*Nothing in it was run"):
        found.torch_dict("x.pt")
    np.savez(tmp_path / "x.npz", a=np.array([Runs(mark)], dtype=object))
    with pytest.raises(StoreError, match="pickled objects"):
        found.npz("x.npz")
    np.save(tmp_path / "x.npy", np.array([Runs(mark)], dtype=object))
    with pytest.raises(StoreError, match="pickled objects"):
        found.npy("x.npy")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Runs(mark), protocol=2))
    with pytest.raises(SpecError, match=r"bare pickle that torch\.save did not write"):
        found.torch_dict("old.pt")
    content = {"a": torch.zeros(2), "b": Runs(mark)}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(StoreError, match=r"open.*Nothing in it was run"):
        found.torch_dict("x.pt")
    assert not mark.exists()


def test_files_of_torch_before_1_6_that_lie_or_were_cut(found) -> None:
    path = found.path / "x.pt"
    content = {"a": torch.ones(5, 7), "b": torch.zeros(3)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    lengths = [struct.pack("<q", 35), struct.pack("<q", 3)]
    changes = [whole[:-at] for at in (1, 13, 100)] + [whole[:at] for at in (20, 60, 150, 300)]
    changes += [whole.replace(one, struct.pack("<q", n)) for one in lengths for n in (-1, 2**40)]
    changes += [whole.replace(b"\x88", b"\x89", 1)]
    for content in changes:
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"x\.pt cannot be read"):
            found.torch_dict("x.pt")


class Tensor:
    """Pickles as a call of a function of torch with arguments that lie."""

    def __init__(self, count, shape, strides, offset=0):
        self.storage = ("storage", torch.FloatStorage, "0", "cpu", count)
        self.shape, self.strides, self.offset = shape, strides, offset

    def __reduce__(self):
        from torch._utils import _rebuild_tensor_v2

        return _rebuild_tensor_v2, (
            Stands(self.storage), self.offset, self.shape, self.strides, False, OrderedDict(),
        )  # fmt: skip


class Stands:
    def __init__(self, pid):
        self.pid = pid


def lying(count, shape, strides, offset=0):
    import io

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Stands) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"a": Tensor(count, shape, strides, offset)})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("count", "shape", "strides", "offset"),
    [
        (10**9, (10**9,), (1,), 0),  # a storage larger than its bytes
        (4, (10**12,), (0,), 0),  # one number, shown a million million times
        (4, (2, 2), (8, 1), 0),  # beyond the end
        (4, (4,), (1,), 1),
        (4, (4,), (-1,), 0),  # before the start
        (4, (2, 2), (1,), 0),
        (4, ("4",), (1,), 0),
        (-4, (4,), (1,), 0),
    ],
)
def test_tensors_that_lie_about_their_size(found, count, shape, strides, offset) -> None:
    zipped(found.path / "x.pt", lying(count, shape, strides, offset), [np.zeros(4, "f4").tobytes()])
    with pytest.raises(StoreError):
        found.torch_dict("x.pt")


def test_an_honest_one_of_these_is_read(found) -> None:
    zipped(found.path / "x.pt", lying(4, (2, 2), (1, 2)), [np.arange(4, dtype="f4").tobytes()])
    np.testing.assert_array_equal(found.torch_dict("x.pt")["a"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # bytearray of 2^40
        b"\x80\x02}r\xff\xff\xff\x7f.",  # number 2^31 of the memo
        b"\x80\x02]" + b"(" * 10**5 + b".",
        b"\x80\x02" + b"]" * 10**5 + b"a" * 10**5 + b".",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02cbuiltins\neval\n.",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"",
    ],
)
def test_hostile_pickles(found, pickled) -> None:
    zipped(found.path / "x.pt", pickled)
    with pytest.raises(StoreError):
        found.torch_dict("x.pt")


def test_dicts_that_refer_to_each_other(found) -> None:
    shared = {"a": 1}
    for _ in range(14):
        shared = {str(i): shared for i in range(50)}  # 50^14 if each were written out
    zipped(found.path / "x.pt", pickle.dumps(shared, protocol=2))
    assert len(found.torch_dict("x.pt")) == 50
    round_about = {}
    round_about["itself"] = round_about
    for bad, word in ((round_about, "without end"), ({(1, 2): 3}, "a tuple where a name")):
        zipped(found.path / "x.pt", pickle.dumps(bad, protocol=2))
        with pytest.raises(StoreError, match=word):
            found.torch_dict("x.pt")


def doubled(levels):
    """A pickle of a tuple with 2^levels leaves, in some hundred bytes."""
    return b"(K\x01t" + b"2\x86" * levels


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}" + doubled(40) + b"K\x01s.",  # as the key of a dict
        b"\x80\x02(cbuiltins\nset\n(" + doubled(40) + b"ltR.",
        b"\x80\x02cbuiltins\nset\n](" + doubled(40) + b"e\x85R.",
        b"\x80\x04\x8f(" + doubled(40) + b"\x90.",
        b"\x80\x02(U\x07storagectorch\nFloatStorage\n"
        + doubled(40)
        + b"U\x03cpuK\x04tQ.",  # as the key of a storage
        b"\x80\x02ctorch\nSize\n" + doubled(40) + b"\x85R.",
        b"\x80\x02ctorch\nSize\n](" + b"K\x01" * 10**5 + b"e\x85R.",
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nctorch\nTensor\n)}tR.",
        b"\x80\x020.",
        b"\x80\x02h\x07.",
    ],
)
def test_tuples_that_grow_without_end(found, pickled) -> None:
    zipped(found.path / "x.pt", pickled)
    with pytest.raises((SpecError, StoreError)):
        found.torch_dict("x.pt")


def test_a_shape_of_many_huge_numbers(found) -> None:
    for shape in ((2**2000,) * 100, (1,) * 20_000, (0, 2**62), (2**31, 0, 2**31)):
        zipped(found.path / "x.pt", lying(4, shape, (1,) * len(shape)), [b"\0" * 16])
        with pytest.raises(StoreError):
            found.torch_dict("x.pt")


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40])
@pytest.mark.parametrize("name", ["x.pt", "x.npz"])
def test_members_that_are_locked(found, name, flag) -> None:
    torch.save({"a": torch.zeros(2)}, found.path / "x.pt")
    np.savez(found.path / "x.npz", a=np.zeros(2))
    content = bytearray((found.path / name).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] |= flag
            at = content.find(mark, at + 1)
    (found.path / name).write_bytes(bytes(content))
    with pytest.raises(StoreError, match=name.replace(".", r"\.")):
        read_all(found.path, name)


def test_what_weights_only_accepts_is_read(found) -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    parameter.tag = "x"
    content = {
        "parameter": parameter,
        "settings": {
            "device": torch.device("cuda", 1), "type": torch.int64, "half": torch.bfloat16,
            "seen": {1, 2}, "size": torch.Size([3, 4]),
        },
    }  # fmt: skip
    torch.save(content, found.path / "x.pt")
    torch.load(found.path / "x.pt", weights_only=True)
    ours = found.torch_dict("x.pt")
    np.testing.assert_array_equal(ours["parameter"], parameter.detach().numpy())
    assert dict(ours["settings"]) == {
        "device": "cuda:1", "type": "torch.int64", "half": "torch.bfloat16", "seen": [1, 2],
        "size": (3, 4),
    }  # fmt: skip


def test_what_is_refused_comes_with_a_next_step(found) -> None:
    torch.save({"a": torch.zeros(2), "args": pathlib.PurePosixPath("x")}, found.path / "x.pt")
    with pytest.raises(StoreError, match=r"PurePosixPath.*Nothing in it was run.*save_file"):
        found.torch_dict("x.pt")


def test_archives_that_would_grow(found) -> None:
    with zipfile.ZipFile(found.path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", b"\0" * 10**7)
    with pytest.raises(StoreError, match="compressed"):
        found.torch_dict("x.pt")
    np.savez_compressed(found.path / "x.npz", a=np.zeros(10**7))
    with pytest.raises(StoreError, match="would grow"):
        found.npz("x.npz")


def safetensors(path, header, data=b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "header",
    [
        entry(shape=(2**40,)),
        entry(shape=(2**40, 2**40), offsets=(0, 2**82)),
        entry(offsets=(0, 2**40), shape=(2**38,)),
        entry(offsets=(-8, 0)),
        entry(shape=(-2,)),
        entry(shape=(2.0,)),
        entry(dtype="F8_E4M3"),
        entry(dtype="object"),
        entry(shape=(0, 2**62), offsets=(0, 0)),
        entry(shape=(0, 2**70), offsets=(0, 0)),
        entry(shape=(2**31, 0, 2**31), offsets=(0, 0)),
        entry(shape=(1,) * 40, offsets=(0, 4)),
        {"a": 3},
        {"a": {"dtype": "F32"}},
        [1, 2],
        b"{" * 10**5,
        b"[" * 10**5,
    ],
)
def test_safetensors_headers_that_lie(found, header) -> None:
    safetensors(found.path / "x.safetensors", header, b"\0" * 8)
    tracemalloc.start()
    with pytest.raises(StoreError):
        found.tensors("x.safetensors")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert found.keys("x.safetensors") == frozenset()


def test_a_header_with_room_for_a_whole_model(found) -> None:
    entries = {
        str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(80_000)
    }
    safetensors(found.path / "x.safetensors", entries)
    with pytest.raises(SpecError, match="checkpoint of a whole model"):
        found.tensors("x.safetensors")


def test_a_header_longer_than_the_file(found) -> None:
    (found.path / "x.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(StoreError, match="longer than the file"):
        found.tensors("x.safetensors")


def test_npy_headers_that_lie(found) -> None:
    for shape in ((2**40,), (2**40, 2**40), (-1,)):
        with open(found.path / "x.npy", "wb") as handle:
            np.lib.format.write_array_header_1_0(
                handle, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
        with pytest.raises(StoreError):
            found.npy("x.npy")


class Whole(dict):
    """Files by name; short when a failing test prints it."""

    def __repr__(self) -> str:
        return f"Whole({sorted(self)})"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One sound file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    tensors = {"a": torch.randn(5, 4), "b": torch.randn(3)}
    torch.save(tensors, folder / "x.pt")
    save_file(tensors, folder / "x.safetensors")
    np.savez(folder / "x.npz", **{k: v.numpy() for k, v in tensors.items()})
    np.save(folder / "x.npy", tensors["a"].numpy())
    return Whole({path.name: path.read_bytes() for path in folder.iterdir()})


def read_all(folder, name) -> None:
    found = Files(folder)
    if name.endswith(".npy"):
        found.npy(name)
        return
    reader = {"t": found.torch_dict, "s": found.tensors, "z": found.npz}
    arrays = reader[name[-1]](name)
    for key in arrays:
        assert arrays[key] is not None


SHARE = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.npz", "x.npy"])
@settings(deadline=None)
@given(cut=st.none() | SHARE, changes=st.lists(st.tuples(SHARE, st.integers(0, 255)), max_size=4))
def test_damaged_files_end_in_a_clear_error_or_are_read(
    tmp_path_factory, whole, name, cut, changes
) -> None:
    """Cut anywhere, or with bytes changed: never another exception, never much memory."""
    content = bytearray(whole[name])
    if cut is not None:
        content = content[: int(cut * len(content))]
    for share, byte in changes:
        if content:
            content[int(share * len(content))] = byte
    folder = tmp_path_factory.mktemp("damaged")
    (folder / name).write_bytes(bytes(content))
    tracemalloc.start()
    try:
        with contextlib.suppress(SpecError, StoreError):
            read_all(folder, name)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50e6


def test_names_are_sorted_and_bounded(found, tmp_path) -> None:
    deep = tmp_path.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    (deep / "x").touch()
    (tmp_path / "a" / "y.json").write_text("{}")
    (tmp_path / "z").symlink_to(tmp_path)
    assert found.names() == ["a/y.json"]
    assert Files(tmp_path / "a" / "y.json").names() == ["y.json"]
    with pytest.raises(SpecError, match="does not exist"):
        Files(tmp_path / "missing").names()


def test_settings_beside_a_file_are_found(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "inner").mkdir()
    file = tmp_path / "inner" / "x.pt"
    file.touch()
    assert Files(file).json("../config.json") == {"a": 1}
    assert not Files(file).has("config.json")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", "[" * 10**5, "\ud83d".encode("utf-8", "ignore").decode() + "\x00"]
)
def test_damaged_json(found, text) -> None:
    (found.path / "cfg.json").write_text(text)
    with pytest.raises(StoreError, match=r"cfg\.json"):
        found.json("cfg.json")
    assert found.settings("cfg.json") == {}
    with pytest.raises(StoreError, match="is missing"):
        found.json("none.json")
