"""Our cache of latents against Delphi's own writer and loader. Run by `make test-peers`.

Only the classes that hold the files are used; what else Delphi imports (a GPU server, an index, a
sentence model) is not needed for them and is stood in for.
"""

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from reseed.evidence.delphi import read_delphi_cache, write_delphi_cache
from reseed.evidence.rows import Fired

pytestmark = pytest.mark.peers
S, L, F = 40, 16, 11
UNUSED = (
    "faiss",
    "sentence_transformers",
    "asyncer",
    "simple_parsing",
    "orjson",
    "tqdm",
    "blobfile",
)


@pytest.fixture
def delphi(monkeypatch):
    found = find_spec("delphi")
    if found is None or found.origin is None:
        pytest.skip("Delphi is not installed")
    home = Path(found.origin).parent
    for name in UNUSED:
        if find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    for name, path in (("delphi", home), ("delphi.latents", home / "latents")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        package.logger = MagicMock()
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, "delphi.config", MagicMock())
    from delphi.latents import cache, loader

    return cache, loader


@pytest.fixture
def dense():
    rng = np.random.default_rng(0)
    return (rng.integers(1, 40, (S, L, F)) / 8 * (rng.random((S, L, F)) < 0.05)).astype(np.float32)


def test_delphi_reads_what_we_write_and_we_read_what_it_writes(delphi, dense, tmp_path) -> None:
    cache, loader = delphi
    tokens = np.random.default_rng(1).integers(0, 50_000, (S, L))
    at = np.nonzero(dense)
    ours, theirs = tmp_path / "ours" / "hook", tmp_path / "theirs" / "hook"
    write_delphi_cache(ours, tokens, Fired(*at, dense[at]), F, "model", files=3)
    got = np.zeros_like(dense)
    for path in ours.glob("*.safetensors"):
        locations, activations, there = loader.TensorBuffer(str(path), "hook").load()
        got[tuple(locations.numpy().T)] = activations.numpy()
        assert (there.numpy() == tokens).all()
    np.testing.assert_array_equal(got, dense)

    writer = cache.LatentCache(model=None, hookpoint_to_sparse_encode={}, batch_size=8)
    writer.width = F
    for i in range(S // 8):
        part = slice(8 * i, 8 * i + 8)
        writer.cache.add(torch.from_numpy(dense[part]), torch.from_numpy(tokens[part]), i, "hook")
    writer.cache.save()
    writer.save_splits(3, tmp_path / "theirs")
    names = [sorted(p.name for p in folder.glob("*.safetensors")) for folder in (ours, theirs)]
    assert names[0] == names[1]
    read = [read_delphi_cache(f, lambda ids: [f" {one}" for one in ids]) for f in (ours, theirs)]
    assert all(a.equals(b) for a, b in zip(*read, strict=True))
