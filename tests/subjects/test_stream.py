"""The stream is a function of data seed and place: every row once an epoch, resumable anywhere."""

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.spec.analysis import ActivationSpec
from reseed.store import Store
from reseed.subjects.arrays import MemorySource
from reseed.subjects.shards import ShardSource, choose, harvest, passes_over, shard_name
from reseed.subjects.source import Stream, split_blocks


def numbered(rows: int, block: int = 7) -> MemorySource:
    """Row i is [i, -i] at one site and [2 i] at another."""
    i = torch.arange(rows, dtype=torch.float32)
    return MemorySource({"a": torch.stack([i, -i], 1), "b": 2 * i[:, None]}, block=block)


def stream(source, *, data_seed: int = 0, batch: int = 10, mix: int = 3, blocks=None) -> Stream:
    chosen = np.arange(len(source.rows)) if blocks is None else blocks
    return Stream(source, chosen, data_seed=data_seed, batch=batch, mix=mix)


def test_each_row_comes_once_an_epoch_and_sites_stay_together() -> None:
    found = stream(numbered(100))
    for epoch in range(3):
        batches = [found.batch(epoch * 10 + i) for i in range(10)]
        rows = torch.cat([b["a"][:, 0] for b in batches])
        assert sorted(rows.tolist()) == list(range(100))
        assert all(torch.equal(b["b"][:, 0], 2 * b["a"][:, 0]) for b in batches)


def test_batches_cross_chunks_and_epochs() -> None:
    found = stream(numbered(100), batch=64)
    rows = torch.cat([found.batch(i)["a"][:, 0] for i in range(25)])
    assert len(rows) == 1600
    for epoch in range(16):
        assert sorted(rows[epoch * 100 : (epoch + 1) * 100].tolist()) == list(range(100))


def test_any_batch_without_history() -> None:
    one, other = stream(numbered(100)), stream(numbered(100))
    in_order = [one.batch(i)["a"] for i in range(25)]
    for i in (24, 3, 17, 3, 0):
        assert torch.equal(other.batch(i)["a"], in_order[i])


@pytest.mark.parametrize("mix", [1, 3, 50])
def test_reading_ahead_changes_nothing(mix) -> None:
    plain = stream(numbered(100), mix=mix)
    ahead = Stream(numbered(100), np.arange(15), data_seed=0, batch=10, mix=mix, ahead=True)
    for i in (0, 0, 1, 2, 3, 30, 4, 9, 10, 11, 25):
        one, other = plain.batch(i), ahead.batch(i)
        assert all(torch.equal(one[site], other[site]) for site in ("a", "b"))


def test_what_fails_ahead_fails_when_it_is_needed() -> None:
    class Breaks(MemorySource):
        broken = True

        def read(self, blocks):
            if 3 in blocks and self.broken:
                raise StoreError("block 3 is damaged")
            return super().read(blocks)

    i = torch.arange(100, dtype=torch.float32)[:, None]
    source = Breaks({"a": i}, block=10)
    found = Stream(source, np.arange(10), data_seed=0, batch=10, mix=2, ahead=True)
    wrong = [step for step in range(10) if _fails(found, step)]
    assert len(wrong) == 2  # the two batches of that chunk
    source.broken = False
    plain = Stream(source, np.arange(10), data_seed=0, batch=10, mix=2)
    assert all(torch.equal(found.batch(s)["a"], plain.batch(s)["a"]) for s in range(10))


def _fails(found: Stream, step: int) -> bool:
    try:
        found.batch(step)
    except StoreError:
        return True
    return False


def test_the_data_seed_decides_and_epochs_differ() -> None:
    a, b = stream(numbered(100)), stream(numbered(100), data_seed=1)
    assert not torch.equal(a.batch(0)["a"], b.batch(0)["a"])
    assert not torch.equal(a.batch(0)["a"], a.batch(10)["a"])


def test_rows_are_mixed_beyond_their_block() -> None:
    batch = stream(numbered(700), mix=50, batch=20).batch(0)["a"][:, 0]
    assert len({int(row) // 7 for row in batch}) > 10


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(SpecError, match="no rows"):
        stream(numbered(100), blocks=np.array([], dtype=np.int64))


def test_held_out_blocks_are_apart() -> None:
    training, held_out = split_blocks(100, 0.1)
    assert training.tolist() == list(range(89))
    assert held_out.tolist() == list(range(90, 100))
    with pytest.raises(SpecError, match="cannot be split"):
        split_blocks(2, 0.5)


def harvested(tmp_path, source, **spec) -> Store:
    store = Store(tmp_path)
    settings = ActivationSpec(sites=["a", "b"], tokens=100, shard_blocks=4, **spec)
    harvest(source, len(source.rows), settings, store, "made", Events())
    return store


def test_shards_give_the_same_batches_as_the_source(tmp_path) -> None:
    source = numbered(100)
    from_disk = stream(ShardSource(harvested(tmp_path, source)))
    for i in (0, 7, 11):
        one, other = from_disk.batch(i), stream(source).batch(i)
        assert all(torch.equal(one[site], other[site]) for site in ("a", "b"))


def test_a_stopped_harvest_continues(tmp_path) -> None:
    class Breaks(MemorySource):
        reads = 0

        def read(self, blocks):
            Breaks.reads += 1
            if Breaks.reads == 3:
                raise KeyboardInterrupt
            return super().read(blocks)

    i = torch.arange(100, dtype=torch.float32)[:, None]
    source = Breaks({"a": i, "b": i}, block=7)
    with pytest.raises(KeyboardInterrupt):
        harvested(tmp_path, source)
    assert Store(tmp_path).has(shard_name(1))
    assert not Store(tmp_path).has("activations/index")
    harvested(tmp_path, source)
    assert Breaks.reads == 3 + 2  # 4 shards; the third was read twice


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_shard_is_named(tmp_path, damage: str) -> None:
    store = harvested(tmp_path, numbered(100))
    file = store.path(shard_name(1)) / "rows.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(data if damage == "flip" else data[:-9])
    source = ShardSource(store)
    source.read([0])
    with pytest.raises(StoreError, match="shard-00001.*Delete"):
        source.read([5])


def test_number_formats_state_their_error_and_refuse_what_does_not_fit(tmp_path) -> None:
    store = harvested(tmp_path, numbered(5000, block=100), dtype="float16")
    index = store.document("activations/index", "index.json")
    assert 0 < index["largest_relative_rounding_error"]["a"] < 2**-11
    with pytest.raises(SpecError, match="do not fit float16"):
        harvested(tmp_path / "two", numbered(70_000, block=1000), dtype="float16")


def test_the_choice_between_live_and_shards() -> None:
    spec = ActivationSpec(sites=["a"], tokens=1)
    assert passes_over(100, 650, 2) == 15
    small = {"rows": 1000, "dimensions": 100}
    assert choose(spec, **small, passes=5, free_disk=10**9).keep == "shards"
    assert choose(spec, **small, passes=1, free_disk=10**9).keep == "live"
    assert choose(spec, **small, passes=5, free_disk=500_000).keep == "live"
    forced = spec.model_copy(update={"keep": "live"})
    assert choose(forced, **small, passes=5, free_disk=10**9).keep == "live"
