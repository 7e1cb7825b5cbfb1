"""Nothing above a bar is missed, and the largest of a batch are those of sorting all of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.sae import above as module
from reseed.sae.above import BatchTop, above, share_above
from reseed.sae.codes import apply, batch_top, codes_of
from reseed.sae.codes import dense as kernels_dense
from reseed.sae.encode import Reader, new_screen
from reseed.sae.model import SAE

KINDS = ("normal", "grid", "zero", "negative", "copies", "spread", "tiny", "faint", "huge")
PRODUCTS = ("bfloat16", "int16", "float32")


def reader(x, W, b, *, product=None, threads=1):
    return Reader(x, W, b, new_screen(torch.from_numpy(W), threads, product=product), threads)


def dense(codes, latents):
    out = np.zeros((len(codes.starts) - 1, latents), np.float32)
    for i in range(len(out)):
        mine = slice(codes.starts[i], codes.starts[i + 1])
        assert (np.diff(codes.latents[mine]) > 0).all()
        out[i, codes.latents[mine]] = codes.values[mine]
    return out


def largest(scored, wanted):
    """The first among equals."""
    flat = np.maximum(scored, 0).ravel()
    first = np.argsort(-flat, kind="stable")[:wanted]
    out = np.zeros_like(flat)
    out[first] = flat[first]
    return out.reshape(scored.shape)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(PRODUCTS), st.integers(1, 5), st.integers(1, 40),
    st.integers(1, 400), st.integers(0, 1000), st.sampled_from(["zero", "mixed", "some", "all"]),
)  # fmt: skip
def test_all_above_the_bars_are_found(hard, kind, product, rows, d, latents, seed, bar):
    x, W, b = hard.weights(kind, rows, d, latents, seed)
    scored = hard.scores(x, W, b)
    bars = {
        "zero": np.zeros(latents),
        "mixed": np.random.default_rng(seed).normal(size=latents) * np.abs(scored).max(),
        "some": scored[0],  # exactly met by one row
        "all": np.full(latents, scored.min() - 1 - abs(scored.min())),
    }[bar].astype(np.float32)
    found = above(reader(x, W, b, product=product), bars)
    expected = [np.flatnonzero(row > bars) for row in scored]
    assert found.starts.tolist() == [0, *np.cumsum([len(e) for e in expected])]
    assert np.array_equal(found.latents, np.concatenate(expected))
    assert np.array_equal(
        found.values, np.concatenate([s[e] for s, e in zip(scored, expected, strict=True)])
    )


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(PRODUCTS), st.integers(1, 40), st.integers(1, 30),
    st.integers(1, 90), st.integers(0, 1000), st.data(),
)  # fmt: skip
def test_the_largest_of_a_batch_are_those_of_sorting_it(
    hard, kind, product, rows, d, latents, seed, data
):
    k = data.draw(st.one_of(st.integers(1, min(latents, 9)), st.just(latents)))
    x, W, b = hard.weights(kind, rows, d, latents, seed)
    expected = largest(hard.scores(x, W, b), k * rows)
    given, top = reader(x, W, b, product=product), BatchTop()
    assert np.array_equal(dense(top.codes(given, k), latents), expected)
    top._bar = np.float32(data.draw(st.floats(0, 10, width=32)))  # whatever is remembered
    assert np.array_equal(dense(top.codes(given, k), latents), expected)


def test_wide_and_uneven_batches_in_several_blocks(hard):
    x, W, b = hard.weights("normal", 300, 24, 5000, 0)
    x[200:] *= 20  # nearly all codes are in a third of the rows, which the first bar cannot know
    made = [
        BatchTop().codes(reader(x, W, b, product=p, threads=t), 6)
        for p in PRODUCTS
        for t in (1, 2, 3)
    ]
    for other in made[1:]:
        for a, c in zip(made[0], other, strict=True):
            assert np.array_equal(a, c)
    pre = torch.from_numpy(x) @ torch.from_numpy(W).T + torch.from_numpy(b)
    plain = batch_top(pre, 6).numpy()
    np.testing.assert_allclose(dense(made[0], 5000), plain, rtol=1e-4, atol=1e-3)
    assert len(made[0].values) == 1800


def test_the_plain_twin_keeps_the_first_of_equals():
    pre = torch.tensor([[1.0, 2.0, 2.0], [2.0, -1.0, 2.0]])
    assert batch_top(pre, 1).tolist() == [[0, 2, 2], [0, 0, 0]]
    assert batch_top(pre, 2).tolist() == [[0, 2, 2], [2, 0, 2]]
    assert batch_top(pre, 3).tolist() == [[1, 2, 2], [2, 0, 2]]
    assert batch_top(-pre.abs(), 3).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_more_than_there_is_room_for(hard):
    x, W, b = hard.weights("normal", 40, 8, 9000, 1)
    found = above(reader(x, W, b + 100), np.zeros(9000, np.float32))
    assert len(found.values) == 40 * 9000
    found = BatchTop().codes(reader(x, W, b + 100), 9000)
    assert len(found.values) == 40 * 9000


@pytest.mark.parametrize("threads", [1, 2])
def test_the_share_is_that_of_some_rows(hard, threads):
    x, W, b = hard.weights("grid", 20, 8, 9000, 1)
    bars = np.full(9000, 3.0, np.float32)
    found = share_above(reader(x, W, b, threads=threads), bars)
    assert found == (hard.scores(x[:20], W, b) > 3).mean()
    many = np.repeat(x, 10, axis=0)
    some = hard.scores(many[:: -(-200 // module._SAMPLE)], W, b) > 3
    assert share_above(reader(many, W, b, threads=threads), bars) == some.mean()


@pytest.mark.parametrize("rule", ["relu", "jumprelu"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_codes_are_those_of_the_dense_way(hard, kind, rows, rule, monkeypatch):
    monkeypatch.setattr(module, "AT_A_TIME", 3)
    x, W, b = hard.weights(kind, rows, 6, 40, 3)
    scored = torch.from_numpy(hard.scores(x, W, b).astype(np.float32).reshape(rows, 40))
    bars = np.abs(np.random.default_rng(1).normal(size=40)).astype(np.float32)
    bars[:20] = 0
    bars[20:25] = -1  # a Gated SAE can have such
    bars[5] = torch.finfo(torch.float32).max
    x, W, b, bars = map(torch.from_numpy, (x, W, b, bars))
    threshold = bars if rule == "jumprelu" else None
    sae = SAE(W, W, b, torch.zeros(6), {"kind": rule}, threshold)
    found, wanted = sae.encode_sparse(x), codes_of(apply(scored, {"kind": rule}, threshold))
    assert torch.equal(kernels_dense(found, 40), kernels_dense(wanted, 40))
    assert (found.latents.diff(dim=1) > 0).all(), "in order, each once"
