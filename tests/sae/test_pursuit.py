"""Matching pursuit against the plain loop over rows, and against what is known of it."""

import numpy as np
import torch

from reseed.sae import codes as kernels


def by_hand(x, W_dec, k):
    """One row and one step at a time."""
    codes = np.zeros((len(x), len(W_dec)))
    for row, left in enumerate(x.copy()):
        for _ in range(k):
            products = W_dec @ left
            best = int(products.argmax())
            value = max(products[best], 0.0)
            codes[row, best] += value
            left -= value * W_dec[best]
    return codes


def dictionary(F=20, D=8, seed=0):
    rows = np.random.default_rng(seed).normal(size=(F, D))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_it_is_the_plain_loop():
    x, W_dec = np.random.default_rng(1).normal(size=(50, 8)), dictionary()
    codes, residual = kernels.pursue(torch.from_numpy(x), torch.from_numpy(W_dec), 5)
    np.testing.assert_allclose(codes, by_hand(x, W_dec, 5), atol=1e-12)
    np.testing.assert_allclose(residual, x - codes.numpy() @ W_dec, atol=1e-12)
    sparse = kernels.top_codes(codes, 5)
    assert sparse.values.shape == (50, 5)
    torch.testing.assert_close(kernels.dense(sparse, 20), codes)


def test_an_orthonormal_dictionary_is_coded_exactly():
    W_dec = torch.from_numpy(np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0])
    z = torch.zeros(30, 8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for row in z:
        row[torch.randperm(8, generator=generator)[:3]] = (
            1 + torch.rand(3, generator=generator).double()
        )
    codes, residual = kernels.pursue(z @ W_dec, W_dec, 3)
    torch.testing.assert_close(codes, z)
    assert residual.abs().max() < 1e-12


def test_every_step_leaves_less_over_and_nothing_negative_fires():
    x, W_dec = torch.randn(40, 8, dtype=torch.float64), torch.from_numpy(dictionary())
    left = [float(kernels.pursue(x, W_dec, k)[1].square().sum()) for k in range(1, 7)]
    assert all(b < a for a, b in zip(left, left[1:], strict=False))
    assert bool((kernels.pursue(x, W_dec, 6)[0] >= 0).all())
    assert not kernels.pursue(-W_dec.sum(0, keepdim=True) * 0, W_dec, 3)[0].any()
