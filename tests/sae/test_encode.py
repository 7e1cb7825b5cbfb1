"""The rounded product misses no member: codes are those of scoring every latent, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError

from reseed.loops import encode as loops
from reseed.loops import products
from reseed.sae import codes as kernels
from reseed.sae import encode
from reseed.sae.encode import new_screen

KINDS = ("normal", "grid", "zero", "negative", "copies", "spread", "tiny", "faint", "huge")
PRODUCTS = ("bfloat16", "int16", "float32")


def best(scored, k):
    """Dense codes of the k largest positive scores, the first latents among equals."""
    out = np.zeros_like(scored)
    for i, row in enumerate(scored):
        first = np.argsort(-row, kind="stable")[:k]
        out[i, first] = np.maximum(row[first], 0)
    return out


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(PRODUCTS), st.integers(1, 5), st.integers(1, 40),
    st.integers(1, 400), st.integers(0, 1000), st.data(),
)  # fmt: skip
def test_codes_are_those_of_scoring_all(hard, kind, product, rows, d, latents, seed, data):
    k = data.draw(st.one_of(st.integers(1, min(latents, 9)), st.just(latents)))
    x, W, b = hard.weights(kind, rows, d, latents, seed)
    screen = new_screen(torch.from_numpy(W), 1, product=product)
    codes = encode.codes(encode.Reader(x, W, b, screen, 1), k)
    assert (codes.latents.diff(dim=1) > 0).all()
    assert codes.latents.min() >= 0
    assert codes.latents.max() < latents
    expected = best(hard.scores(x, W, b), k)
    assert np.array_equal(kernels.dense(codes, latents).numpy(), expected)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "d", "latents", "k"), [(7, 24, 5000, 4), (3, 16, 9001, 300)])
def test_wide_rows_in_several_blocks(hard, kind, product, rows, d, latents, k):
    x, W, b = hard.weights(kind, rows, d, latents, 0)
    screen = new_screen(torch.from_numpy(W), 1, product=product)
    codes = encode.codes(encode.Reader(x, W, b, screen, 1), k)
    expected = best(hard.scores(x, W, b), k)
    assert np.array_equal(kernels.dense(codes, latents).numpy(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_equal_the_plain_twin(hard, kind):
    x, W, b = hard.weights(kind, 30, 48, 600, 3)
    fast = encode.top_codes(*map(torch.from_numpy, (x, W, b)), 8)
    pre = torch.from_numpy(x) @ torch.from_numpy(W).T + torch.from_numpy(b)
    codes = fast, kernels.top_codes_plain(pre, 8)
    fast, plain = (kernels.dense(c, 600).numpy() for c in codes)
    lengths = [np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (x, W)]
    size = lengths[0][:, None] * lengths[1] + np.abs(b)
    if kind in ("copies", "grid"):  # which of the equals is chosen is rounding
        fast, plain = np.sort(fast, axis=1), np.sort(plain, axis=1)
        size = size.max(axis=1, keepdims=True)
    assert (np.abs(fast - plain) <= 1e-5 * size).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(PRODUCTS), st.integers(1, 300), st.integers(0, 1000))
def test_the_bound_holds_for_every_product(hard, kind, product, d, seed):
    """What `encode` proves, on the numbers that it is made of."""
    x, W, b = hard.weights(kind, 6, d, 70, seed)
    screen = new_screen(torch.from_numpy(W), 1, product=product)
    left, bounds = encode.bounds_of(x, b, screen)
    if product == "int16":
        made = np.empty((len(x), len(W)), np.float32)
        products.multiply(*left, *screen.whole, made)
        made = made.astype(np.float64)
    else:
        right = screen.halves if product == "bfloat16" else torch.from_numpy(W)
        made = (left @ right.T).double().numpy()
    error = bounds.slack * np.abs(made)
    error += bounds.reach[:, None].astype(np.float64) * bounds.slope
    scored = hard.scores(x, W, b).astype(np.float64)
    assert (scored <= made + error + bounds.lift).all()
    assert (scored >= made - error + bounds.drop).all()


def test_codes_depend_neither_on_threads_nor_on_the_type_of_the_product(hard):
    x, W, b = hard.weights("normal", 600, 40, 3000, 0)
    made = [
        encode.codes(encode.Reader(x, W, b, new_screen(torch.from_numpy(W), t, product=p), t), 16)
        for t in (1, 2, 3)
        for p in PRODUCTS
    ]
    for other in made[1:]:
        assert torch.equal(made[0].values, other.values)
        assert torch.equal(made[0].latents, other.latents)


def test_rounding_to_halves_is_that_of_torch():
    size = 10.0 ** np.arange(-25, 25)[:, None]
    rows = (np.random.default_rng(0).normal(size=(50, 33)) * size).astype(np.float32)
    rows[0, :4] = [0.0, -0.0, 1.00390625, 1.01171875]  # two in the middle between two halves
    bits = np.empty(rows.shape, np.uint16)
    length, lost = np.empty((2, 50))
    loops.to_halves(rows, bits, length, lost)
    halves = torch.from_numpy(rows).bfloat16()
    assert np.array_equal(bits, halves.view(torch.int16).numpy().view(np.uint16))
    left = rows.astype(np.float64) - halves.double().numpy()
    np.testing.assert_allclose(length, np.square(rows.astype(float)).sum(1), rtol=1e-12)
    np.testing.assert_allclose(lost, np.square(left).sum(1), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=150), st.integers(0, 999)
)  # fmt: skip
def test_the_kth_largest_is_that_of_sorting(numbers, k):
    line, k = np.array(numbers, np.float32), 1 + k % len(numbers)
    assert loops.kth_largest(line, k) == np.sort(line)[-k]


@pytest.mark.parametrize(("rows", "columns", "d"), [(1, 1, 1), (6, 16, 8), (13, 40, 33), (5, 3, 7)])
def test_products_of_whole_numbers_are_exact_and_within_their_bounds(rows, columns, d):
    size = 10.0 ** np.linspace(-30, 30, rows)[:, None]
    x, W = (np.random.default_rng(d).normal(size=(n, d)) for n in (rows, columns))
    x, W = (x * size).astype(np.float32), W.astype(np.float32)
    x[-1, 0], W[0] = 1e4 * np.abs(x[-1]).max(), 0  # all in one entry; nothing
    sides = []
    for each in (x, W):
        whole, (length, lost) = products.Whole.room(*each.shape), np.empty((2, len(each)))
        products.to_wholes(each, *whole, length, lost)
        left = each - whole.numbers[:, :d] * whole.scale[:, None].astype(float)
        assert (np.square(left).sum(1) <= lost).all()
        assert np.allclose(length, np.square(each.astype(float)).sum(1))
        sides.append(whole)
    made = np.full((rows, columns), np.nan, np.float32)
    products.multiply(*sides[0], *sides[1], made)
    a, b = (side.numbers.astype(np.int64) for side in sides)
    exact = (a @ b.T) * sides[0].scale[:, None].astype(float) * sides[1].scale
    np.testing.assert_allclose(made, exact, rtol=2.0**-22)


def test_memory_that_is_not_contiguous_is_refused():
    whole = products.Whole.room(20, 8)
    with pytest.raises(TypingError):
        products.multiply(*whole, *whole, np.empty((20, 40), np.float32)[:, ::2])


def test_whole_numbers_of_long_rows_do_not_overflow():
    rows = np.ones((8, 100_001), np.float32)
    rows[1::2] *= -1
    rows[2] = np.random.default_rng(0).normal(size=100_001)
    whole, unused = products.Whole.room(*rows.shape), np.empty((2, 8))
    products.to_wholes(rows, *whole, *unused)
    made = np.empty((8, 8), np.float32)
    products.multiply(*whole, *whole, made)
    np.testing.assert_allclose(made, rows.astype(float) @ rows.T, rtol=2e-3, atol=300)


def test_no_rows_and_many_rows(hard):
    x, W, b = map(torch.from_numpy, hard.weights("normal", 5000, 4, 20, 0))
    assert encode.top_codes(x[:0], W, b, 3).values.shape == (0, 3)
    whole = encode.top_codes(x, W, b, 3)
    assert whole.values.shape == (5000, 3)
    last = encode.top_codes(x[4990:], W, b, 3)
    assert torch.equal(whole.values[4990:], last.values)
