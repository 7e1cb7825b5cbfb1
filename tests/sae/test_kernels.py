"""Every sparse product equals its plain twin; ties and silent codes included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.sae import codes as kernels
from reseed.sae.codes import Codes


def random_codes(rows: int, width: int, k: int, seed: int = 0) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    return kernels.top_codes(torch.randn(rows, width, generator=generator), k)


@pytest.mark.parametrize(
    ("rows", "width", "k"), [(1, 1, 1), (7, 33, 5), (16, 8192, 32), (5, 16384, 64), (3, 8192, 8192)]
)
def test_top_codes_equal_the_plain_twin(rows: int, width: int, k: int) -> None:
    pre = torch.randn(rows, width, generator=torch.Generator().manual_seed(1))
    fast, plain = kernels.top_codes(pre, k), kernels.top_codes_plain(pre, k)
    # behind the ReLU any silent latent may stand in for another
    assert torch.equal(kernels.dense(fast, width), kernels.dense(plain, width))
    assert (fast.latents.diff(dim=1) > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.data())
def test_top_codes_with_ties_keep_the_largest_values(rows: int, width: int, data) -> None:
    k = data.draw(st.integers(1, width))
    numbers = data.draw(st.lists(st.integers(-2, 3), min_size=rows * width, max_size=rows * width))
    pre = torch.tensor(numbers, dtype=torch.float32).view(rows, width)
    fast, plain = kernels.top_codes(pre, k), kernels.top_codes_plain(pre, k)
    assert torch.equal(fast.values.sort(dim=1).values, plain.values.sort(dim=1).values)
    assert all(len(set(row.tolist())) == k for row in fast.latents)


@pytest.mark.parametrize(
    ("rows", "width", "k", "d"), [(1, 1, 1, 1), (9, 40, 3, 7), (64, 300, 16, 24)]
)
def test_sparse_products_equal_dense_ones(rows: int, width: int, k: int, d: int) -> None:
    codes, generator = random_codes(rows, width, k), torch.Generator().manual_seed(2)
    dense = kernels.dense(codes, width)
    W = torch.randn(width, d, generator=generator)
    right = torch.randn(rows, d, generator=generator)

    torch.testing.assert_close(kernels.decode(codes, W), dense @ W)
    torch.testing.assert_close(
        kernels.code_gradients(right, W, codes.latents), (right @ W.T).gather(1, codes.latents)
    )
    index = kernels.by_latent(codes.latents, width)
    torch.testing.assert_close(
        kernels.transposed_product(codes.values, index, right), dense.T @ right
    )
