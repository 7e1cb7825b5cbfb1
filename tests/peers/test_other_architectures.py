"""Forms and gradients beside the classes of other libraries. Run by `make test-peers`."""

import pytest
import torch

from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import architecture
from reseed.sae.architectures.crosscoder import CrosscoderSpec
from reseed.sae.architectures.llamascope import LlamaScopeSpec
from reseed.sae.architectures.matching_pursuit import MatchingPursuitSpec
from reseed.sae.architectures.transcoder import SkipTranscoderSpec, TranscoderSpec
from reseed.sae.model import SAE

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
D, E, F, K, B = 16, 12, 64, 5, 50
AT = At(10, 10, torch.zeros(F, dtype=torch.bool))
close = torch.testing.assert_close


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(name, p, batch, spec):
    module = architecture(name)
    leaves = {n: v.clone().requires_grad_(n not in module.buffers) for n, v in p.items()}
    out = module.objective(leaves, batch, spec, AT)
    names = [n for n in leaves if leaves[n].requires_grad]
    found = torch.autograd.grad(out.loss, [leaves[n] for n in names])
    return out, dict(zip(names, found, strict=True))


def test_matching_pursuit_is_that_of_saelens():
    saelens = pytest.importorskip("sae_lens.saes.matching_pursuit_sae")
    cfg = saelens.MatchingPursuitTrainingSAEConfig(
        d_in=D,
        d_sae=F,
        decoder_init_norm=1.0,
        residual_threshold=0.0,
        stop_on_duplicate_support=False,
        max_iterations=K,
        apply_b_dec_to_input=True,
    )
    theirs = saelens.MatchingPursuitTrainingSAE(cfg)
    with torch.no_grad():
        theirs.b_dec.copy_(numbers(D, seed=1, scale=0.1))
    x = numbers(B, D, seed=2)
    acts = theirs.encode(x)
    made = theirs.decode(acts)
    error = (made - x).square().sum() / (x - x.mean(0)).square().sum()
    error.backward()

    spec = MatchingPursuitSpec(latents=F, k=K)
    p = {"W_dec": theirs.W_dec.detach(), "b_dec": theirs.b_dec.detach()}
    sae = architecture("matching_pursuit").freeze(p, spec, {})
    close(sae.encode(x), acts.detach(), rtol=1e-5, atol=1e-5)
    close(sae.reconstruct(x), made.detach(), rtol=1e-5, atol=1e-5)
    out, found = gradients("matching_pursuit", p, Batch(x, x), spec)
    close(out.loss.detach(), error.detach())
    close(found["W_dec"], theirs.W_dec.grad, rtol=1e-4, atol=1e-6)
    close(found["b_dec"], theirs.b_dec.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_are_those_of_sparsify(skip):
    sparsify = pytest.importorskip("sparsify")
    cfg = sparsify.SparseCoderConfig(num_latents=F, k=K, transcode=True, skip_connection=skip)
    theirs = sparsify.SparseCoder(D, cfg)
    with torch.no_grad():
        theirs.encoder.bias.copy_(numbers(F, seed=1, scale=0.1))
        theirs.b_dec.copy_(numbers(D, seed=3))
        theirs.W_dec.copy_(numbers(F, D, seed=4))
        if skip:
            theirs.W_skip.copy_(numbers(D, D, seed=5))
    x, y = numbers(B, D, seed=6), numbers(B, D, seed=7)
    told = theirs(x, y)
    told.fvu.backward()

    kind = SkipTranscoderSpec if skip else TranscoderSpec
    spec = kind(latents=F, k=K, target="y")
    p = {
        "W_enc": theirs.encoder.weight.detach(),
        "b_enc": theirs.encoder.bias.detach(),
        "W_dec": theirs.W_dec.detach(),
        "b_dec": theirs.b_dec.detach(),
    } | ({"W_skip": theirs.W_skip.detach()} if skip else {})
    sae = architecture(spec.name).freeze(p, spec, {})
    close(sae.reconstruct(x), told.sae_out.detach(), rtol=1e-5, atol=1e-5)
    out, found = gradients(spec.name, p, Batch(x, y), spec)
    close(out.loss.detach(), told.fvu.detach())
    close(found["W_enc"], theirs.encoder.weight.grad, rtol=1e-4, atol=1e-6)
    close(found["W_dec"], theirs.W_dec.grad, rtol=1e-4, atol=1e-6)
    close(found["b_dec"], theirs.b_dec.grad, rtol=1e-4, atol=1e-6)
    if skip:
        close(found["W_skip"], theirs.W_skip.grad, rtol=1e-4, atol=1e-6)


def test_a_skip_transcoder_of_unequal_widths_is_that_of_saelens():
    saelens = pytest.importorskip("sae_lens.saes.transcoder")
    cfg = saelens.SkipTranscoderConfig(d_in=D, d_out=E, d_sae=F, apply_b_dec_to_input=False)
    theirs = saelens.SkipTranscoder(cfg)
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=seed))
    ours = SAE(
        W_enc=theirs.W_enc.detach().T,
        b_enc=theirs.b_enc.detach(),
        W_dec=theirs.W_dec.detach(),
        b_dec=theirs.b_dec.detach(),
        W_skip=theirs.W_skip.detach(),
        activation={"kind": "relu"},
        centred=False,
    )
    x = numbers(B, D, seed=9)
    close(ours.reconstruct(x), theirs(x).detach(), rtol=1e-5, atol=1e-5 * 50)


def test_llama_scope_is_that_of_llamascopium():
    llamascopium = pytest.importorskip("llamascopium")
    cfg = llamascopium.SAEConfig(
        d_model=D,
        expansion_factor=F / D,
        dtype=torch.float32,
        act_fn="topk",
        top_k=K,
        hook_point_in="a",
        hook_point_out="a",
        sparsity_include_decoder_norm=True,
    )
    theirs = llamascopium.SparseAutoEncoder(cfg)
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=seed))
    x = 3 * numbers(B, D, seed=9)
    theirs.set_dataset_average_activation_norm({"a": float(x.norm(dim=1).mean())})
    scaled, factors = theirs.normalize_activations({"a": x}, return_scale_factor=True)
    made = theirs(scaled["a"])
    (made - scaled["a"]).square().sum().backward()
    raw = theirs.denormalize_activations({"a": made}, factors)["a"].detach()

    spec = LlamaScopeSpec(latents=F, k=K)
    p = {
        "W_enc": theirs.W_E.detach().T.contiguous(),
        "b_enc": theirs.b_E.detach(),
        "W_dec": theirs.W_D.detach(),
        "b_dec": theirs.b_D.detach(),
        "scale": D**0.5 / x.norm(dim=1).mean(),
        "threshold": torch.tensor(-1.0),
    }
    sae = architecture("llamascope").freeze(p, spec, {})
    close(sae.reconstruct(x), raw, rtol=1e-4, atol=1e-4)
    out, found = gradients("llamascope", p, Batch(x, x), spec)
    scale = (scaled["a"] - scaled["a"].mean(0)).square().sum()
    close(out.loss.detach(), ((made - scaled["a"]).square().sum() / scale).detach())
    close(found["W_enc"].T * scale, theirs.W_E.grad, rtol=1e-4, atol=1e-3)
    close(found["W_dec"] * scale, theirs.W_D.grad, rtol=1e-4, atol=1e-3)


def test_a_crosscoder_is_that_of_llamascopium():
    llamascopium = pytest.importorskip("llamascopium")
    cfg = llamascopium.CrosscoderConfig(
        d_model=D,
        expansion_factor=F / D,
        dtype=torch.float32,
        act_fn="relu",
        hook_points=["a", "b"],
    )
    theirs = llamascopium.Crosscoder(cfg)
    with torch.no_grad():
        for seed, parameter in enumerate(theirs.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=seed, scale=0.3))
        theirs.b_E.copy_(theirs.b_E[:1].expand_as(theirs.b_E))
    x = numbers(B, 2, D, seed=9)
    acts = theirs.encode(x)
    made = theirs.decode(acts).detach().reshape(B, 2 * D)
    l1 = (acts * theirs.decoder_norm()).sum().detach()

    spec = CrosscoderSpec(latents=F, parts=(D, D))
    p = {
        "W_enc": theirs.W_E.detach().permute(2, 0, 1).reshape(F, 2 * D),
        "b_enc": theirs.b_E.detach().sum(0),
        "W_dec": theirs.W_D.detach().permute(1, 0, 2).reshape(F, 2 * D),
        "b_dec": theirs.b_D.detach().reshape(-1),
        "scales": torch.ones(2),
        "threshold": torch.tensor(-1.0),
    }
    flat = x.reshape(B, 2 * D)
    sae = architecture("crosscoder").freeze(p, spec, {})
    close(sae.reconstruct(flat), made, rtol=1e-5, atol=1e-4)
    out = architecture("crosscoder").objective(p, Batch(flat, flat), spec, AT)
    scale = (flat - flat.mean(0)).square().sum()
    penalty = (out.loss - out.fvu) * B * (scale / B).sqrt() / spec.penalty
    close(penalty, l1, rtol=1e-4, atol=1e-3)
