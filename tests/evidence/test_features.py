"""Document features against the plain sum over rows."""

import numpy as np
import polars as pl
import pytest
import torch

from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.features import FeatureSums, features_name, gather_features, read_features
from reseed.formats import own
from reseed.records import SAEArrays
from reseed.sae.model import from_arrays
from reseed.store import Store
from reseed.subjects.language.blocks import TokenBlocks

BLOCKS, L, D, F = 12, 10, 6, 15


def sae_arrays(rng, **more):
    activation = more.pop("activation", {"kind": "topk", "k": 3})
    return SAEArrays(
        W_enc=rng.normal(size=(F, D)).astype(np.float32),
        b_enc=np.zeros(F, np.float32),
        W_dec=rng.normal(size=(F, D)).astype(np.float32),
        b_dec=np.zeros(D, np.float32),
        activation=activation,
        about={},
        **more,
    )


class Memory:
    """Rows of blocks that lie in memory."""

    def __init__(self, blocks):
        self._blocks = blocks
        self.sites = {"s": D}
        self.rows = np.array([len(b) for b in blocks])

    def read(self, blocks):
        return {"s": torch.cat([torch.from_numpy(self._blocks[b]) for b in blocks])}


@pytest.fixture
def world(tmp_path):
    """A store with two runs, a text of documents of uneven lengths, and its rows."""
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, BLOCKS * L), 16, replace=False))
    cuts = cuts[np.abs(cuts - 90) > 4]  # one document lies across the border of the held-out blocks
    size = len(cuts) + 1
    document = np.zeros(BLOCKS * L, np.int32)
    document[cuts] = 1
    document = np.cumsum(document).astype(np.int32)
    document[cuts] = -1  # a separator before each
    keep = rng.random(BLOCKS * L) < 0.8
    documents = pl.DataFrame(
        {
            "document": np.arange(size, dtype=np.int32),
            "origin": [f"d{n}" for n in range(size)],
            "label": ["ab"[n % 2] for n in range(size)],
            "tokens": np.bincount(document[document >= 0], minlength=size),
        }
    ).filter(pl.col("tokens") > 0)
    tokens = TokenBlocks(
        ids=np.zeros((BLOCKS, L), np.uint32),
        document=document.reshape(BLOCKS, L),
        keep=keep.reshape(BLOCKS, L),
        rows=keep.reshape(BLOCKS, L).sum(1),
        documents=documents,
        about={"layout": "packed"},
    )
    rows = [rng.normal(size=(n, D)).astype(np.float32) for n in tokens.rows]
    store = Store(tmp_path)
    saes = {
        "topk": sae_arrays(rng),
        "jump": sae_arrays(
            rng, activation={"kind": "jumprelu"}, threshold=np.full(F, 0.5, np.float32)
        ),
    }
    for name, sae in saes.items():
        with store.piece(f"runs/{name}") as folder:
            own.write(folder, sae)
    return store, tokens, rows, saes


def test_features_are_those_of_the_plain_loop(world):
    store, tokens, rows, saes = world
    training, held_out = np.arange(9), np.arange(9, 12)
    runs = dict.fromkeys(saes, "s")
    gather_features(
        runs, Memory(rows), tokens, training, held_out, store, dict.fromkeys(saes, ""), Events()
    )
    document = tokens.document[tokens.keep]
    for run, arrays in saes.items():
        found = read_features(store, run)
        codes = from_arrays(arrays).encode(np.concatenate(rows)).numpy()
        for place, number in enumerate(tokens.documents["document"]):
            mine = codes[document == number]
            wanted = mine.max(0, initial=0), mine.sum(0) / max(len(mine), 1)
            every = list(range(F))
            assert np.allclose(found.matrix("max", every)[place], wanted[0], atol=1e-5)
            assert np.allclose(found.matrix("mean", every)[place], wanted[1], atol=1e-5)
            assert found.documents["rows"][place] == len(mine)
    sides = dict(found.documents.select("document", "side").iter_rows())
    for number, side in sides.items():
        blocks = np.unique(np.nonzero((tokens.document == number) & tokens.keep)[0])
        inside = {"training" if b < 9 else "held_out" for b in blocks}
        assert side == ("both" if len(inside) == 2 else (inside or {"held_out"}).pop())
    assert "both" in sides.values()


def test_order_and_chunks_change_nothing():
    rng = np.random.default_rng(1)
    n = 3000
    entries = rng.integers(0, 20, n), rng.integers(0, 30, n), rng.random(n).astype(np.float32)
    whole, parts = FeatureSums(20, 30), FeatureSums(20, 30)
    whole.add(*entries)
    for some in np.array_split(rng.permutation(n), 7):
        parts.add(*(one[some] for one in entries))
    for first, second in zip(whole.arrays(), parts.arrays(), strict=True):
        assert np.allclose(first.toarray(), second.toarray(), rtol=1e-6)


def test_memory_follows_distinct_pairs():
    sums = FeatureSums(4, 5)
    rng = np.random.default_rng(2)
    for _ in range(40):
        sums.add(
            rng.integers(0, 4, 10_000),
            rng.integers(0, 5, 10_000),
            np.ones(10_000, np.float32),
        )
        assert sum(map(len, sums._parts)) <= 2 * (1 << 16)
    assert sums.arrays()[1].sum() == 400_000


def test_nothing_fires(world):
    empty = FeatureSums(3, 4).arrays()
    assert all(one.shape == (3, 4) and one.nnz == 0 for one in empty)


def test_other_rows_are_refused(world):
    store, tokens, rows, saes = world
    with pytest.raises(SpecError, match="other rows"):
        gather_features(
            dict.fromkeys(saes, "s"), Memory(rows[::-1]), tokens, np.arange(9), np.arange(9, 12),
            store, dict.fromkeys(saes, ""), Events(),
        )  # fmt: skip
    assert not store.has(features_name("topk"))


def test_latents_that_are_not_there_are_named(world):
    store, tokens, rows, saes = world
    gather_features(
        {"topk": "s"}, Memory(rows), tokens, np.arange(9), np.arange(9, 12), store,
        {"topk": ""}, Events(),
    )  # fmt: skip
    with pytest.raises(SpecError, match="latent 99: this run has latents 0 to 14"):
        read_features(store, "topk").matrix("max", [99])
