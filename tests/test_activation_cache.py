"""A cache of activations outside studies: what one has harvested another takes."""

import errno
import json
import os
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import reseed
from reseed.errors import SpecError, StoreError
from reseed.events import Events
from reseed.store import Store
from reseed.store.cache import CARD, Cached, entries, trim
from reseed.subjects.inputs import Inputs

SPEC = """
[subject]
model = "{model}"
[text]
source = "{text}"
block = 32
[activations]
sites = ["layers.1.mlp"]
tokens = 3_000
cache = "{cache}"
shard_blocks = 16
{more}
[[sae]]
latents = {latents}
k = 2
lr = 3e-3
[seeds]
init = [0, 1]
[training]
tokens = 6_000
batch = 128
threads = 1
"""


@pytest.fixture
def study(tmp_path, tiny_folder):
    text = tmp_path / "text.jsonl"
    words = ["the cat sat on a mat", "dog ran far away red blue", "green one two three"]
    lines = [json.dumps({"text": " ".join((words * 9)[i % 7 :])}) for i in range(120)]
    text.write_text("\n".join(lines))

    def make(name, latents=8, cache=tmp_path / "cache", more="", model=tiny_folder):
        path = tmp_path / f"{name}.toml"
        path.write_text(
            SPEC.format(model=model, text=text, cache=cache, latents=latents, more=more)
        )
        return reseed.Study.load(path)

    return make


def shards(study):
    return sorted((study.folder / "activations").glob("shard-*/rows.safetensors"))


class Keeps:
    """A sink that remembers which tasks were finished."""

    def __init__(self):
        self.tasks = []

    def emit(self, kind, fields):
        if kind == "finished":
            self.tasks.append(fields["task"])


def harvest(study):
    """Whether the subject was read for the shards."""
    seen = Keeps()
    Inputs(study, Events(seen)).harvest()
    assert len(shards(study)) > 3
    return "harvest" in seen.tasks


def test_the_second_study_harvests_nothing_and_gets_the_same(study, tmp_path, tree):
    first, second = study("first"), study("second", latents=12)
    assert harvest(first)
    assert not harvest(second)
    for one, other in zip(shards(first), shards(second), strict=True):
        assert one.stat().st_ino == other.stat().st_ino
    alone = study("alone", latents=12, cache=tmp_path / "elsewhere")
    assert harvest(alone)
    assert tree(second.folder / "activations") == tree(alone.folder / "activations")


def test_a_run_from_start_to_page(study):
    first = study("first")
    reseed.run(first, progress=False)
    other = study("second", latents=12)
    assert not harvest(other)
    assert reseed.plan(other).stages[1].what == "done"


def test_other_activations_are_others(study, tmp_path, tiny_folder):
    harvest(study("first"))
    assert harvest(study("more", more="held_out = 0.2"))
    other = tmp_path / "model"
    shutil.copytree(tiny_folder, other)
    assert harvest(study("same", model=other))
    assert len(entries(tmp_path / "cache")) == 3


def test_other_weights_under_the_same_name_are_not_taken(study, tmp_path, tiny_folder):
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    harvest(study("first", model=model))
    changed = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        changed.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    changed.save_pretrained(model)
    assert harvest(study("second", model=model))


def test_a_damaged_shard_is_not_taken_and_is_made_again(study, tmp_path):
    first = study("first")
    harvest(first)
    shutil.rmtree(first.folder)  # the links of the cache stay
    [entry] = entries(tmp_path / "cache")
    shard = entry.path / "activations/shard-00001/rows.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    second = study("second")
    assert harvest(second)
    assert all(path.read_bytes() != bytes(data) for path in shards(second))
    assert not harvest(study("third"))


def test_a_study_keeps_what_a_trimmed_cache_has_lost(study, tmp_path, cli):
    first, cache = study("first"), tmp_path / "cache"
    harvest(first)
    (cache / "of a person.txt").write_text("mine")
    assert "layers.1.mlp" in cli("cache", cache).stdout
    assert "deleted" in cli("cache", cache, "--keep", 0).stdout
    assert [path.name for path in cache.iterdir()] == ["of a person.txt"]
    assert "holds nothing yet" in cli("cache", cache).stdout
    assert not harvest(study("first"))


def test_the_longest_unused_goes_first(tmp_path):
    store, names = Store(tmp_path / "study"), ["activations/shard-00000"]
    with store.piece(names[0], "made") as folder:
        (folder / "rows").write_bytes(b"x" * 1000)
    for age, key in ((300, "old"), (100, "new"), (200, "middle")):
        Cached(tmp_path / "cache", key, names, {"subject": key}).give(store)
        card = tmp_path / "cache" / key / CARD
        os.utime(card, (card.stat().st_mtime - age,) * 2)
    each = entries(tmp_path / "cache")[0].bytes
    assert [entry.path.name for entry in entries(tmp_path / "cache")] == ["new", "middle", "old"]
    assert [entry.path.name for entry in trim(tmp_path / "cache", 2.5 * each)] == ["old"]
    assert trim(tmp_path / "cache", 2.5 * each) == []


def test_copies_where_files_cannot_be_linked(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EXDEV, "other device")

    store, name = Store(tmp_path / "study"), "activations/shard-00000"
    with store.piece(name, "made") as folder:
        (folder / "rows").write_bytes(b"x")
    monkeypatch.setattr(os, "link", refuse)
    cached = Cached(tmp_path / "cache", "key", [name], {})
    cached.give(store)
    other = Store(tmp_path / "other")
    assert cached.fetch(other)
    assert other.checked(name, "rows").read_bytes() == b"x"
    assert not cached.fetch(other)


def test_what_cannot_be(study, tmp_path, write_study):
    with pytest.raises(SpecError, match="keeps no shards"):
        study("live", more='keep = "live"')
    toy = write_study(activations={"cache": "somewhere"})
    with pytest.raises(SpecError, match="kind 'toy' has none of it"):
        reseed.Study.load(toy)
    with pytest.raises(StoreError, match="is no folder"):
        entries(tmp_path / "none")


def test_what_was_cut_short_is_still_an_entry(tmp_path, monkeypatch):
    """A gift or a deletion that dies in the middle leaves what can be seen and deleted."""
    store, names = Store(tmp_path / "study"), ["activations/shard-00000", "activations/shard-00001"]
    for name in names:
        with store.piece(name, "made") as folder:
            (folder / "rows").write_bytes(b"x")
    cached, link, linked = Cached(tmp_path / "cache", "key", names, {}), os.link, []

    def stop(*_):
        raise KeyboardInterrupt

    def dies(source, target, **kwargs):
        linked.append(source)
        if len(linked) > 2:
            stop()
        link(source, target, **kwargs)

    monkeypatch.setattr(os, "link", dies)
    with pytest.raises(KeyboardInterrupt):
        cached.give(store)
    monkeypatch.undo()
    assert [entry.path.name for entry in entries(tmp_path / "cache")] == ["key"]
    other = Store(tmp_path / "other")
    assert cached.fetch(other)
    assert other.has(names[0])
    assert not other.has(names[1])
    monkeypatch.setattr(shutil, "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        trim(tmp_path / "cache", 0)
    monkeypatch.undo()
    assert len(entries(tmp_path / "cache")) == 1
    assert len(trim(tmp_path / "cache", 0)) == 1
    assert not entries(tmp_path / "cache")
