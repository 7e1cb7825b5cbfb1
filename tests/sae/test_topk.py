"""The TopK training rule: gradients against autograd, the start against the init seed alone."""

import numpy as np
import pytest
import torch

from reseed.errors import SpecError
from reseed.sae.architecture import At, Batch, Parameters, Start
from reseed.sae.architectures import topk
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.codes import dense
from reseed.sae.parts import encoder_rows, geometric_median


def begin(spec: TopKSpec, d: int = 12, seed: int = 0) -> Parameters:
    centre = np.random.default_rng(0).normal(size=d).astype(np.float32)
    p = topk.initial(spec, Start(encoder_rows(spec.latents, d, seed), centre, centre, seed))
    generator = torch.Generator().manual_seed(3)
    # away from the start, where the encoder is parallel to the decoder
    p["W_dec"] += 0.1 * torch.randn(p["W_dec"].shape, generator=generator)
    p["b_enc"] += 0.1 * torch.randn(p["b_enc"].shape, generator=generator)
    return p


@pytest.mark.parametrize("alpha", [0.0, 1 / 32])
@pytest.mark.parametrize("dead_latents", [0, 1, 9, 40])
def test_gradients_equal_autograd(alpha: float, dead_latents: int) -> None:
    spec = TopKSpec(latents=40, k=5, auxk_alpha=alpha)
    p = {name: value.double() for name, value in begin(spec).items()}
    x = torch.randn(32, 12, generator=torch.Generator().manual_seed(4)).double()
    dead = torch.zeros(40, dtype=torch.bool)
    dead[:dead_latents] = True
    # step builds float32 helpers; float64 parameters tell rounding from error
    torch.set_default_dtype(torch.float64)
    try:
        found = topk.step(p, x, spec, dead)
        leaves = {name: value.clone().requires_grad_() for name, value in p.items()}
        topk.objective(leaves, Batch(x, x), spec, At(0, 1, dead)).loss.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, leaf in leaves.items():
        torch.testing.assert_close(found.gradients[name], leaf.grad, rtol=1e-9, atol=1e-12)


def test_fvu_and_l0_are_what_the_sae_does() -> None:
    spec = TopKSpec(latents=40, k=5)
    p, x = begin(spec), torch.randn(64, 12, generator=torch.Generator().manual_seed(5))
    found = topk.step(p, x, spec, torch.zeros(40, dtype=torch.bool))
    sae = topk.freeze(p, spec, {})
    error = (sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert found.fvu == pytest.approx(float(error), rel=1e-5)
    codes = sae.encode(x)
    assert found.l0 == pytest.approx(float((codes > 0).sum(1).float().mean()))
    assert torch.equal(found.fired, (codes > 0).any(0))


def test_the_start_depends_on_the_init_seed_alone() -> None:
    a, b = encoder_rows(50, 8, 7), encoder_rows(50, 8, 7)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, encoder_rows(50, 8, 8))
    # a narrow SAE starts from the first rows of a wide one, so such runs are not independent
    assert np.array_equal(a[:20], encoder_rows(20, 8, 7))
    assert np.abs(a).max() <= 1 / np.sqrt(8)
    assert abs(a.mean()) < 0.05
    zeros = np.zeros(8, np.float32)
    p = topk.initial(TopKSpec(latents=50, k=2), Start(encoder_rows(50, 8, 7), zeros, zeros, 7))
    cosine = torch.nn.functional.cosine_similarity(p["W_enc"], p["W_dec"])
    torch.testing.assert_close(cosine, torch.ones(50))


def test_geometric_median_resists_an_outlier() -> None:
    x = torch.zeros(101, 3)
    x[:100] = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + 1
    x[100] = 1e6
    assert (geometric_median(x) - 1).abs().max() < 0.5
    assert (x.mean(0) - 1).abs().max() > 1e3


def test_encode_decode_agree_and_say_what_does_not_fit() -> None:
    sae = topk.freeze(begin(TopKSpec(latents=40, k=5)), TopKSpec(latents=40, k=5), {})
    x = torch.randn(2, 3, 12)
    assert sae.encode(x).shape == (2, 3, 40)
    torch.testing.assert_close(sae.decode(sae.encode(x)), sae.reconstruct(x))
    sparse = sae.encode_sparse(x.reshape(-1, 12))
    assert torch.equal(dense(sparse, 40).reshape(2, 3, 40), sae.encode(x))
    torch.testing.assert_close(sae.reconstruct(x.numpy()), sae.reconstruct(x))
    with pytest.raises(SpecError, match="rows of 12 dimensions"):
        sae.encode(torch.zeros(4, 11))


def sparsify_forward(x, weights, k):
    """The published formula of the format's author, for weights as in his files."""
    pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    values, latents = torch.relu(pre).topk(k)
    codes = torch.zeros_like(pre).scatter_(1, latents, values)
    return codes @ weights["W_dec"] + weights["b_dec"]


def test_reconstruction_equals_the_published_formula() -> None:
    spec = TopKSpec(latents=40, k=5)
    p, x = begin(spec), torch.randn(30, 12)
    weights = {
        "encoder.weight": p["W_enc"],
        "encoder.bias": p["b_enc"],
        "W_dec": p["W_dec"],
        "b_dec": p["b_dec"],
    }
    torch.testing.assert_close(
        topk.freeze(p, spec, {}).reconstruct(x), sparsify_forward(x, weights, 5)
    )
