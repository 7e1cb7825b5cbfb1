"""Our TopK against sparsify's own class, on random weights. Run by `make test-peers`."""

import pytest
import torch

from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import topk
from reseed.sae.architectures.topk import TopKSpec

sparsify = pytest.importorskip("sparsify")
pytestmark = pytest.mark.peers


@pytest.mark.parametrize(("d", "latents", "k"), [(16, 64, 8), (48, 512, 32)])
@pytest.mark.parametrize("alpha", [0.0, 1 / 32])
def test_forward_loss_and_gradients_agree(d: int, latents: int, k: int, alpha: float) -> None:
    torch.manual_seed(0)
    coder = sparsify.SparseCoder(d, sparsify.SparseCoderConfig(num_latents=latents, k=k))
    with torch.no_grad():
        coder.encoder.bias.normal_(std=0.1)
        coder.b_dec.normal_()
        coder.W_dec += 0.1 * torch.randn_like(coder.W_dec)
    x = torch.randn(64, d)
    dead = torch.zeros(latents, dtype=torch.bool)
    dead[: latents // 4] = alpha > 0
    theirs = coder(x, dead_mask=dead if alpha else None)
    (theirs.fvu + alpha * theirs.auxk_loss).backward()

    spec = TopKSpec(latents=latents, k=k, auxk_alpha=alpha)
    p = {
        "W_enc": coder.encoder.weight.detach(),
        "b_enc": coder.encoder.bias.detach(),
        "W_dec": coder.W_dec.detach(),
        "b_dec": coder.b_dec.detach(),
    }
    torch.testing.assert_close(topk.freeze(p, spec, {}).reconstruct(x), theirs.sae_out.detach())
    ours = topk.step(p, x, spec, dead)
    assert ours.fvu == pytest.approx(float(theirs.fvu.detach()), rel=1e-5)
    whole = topk.objective(p, Batch(x, x), spec, At(0, 1, dead)).loss
    torch.testing.assert_close(whole, (theirs.fvu + alpha * theirs.auxk_loss).detach())
    theirs_of = {
        "W_enc": coder.encoder.weight.grad,
        "b_enc": coder.encoder.bias.grad,
        "W_dec": coder.W_dec.grad,
        "b_dec": coder.b_dec.grad,
    }
    if alpha:
        # 1.3.3 drops the gradient of its AuxK loss on the way into the encoder: the backward of its
        # fused encoder ignores what reaches the pre-activations. Ours passes it on.
        theirs_of = {"W_dec": theirs_of["W_dec"]}
    for name, gradient in theirs_of.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-4, atol=1e-6)
