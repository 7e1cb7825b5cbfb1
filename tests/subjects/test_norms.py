import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.events import Events
from reseed.spec.analysis import ActivationSpec
from reseed.store import Store
from reseed.study import Study
from reseed.subjects.arrays import MemorySource
from reseed.subjects.inputs import Inputs
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.norms import NORMS, ShortRows, short_rows


def rows_with_sinks(rows=320, long=(3, 64, 130), seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    x[list(long)] *= 100
    return x


def kept(source, store, blocks=10, max_norm=10.0):
    return short_rows(source, blocks, max_norm, store, "x", Events())


def test_long_rows_of_any_site_are_left_out_of_all(tmp_path):
    a, b = rows_with_sinks(), rows_with_sinks(long=(7,), seed=1)
    source, store = MemorySource({"a": a, "b": b}, block=32), Store(tmp_path)
    short = ShortRows(source, kept(source, store))
    left_out = [3, 7, 64, 130]
    assert short.rows.tolist() == [30, 32, 31, 32, 31, 32, 32, 32, 32, 32]
    used = np.delete(np.arange(320), left_out)
    for site, x in (("a", a), ("b", b)):
        np.testing.assert_array_equal(short.read(range(10))[site].numpy(), x[used])
        two = np.concatenate([x[128:160][[0, 1, *range(3, 32)]], np.delete(x[:32], [3, 7], 0)])
        np.testing.assert_array_equal(short.read([4, 0])[site].numpy(), two)
    assert short.read([])["a"].shape == (0, 8)
    about = store.document(NORMS, "about.json")
    assert (about["rows"], about["left_out"]) == (320, 4)
    assert about["median"]["a"] == pytest.approx(np.median(np.linalg.norm(a, axis=1)), rel=1e-6)


def test_the_unit_of_rows_does_not_matter(tmp_path):
    masks = []
    for number, scale in enumerate((1e-6, 1.0, 1e6)):
        source = MemorySource({"a": rows_with_sinks() * np.float32(scale)}, block=32)
        masks.append(kept(source, Store(tmp_path / str(number))).rows)
    assert (masks[0] == masks[1]).all()
    assert (masks[1] == masks[2]).all()


def test_positions_of_a_text_follow_its_rows():
    keep = np.array([[0, 1, 1, 1], [1, 0, 1, 1]], np.bool_)
    ids = np.arange(8, dtype=np.uint32).reshape(2, 4)
    text = TokenBlocks(ids, np.zeros((2, 4), np.int32), keep, keep.sum(1), None, {})
    short = text.without(np.array([0, 1, 0, 1, 0, 0], np.bool_))
    assert [short.positions(block).tolist() for block in (0, 1)] == [[1, 3], [2, 3]]
    assert short.rows.tolist() == [2, 2]
    assert text.rows.tolist() == [3, 3]


@pytest.mark.parametrize("keep", ["live", "shards"])
def test_a_study_leaves_long_rows_out(write_study, tmp_path, keep):
    long = (3, 700, 1270)
    np.save(tmp_path / "x.npy", rows_with_sinks(1280, long))
    subject = {"kind": "arrays", "paths": {"x": str(tmp_path / "x.npy")}, "block": 64}
    activations = {"sites": ["x"], "tokens": 1280, "keep": keep, "max_norm": 10.0}
    study = Study.load(write_study(keep, subject=subject, activations=activations))
    inputs = Inputs(study, Events())
    _, training, held_out, *_ = data = inputs.data(None)
    used = data.source.read([*training, *held_out])["x"]
    assert float(used.norm(dim=1).max()) < 30
    assert int(data.source.rows.sum()) == 1277
    assert torch.equal(used, data.source.read([*training, *held_out])["x"])


def test_a_finished_study_says_what_was_left_out(write_study, tmp_path):
    np.save(tmp_path / "x.npy", rows_with_sinks(1280))
    subject = {"kind": "arrays", "paths": {"x": str(tmp_path / "x.npy")}, "block": 64}
    activations = {"sites": ["x"], "tokens": 1280, "max_norm": 10.0}
    study = Study.load(write_study(subject=subject, activations=activations))
    reseed.run(study, progress=False)
    assert study.summary["activations"]["long_rows"]["left_out"] == 3
    activations.pop("max_norm")
    plain = Study.load(write_study("plain", subject=subject, activations=activations))
    assert "max_norm" not in plain.spec.data["activations"]
    assert plain.runs[0].id != study.runs[0].id


def test_a_limit_must_leave_the_median(tmp_path):
    with pytest.raises(ValueError, match="greater than 1"):
        ActivationSpec(sites=["a"], tokens=1, max_norm=0.5)
    source = MemorySource({"a": np.ones((64, 2), np.float32), "b": np.eye(2)[[0] * 64]}, block=32)
    assert kept(source, Store(tmp_path), 2).rows.all()
    halves = {"a": np.ones((4, 2)), "b": np.ones((4, 2))}
    halves["a"][:2], halves["b"][2:] = 0, 0
    halves["a"][2:] *= 100  # the median lies between
    with pytest.raises(SpecError, match="leaves no row"):
        kept(MemorySource(halves, 2), Store(tmp_path / "b"), 2, 1.001)
