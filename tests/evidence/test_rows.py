"""The pass over held-out rows: every block once, in order, and each SAE encodes a chunk once."""

from dataclasses import replace

import numpy as np
import pytest

from reseed.events import Events
from reseed.evidence.distance import ErrorByDistance
from reseed.evidence.rows import Reader, active_entries, feed, firing_of
from reseed.sae.model import SAE
from reseed.subjects.arrays import MemorySource

torch = pytest.importorskip("torch")

BLOCKS = [5, 0, 3, 4, 1]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((6 * 10, 4)).astype(np.float32)


def sae(outputs=4):
    draw = torch.Generator().manual_seed(1)
    W = torch.randn(8, 4, generator=draw)
    W_dec = torch.randn(8, outputs, generator=draw)
    rule = {"kind": "topk", "k": 2}
    return SAE(W, W_dec, torch.zeros(8), torch.zeros(outputs), rule, centred=False)


def test_every_block_comes_once_in_order_and_is_encoded_once(x, monkeypatch):
    calls, chunks = [], []
    encode = SAE.encode_sparse
    monkeypatch.setattr(SAE, "encode_sparse", lambda s, rows: calls.append(1) or encode(s, rows))

    def add(chunk):
        codes = chunk.codes("a")
        assert chunk.codes("a") is codes
        chunks.append((chunk.chunk.first, chunk.chunk.blocks.tolist(), chunk.rows("a")))

    readers = {"a": Reader(sae(), "s"), "never asked": Reader(sae(), "s")}
    feed(add, readers, MemorySource({"s": x}, block=10), BLOCKS, Events(), "test", size=2)
    assert [chunk[:2] for chunk in chunks] == [(0, [5, 0]), (2, [3, 4]), (4, [1])]
    assert len(calls) == 3
    rows = torch.cat([chunk[2] for chunk in chunks]).numpy()
    np.testing.assert_array_equal(rows, x.reshape(6, 10, 4)[BLOCKS].reshape(-1, 4))


def test_firing_is_that_of_all_rows_at_once(x):
    source, readers = MemorySource({"s": x}, block=10), {"a": Reader(sae(), "s")}
    firing = firing_of(readers, source, BLOCKS, Events(), "test", size=2)["a"]
    rows = torch.from_numpy(x.reshape(6, 10, 4)[BLOCKS].reshape(-1, 4))
    row, latent, value = active_entries(sae().encode_sparse(rows))
    assert firing.rows == 50
    assert len(row) == firing.table()["fired"].sum()
    for n in range(8):
        assert firing.table()["fired"][n] == (latent == n).sum()
        assert firing.table()["max_act"][n] == value[latent == n].max(initial=0)
    error = (sae().reconstruct(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert firing.reconstruction()["fvu"] == pytest.approx(float(error), rel=1e-5)


def test_a_robust_fvu_is_that_of_the_rows_that_are_not_far():
    draw = np.random.default_rng(3)
    rows = torch.from_numpy(5 + draw.standard_normal((4_000, 8)))
    made = rows + 0.5 * torch.from_numpy(draw.standard_normal(rows.shape))
    far = torch.from_numpy(draw.permutation(4_000)[:12])
    rows[far] += 300 * torch.eye(8)[0]
    made[far] = rows[far]
    errors = ErrorByDistance()
    for part in range(0, 4_000, 700):
        errors.add(rows[part : part + 700], made[part : part + 700])
    numbers, near = errors.numbers(), torch.ones(4_000, dtype=torch.bool)
    near[far] = False
    variance = _variance(rows)
    assert numbers["fvu"] == pytest.approx(float((rows - made).square().sum()) / variance)
    spread = float(rows.var(0, correction=0).sum()) ** 0.5
    assert numbers["gamma"] == pytest.approx(float(rows.mean(0).norm()) / spread)
    plain = float((rows - made)[near].square().sum()) / _variance(rows[near])
    assert numbers["fvu_robust"] == pytest.approx(plain)
    assert numbers["fvu"] < 0.05 < 0.2 < plain
    assert numbers["far_rows"] == pytest.approx(12 / 4_000)
    assert numbers["far_variance"] == pytest.approx(1 - _variance(rows[near]) / variance)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_the_sums_of_classes_are_those_of_the_plain_way(kind):
    draw = torch.Generator().manual_seed(5)
    rows = (
        torch.randn(500, 9, generator=draw).mul(2 ** torch.randn(500, 1, generator=draw)).to(kind)
    )
    made = (rows + 0.1 * torch.randn(500, 9, generator=draw)).to(kind)
    errors = ErrorByDistance()
    errors.add(rows, made)
    rows, made = (
        part.to(torch.float32) if kind == torch.bfloat16 else part for part in (rows, made)
    )
    left = rows.double() - rows.median(dim=0).values.double()
    square, error = left.square().sum(1), (rows - made).double().square().sum(1)
    sums = torch.cat([torch.stack([torch.ones_like(square), error, square], dim=1), left], 1)
    classes = (2 * square.log2()).floor().long()
    assert sorted(errors._classes) == classes.unique().tolist()
    for number, found in errors._classes.items():
        torch.testing.assert_close(found, sums[classes == number].sum(0), rtol=1e-12, atol=1e-12)


def _variance(rows):
    return float((rows - rows.mean(0)).square().sum())


@pytest.mark.parametrize("far", [0, 300], ids=["none far", "too many to be left out"])
def test_the_robust_fvu_is_the_fvu_where_nothing_is_left_out(far):
    draw = np.random.default_rng(4)
    rows = torch.from_numpy(draw.standard_normal((1_000, 8)))
    rows[:far] = 100 * rows[:1]
    errors = ErrorByDistance()
    errors.add(rows, torch.zeros_like(rows))
    numbers = errors.numbers()
    assert (numbers["far_rows"], numbers["far_variance"]) == (0, 0)
    assert numbers["fvu_robust"] == numbers["fvu"]
    assert numbers["fvu_uncentred"] == pytest.approx(1)


def test_what_a_transcoder_reconstructs_is_not_known(x):
    skip = replace(sae(), W_skip=torch.eye(sae().dimensions))
    elsewhere = replace(sae(), about={"site": "s", "target": "t"})
    saes = {
        "a": sae(outputs=3),
        "b": skip,
        "c": elsewhere,
        "d": replace(sae(), about={"site": "s"}),
    }
    source, readers = MemorySource({"s": x}, block=10), {n: Reader(s, "s") for n, s in saes.items()}
    firing = firing_of(readers, source, BLOCKS, Events(), "test")
    assert [np.isnan(firing[n].reconstruction()["fvu"]) for n in saes] == [True, True, True, False]
    assert firing["a"].reconstruction()["l0"] > 0
