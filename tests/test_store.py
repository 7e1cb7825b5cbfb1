"""Pieces are there whole or not at all, whatever happens while they are written."""

import errno
import functools
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from tests.processes import child

from reseed.errors import BusyError, StoreError
from reseed.events import JsonlSink
from reseed.store import (
    BUILDING,
    Store,
    beside,
    files,
    json_bytes,
    parquet_bytes,
    safetensors_bytes,
    write_bytes,
)
from reseed.store.temporary import OLD

NAMES = ("numbers.parquet", "inner/arrays.safetensors", "words.json")


@functools.cache
def contents(value):
    """Made before a fork: polars must not work in a forked process."""
    table = parquet_bytes(pl.DataFrame({"x": [value]}))
    arrays = safetensors_bytes({"x": np.array([value], np.float32)})
    return dict(zip(NAMES, (table, arrays, json_bytes({"x": value})), strict=True))


def make(store, value, name="deep/thing"):
    with store.piece(name, f"from {value}") as folder:
        (folder / "inner").mkdir()
        for file, data in contents(value).items():
            (folder / file).write_bytes(data)


def read(store, name="deep/thing"):
    """The value in a piece, the same in all its files; None if it is not there."""
    if not store.has(name):
        return None
    values = {
        store.table(name, NAMES[0])["x"][0],
        int(store.tensors(name, NAMES[1])["x"][0]),
        store.document(name, NAMES[2])["x"],
    }
    (value,) = values
    assert store.has(name, f"from {value}")
    assert not store.has(name, "from something else")
    return value


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.name.endswith((BUILDING, OLD))]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "study")


def test_a_piece_is_read_as_it_was_written(store):
    assert read(store) is None
    make(store, 1)
    assert read(store) == 1
    make(store, 2)
    assert read(store) == 2
    assert leftovers(store.root) == []


def test_checksum_is_of_contents_only(store):
    make(store, 1, "a")
    make(store, 1, "b")
    make(store, 2, "c")
    assert store.checksum("a") == store.checksum("b") != store.checksum("c")


def test_a_block_that_fails_leaves_what_was_there(store):
    def fail():
        with store.piece("deep/thing", "from 2") as folder:
            (folder / "half").write_bytes(b"x")
            raise ZeroDivisionError

    make(store, 1)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert read(store) == 1
    assert leftovers(store.root) == []


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_killed_at_any_change(store, faults, there):
    number, status, seen = 0, None, set()
    contents(2)
    while status != 0:
        number += 1
        if there:
            make(store, 1)

        def work(number=number):
            with faults.at_call(number, faults.die):
                make(store, 2)

        status = faults.forked(work)
        assert status in (0, -9)
        seen.add(read(store))
        with store.lock("test"):
            store.open_for_writing()
        assert leftovers(store.root) == []
        make(store, 3)
        assert read(store) == 3
        shutil.rmtree(store.path("deep/thing"))
    assert number >= 12
    assert seen == ({None, 1, 2} if there else {None, 2})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_refused_at_any_change(store, faults, code):
    def refuse(_name, _args):
        raise OSError(code, os.strerror(code))

    number, count = 0, 0
    while count >= number:
        number += 1
        make(store, 1)
        message = ""
        with faults.at_call(number, refuse) as calls:
            try:
                make(store, 2)
            except StoreError as error:
                message = str(error)
            count = calls[0]
        full = code in (errno.ENOSPC, errno.EDQUOT)
        assert not message or str(store.root) in message
        assert not message or ("free some space" if full else "Make it writable") in message
        assert read(store) in (None, 1, 2)
        with store.lock("test"):
            store.open_for_writing()
        make(store, 3)
        assert read(store) == 3
    assert number > 12


def test_single_files_are_written_whole(tmp_path, faults):
    path = tmp_path / "file.json"
    number, status = 0, None
    while status != 0:
        number += 1
        write_bytes(path, b"old" * 1000)

        def work(number=number):
            with faults.at_call(number, faults.die):
                write_bytes(path, b"new" * 1000)

        status = faults.forked(work)
        assert path.read_bytes() in (b"old" * 1000, b"new" * 1000)
    assert path.read_bytes() == b"new" * 1000


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "--out"), (errno.EACCES, "--out")],
)
def test_a_study_that_cannot_be_opened_for_writing(store, monkeypatch, code, message):
    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("reseed.store.pieces.open", refuse, raising=False)
    monkeypatch.setattr("reseed.store.files.open", refuse, raising=False)
    with pytest.raises(StoreError, match=message), store.lock("test"):
        pass
    with pytest.raises(StoreError, match=message):
        store.write("x.json", {})


def test_the_lock_file_on_a_full_disk(store, monkeypatch):
    """Opening works on a full disk, writing does not."""

    class Full(io.FileIO):
        def write(self, _data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "reseed.store.pieces.open", lambda path, *_, **__: Full(path, "a+"), raising=False
    )
    with pytest.raises(StoreError, match="no space left"), store.lock("test"):
        pass


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--out"), Store(tmp_path / place).lock("test"):
        pass


# -- damage ----------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped byte": (flip, "checksum"),
    "truncated": (lambda p: os.truncate(p, p.stat().st_size - 1), "bytes instead of"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b" "), "bytes instead of"),
    "missing": (lambda p: p.unlink(), "missing"),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("file", NAMES)
def test_damage_is_named(store, file, how):
    make(store, 1)
    harm, what = DAMAGE[how]
    harm(store.path("deep/thing") / file)
    reader = dict(zip(NAMES, (store.table, store.tensors, store.document), strict=True))[file]
    with pytest.raises(StoreError, match=what) as caught:
        reader("deep/thing", file)
    assert str(store.path("deep/thing")) in str(caught.value)
    assert "Delete" in str(caught.value)
    assert "again" in str(caught.value)


@pytest.mark.parametrize(
    "card",
    ["", "{", "\xff", "null", "[]", "{}", '{"made_from": "", "files": []}',
     '{"made_from": "", "files": {"words.json": 1}}'],
)  # fmt: skip
def test_a_garbage_card_is_damage(store, card):
    make(store, 1)
    (store.path("deep/thing") / "piece.json").write_bytes(card.encode("latin-1"))
    with pytest.raises(StoreError, match="Delete"):
        store.document("deep/thing", "words.json")
    with pytest.raises(StoreError, match="Delete"):
        store.checksum("deep/thing")


def test_a_missing_piece_says_what_makes_it(store):
    with pytest.raises(StoreError, match="reseed run"):
        store.document("nothing", "x.json")
    with pytest.raises(StoreError, match="reseed run"):
        store.read_json("summary.json")


def test_a_file_that_is_not_of_the_piece(store):
    make(store, 1)
    (store.path("deep/thing") / "stranger.json").write_text("{}")
    with pytest.raises(StoreError, match="stranger"):
        store.document("deep/thing", "stranger.json")


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}])
def test_json_refuses_what_is_no_number(store, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write("x.json", value)
    assert not store.path("x.json").exists()


def test_equal_contents_give_equal_bytes():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    assert safetensors_bytes({"a": a, "b": b}) == safetensors_bytes({"b": b, "a": a.copy()})
    assert safetensors_bytes({"a": a.T}) == safetensors_bytes({"a": np.ascontiguousarray(a.T)})
    frame = pl.DataFrame({"x": range(1000), "y": ["a", "b"] * 500})
    assert parquet_bytes(frame) == parquet_bytes(frame.clone())


# -- the lock --------------------------------------------------------------------------------------

HOLD = """
import sys
from reseed.store import Store
with Store(sys.argv[1]).lock("reseed run other.toml"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_is_first(store):
    with child(sys.executable, "-c", HOLD, store.root, stdin=subprocess.PIPE, stderr=None) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=rf"reseed run other.toml.*process {first.pid} on"):
            store.lock("second").__enter__()
        first.kill()
        first.wait()
    with store.lock("third"):
        assert f"process {os.getpid()}" in (store.root / ".lock").read_text()
    assert (store.root / ".lock").read_text() == ""


def test_the_lock_is_given_back_after_an_error(store):
    with pytest.raises(ZeroDivisionError), store.lock("first"):
        raise ZeroDivisionError
    with store.lock("second"), pytest.raises(BusyError, match="second"):
        store.lock("third").__enter__()


def test_a_piece_is_made_once_for_the_same_inputs(store):
    asked = []

    def write():
        asked.append(1)
        return {"deep/a.json": {"n": len(asked)}, "t.parquet": pl.DataFrame({"x": [1]}), "b": b"2"}

    assert store.make("piece", ["x"], write)
    assert not store.make("piece", ["x"], write)
    assert store.document("piece", "deep/a.json") == {"n": 1}
    assert store.table("piece", "t.parquet").to_dicts() == [{"x": 1}]
    assert store.make("piece", ["y"], write)
    assert store.document("piece", "deep/a.json") == {"n": 2}


def test_a_checksum_is_computed_once_for_each_state_of_a_file(store, monkeypatch):
    store.make("piece", [], lambda: {"a.json": [1, 2]})
    hashed = []
    real = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or real(path))
    for _ in range(3):
        store.document("piece", "a.json")
    assert len(hashed) == 1
    path = store.checked("piece", "a.json")
    path.write_bytes(path.read_bytes().replace(b"1", b"3"))
    with pytest.raises(StoreError, match="checksum"):
        store.document("piece", "a.json")


@pytest.mark.parametrize("name", ["my notes.old", "draft.building", "x.old", "deep/a.building"])
def test_the_sweep_leaves_what_is_the_users(store, name):
    mine = store.path(name)
    mine.mkdir(parents=True)
    (mine / "thoughts.txt").write_text("precious")
    left = beside(store.path("piece"), BUILDING)
    left.mkdir()
    with store.lock("test"):
        store.open_for_writing()
    assert (mine / "thoughts.txt").read_text() == "precious"
    assert not left.exists()


@pytest.mark.parametrize("name", [".lock", "events.jsonl"])
def test_links_to_files_outside_are_not_written_through(store, tmp_path, name):
    outside = tmp_path / "outside.txt"
    outside.write_text("precious")
    store.root.mkdir(parents=True, exist_ok=True)
    store.path(name).symlink_to(outside)

    def work():
        with store.lock("test"):
            store.open_for_writing()
            JsonlSink(store.path("events.jsonl")).emit("x", {})
            store.write("x.json", {})
            store.make("p", [], lambda: {"a.json": 1})

    with pytest.raises(StoreError, match="is a link"):
        work()
    assert outside.read_text() == "precious"


def test_a_lock_that_is_a_folder(store):
    store.path(".lock").mkdir(parents=True)
    with pytest.raises(StoreError, match="directory"), store.lock("test"):
        pass


def test_a_piece_in_the_place_of_another(store):
    for name in ("groups/a", "groups/b"):
        store.make(name, [name], lambda name=name: {"n.json": name})
    shutil.rmtree(store.path("groups/b"))
    shutil.copytree(store.path("groups/a"), store.path("groups/b"))
    with pytest.raises(StoreError, match="it is the piece 'groups/a', put in this place"):
        store.document("groups/b", "n.json")
    with pytest.raises(StoreError, match="groups/a"):
        store.checksum("groups/b")


@pytest.mark.parametrize("folder", ["exp[1]", "exp?", "draft [v2]", "*"])
def test_names_that_look_like_patterns(tmp_path, folder):
    for name in ("exp1", "expa", "draft v", folder):
        table = pl.DataFrame({"from": [name]})
        Store(tmp_path / name).make("piece", [], lambda table=table: {"t.parquet": table})
    assert Store(tmp_path / folder).table("piece", "t.parquet")["from"].to_list() == [folder]


@pytest.mark.parametrize(
    "code", [errno.EFBIG, errno.EMFILE, errno.ENAMETOOLONG, errno.EIO, errno.EINVAL]
)
def test_what_the_system_refuses_is_told(store, monkeypatch, code):
    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("reseed.store.files.open", refuse, raising=False)
    with pytest.raises(StoreError, match=r"x\.json"):
        store.write("x.json", {})
