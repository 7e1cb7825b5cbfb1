"""How many rows SAEs are compared on, and from where."""

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError
from reseed.events import Events
from reseed.spec.analysis import FromSubject
from reseed.store import Store

pytest.importorskip("torch")
from reseed.comparison.activations import open_activations  # noqa: E402


@pytest.mark.parametrize(("tokens", "blocks"), [(None, 4), (1, 1), (256, 1), (257, 2), (9999, 4)])
def test_stored_rows_are_limited_by_block(tmp_path, tokens, blocks):
    rows = np.random.default_rng(0).standard_normal((900, 4)).astype(np.float32)
    np.save(tmp_path / "x#1.npy", rows)
    for given in (rows, tmp_path / "x#1.npy", [rows, rows]):
        opened = open_activations(given, ["a", "b"], None, Events(), tokens)
        assert opened.blocks == range(blocks)


def test_a_limit_needs_something_to_limit():
    a = np.eye(4)
    with pytest.raises(SpecError, match="limits activations"):
        reseed.compare(a, a, tokens=10)
    with pytest.raises(SpecError, match="limits activations"):
        reseed.compare(a, a, activations=np.ones((4, 4)), tokens=0)


def test_blocks_are_as_long_as_the_model_takes(tiny_folder, tmp_path):
    (tmp_path / "t.txt").write_text("the cat sat on a mat " * 50)
    asked = {"model": str(tiny_folder), "text": str(tmp_path / "t.txt"), "site": "layers.0"}
    opened = open_activations(asked, ["a"], Store(tmp_path / "s"), Events(), 60)
    assert (len(opened.blocks), len(opened.source.rows)) == (2, 2)  # of 32, the model's context
    opened = open_activations(asked | {"block": 8}, ["a"], Store(tmp_path / "s"), Events(), 60)
    assert len(opened.blocks) == 8
    assert FromSubject(model="m", text="t", site="s").block is None
