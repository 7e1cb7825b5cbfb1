"""Shards: written while the next is read, read back without being held."""

import contextlib
import errno
import shutil
import threading

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.events import Events, Task
from reseed.spec.analysis import ActivationSpec
from reseed.store import Store
from reseed.subjects import shards
from reseed.subjects.arrays import MemorySource
from reseed.subjects.shards import ShardSource, harvest, harvested, shard_name

ROWS, BLOCK = 100, 7
SHARDS = 4
"""of 4 blocks"""


class Keeps:
    """A sink that remembers."""

    def __init__(self):
        self.kinds = []

    def emit(self, kind, fields):
        self.kinds.append(kind)


def source(dtype=torch.float32):
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    return MemorySource({"a": x.to(dtype), "b": 2 * x[:, :1]}, block=BLOCK)


def make(folder, subject, events=None, **spec):
    store = Store(folder)
    settings = ActivationSpec(sites=["a", "b"], tokens=ROWS, shard_blocks=4, **spec)
    harvest(subject, len(subject.rows), settings, store, "made", events or Events())
    return store


def one_after_the_other(subject, store, dtype):
    """The plain twin: read, round, write."""
    for number in range(SHARDS):
        blocks = range(4 * number, min(4 * number + 4, len(subject.rows)))
        exact = subject.read(list(blocks))
        shards._write_shard(exact, dtype, store, number, "made")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_shards_are_the_same_bytes_as_written_one_after_the_other(tmp_path, tree, dtype):
    made = make(tmp_path / "one", source(), dtype=dtype)
    plain = Store(tmp_path / "two")
    one_after_the_other(source(), plain, dtype)
    files = tree(made.root)
    assert {name: files[name] for name in files if "/index/" not in name} == tree(plain.root)
    assert len(files) == 3 * SHARDS + 2


def test_a_shard_is_written_while_the_next_is_read(tmp_path, monkeypatch):
    """The second read ends only when the first write has begun, which waits for that read."""
    reading, threads = threading.Event(), []
    write = shards._write_shard

    class Waits(MemorySource):
        def read(self, blocks):
            if blocks[0] == 4:
                reading.set()
            return super().read(blocks)

    def late(*given):
        threads.append(threading.current_thread().name)
        assert reading.wait(20), "the second shard was not read while the first was written"
        write(*given)

    monkeypatch.setattr(shards, "_write_shard", late)
    x = torch.zeros(ROWS, 3)
    make(tmp_path, Waits({"a": x, "b": x}, block=BLOCK))
    assert len(threads) == SHARDS
    assert threading.main_thread().name not in threads


def test_the_writer_fails_as_before_and_leaves_whole_shards(tmp_path, faults):
    full = OSError(errno.ENOSPC, "No space left on device")

    def act(_name, _args):
        raise full

    store = Store(tmp_path)
    with faults.at_call(0, act) as count:
        make(tmp_path / "whole", source())
    for number in range(2, count[0], 5):
        folder = tmp_path / str(number)
        with faults.at_call(number, act, onwards=True), pytest.raises(StoreError, match="no space"):
            make(folder, source())
        store = Store(folder)
        assert not harvested(store, "made")
        for shard in folder.glob("activations/shard-?????"):
            store.checked(f"activations/{shard.name}", "rows.safetensors")
        make(folder, source())
        assert harvested(store, "made")


def test_a_number_that_does_not_fit_stops_at_its_shard(tmp_path):
    x = torch.zeros(ROWS, 3)
    x[60] = 1e6
    events = Keeps()
    with pytest.raises(SpecError, match="do not fit float16"):
        make(tmp_path, MemorySource({"a": x, "b": x}, block=BLOCK), Events(events), dtype="float16")
    store = Store(tmp_path)
    assert [store.has(shard_name(number)) for number in range(SHARDS)] == [1, 1, 0, 0]
    assert not list(tmp_path.rglob("*.building"))
    assert events.kinds == ["started"]


def test_when_the_reading_stops_the_shard_before_is_whole(tmp_path):
    class Stops(MemorySource):
        def read(self, blocks):
            if blocks[0] == 8:
                raise KeyboardInterrupt
            return super().read(blocks)

    x = torch.randn(ROWS, 3)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Stops({"a": x, "b": x}, block=BLOCK))
    store = Store(tmp_path)
    assert [store.has(shard_name(number)) for number in range(SHARDS)] == [1, 1, 0, 0]
    assert not list(tmp_path.rglob("*.building"))
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("shards") for thread in threading.enumerate()
    )


def test_few_shards_are_mapped_and_each_is_checked_once(tmp_path, monkeypatch):
    made = make(tmp_path, source())
    monkeypatch.setattr(shards, "_MAPPED", 2)
    checked = []
    store_checked = Store.checked

    def note(self, name, file):
        checked.append(name)
        return store_checked(self, name, file)

    monkeypatch.setattr(Store, "checked", note)
    back, want = ShardSource(made), source()
    checked.clear()
    order = [14, 0, 5, 9, 14, 2, 2, 13, 8]
    for _ in range(3):
        got = back.read(order)
        assert all(torch.equal(got[site], x) for site, x in want.read(order).items())
    assert sorted(checked) == [shard_name(number) for number in range(SHARDS)]
    assert back._shard.cache_info().currsize == 2
    assert back.read([])["a"].shape == (0, 3)


def test_the_index_says_what_the_format_of_the_subject_changed(tmp_path):
    store, settings = Store(tmp_path), ActivationSpec(sites=["a", "b"], tokens=ROWS)
    change = {"dtype": "bfloat16", "rows": 3, "sites": {}}
    harvest(source(), 3, settings, store, "made", Events(), change)
    index = store.document("activations/index", "index.json")
    assert index["change_from_float32"] == change
    assert np.array_equal(ShardSource(store).rows, source().rows[:3])


class Watched(MemorySource):
    """Says after each block how far it is."""

    def read_watched(self, blocks, advance):
        for block in blocks:
            advance(int(self.rows[block]))
        return self.read(blocks)


def test_progress_is_seen_inside_a_shard(tmp_path, tree):
    steps = []

    class Sees(Events):
        @contextlib.contextmanager
        def task(self, name, total, unit):
            yield Task(total, lambda task: steps.append(task.done))

    x = source().read(range(15))
    made = make(tmp_path / "a", Watched(x, block=BLOCK), Sees())
    assert steps == [min(BLOCK * (n + 1), ROWS) for n in range(15)]
    steps.clear()
    assert tree(made.root) == tree(make(tmp_path / "b", source(), Sees()).root)
    assert steps == [28, 56, 84, 100]
    steps.clear()
    shutil.rmtree(made.path(shard_name(1)))
    shutil.rmtree(made.path("activations/index"))
    make(tmp_path / "a", Watched(x, block=BLOCK), Sees())
    assert steps[-1] == ROWS  # shards that were there count once
    assert len(steps) == 3 + 4


def test_of_many_processes_that_map_a_shard_none_hashes_it_again(tmp_path, monkeypatch):
    """Its size is looked at; a process alone hashes it, and finds what was changed in it."""
    store, hashed = make(tmp_path, source()), []
    mapped = ShardSource(store, hashed=False)
    with monkeypatch.context() as watched:
        watched.setattr("reseed.store.pieces.checked_sha256", hashed.append)
        assert torch.equal(mapped.read([0, 3])["a"], source().read([0, 3])["a"])
    assert not hashed
    path = store.path(shard_name(0)) / "rows.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ShardSource(store, hashed=False)._shard(0)
    with pytest.raises(StoreError, match="checksum"):
        ShardSource(store)._shard(0)
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match="bytes instead of"):
        ShardSource(store, hashed=False)._shard(0)
