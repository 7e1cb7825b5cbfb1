"""Joined sites are their parts side by side, and the names say what is read and what is trained."""

import numpy as np
import pytest
import torch

from reseed.spec.analysis import check_joined, plain, to_read, trained_at
from reseed.subjects.arrays import MemorySource
from reseed.subjects.source import with_joined


def test_rows_of_a_joined_site_are_those_of_its_parts():
    arrays = {
        name: np.random.default_rng(i).normal(size=(50, 3 + i)) for i, name in enumerate("abc")
    }
    source = with_joined(MemorySource(arrays, block=8), ["c+a"])
    assert source.sites == {"a": 3, "b": 4, "c": 5, "c+a": 8}
    rows = source.read([4, 0])
    assert torch.equal(rows["c+a"], torch.cat([rows["c"], rows["a"]], dim=1))
    assert rows["c+a"].shape == (16, 8)
    assert source.rows.sum() == 50


def test_names():
    assert plain("a:out+b.c:in") == "a+b.c:in"
    assert to_read(["a", "b.*"], []) == ["a", "b.*"]
    assert to_read(["a"], ["y", "y", "a"]) == ["a", "y"]
    assert to_read(["a+b:out", "c", "a"], ["y"]) == ["a", "b", "c", "y"]


def test_runs_are_trained_where_it_was_asked_for():
    read = {"l.0.mlp": 3, "l.1.mlp": 3, "l.1": 5, "y": 2}
    assert trained_at(["l.*.mlp"], read) == {"l.0.mlp": 3, "l.1.mlp": 3}
    assert trained_at(["l.*"], read) == {"l.1": 5}
    assert trained_at(["l.1+l.0.mlp:out", "y"], read) == {"y": 2, "l.1+l.0.mlp": 8}


@pytest.mark.parametrize("site", ["a+", "a+a:out", "a+layers.*"])
def test_what_cannot_be_joined_is_refused(site):
    with pytest.raises(ValueError, match="joins"):
        check_joined(["x", site])
