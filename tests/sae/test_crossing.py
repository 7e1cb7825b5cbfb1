"""Whose a crosscoder's latents are: shares on rows whose parts are known, latents that are reserved
to a part, and what is learned of two planted versions that differ in a few features."""

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.sae.architecture import At, Batch
from reseed.sae.architectures.crosscoder import CROSSCODER, CrosscoderSpec, relative_norms

ROWS = np.array(
    [[3, 4, 0, 0, 0], [0, 0, 0, 0, 2], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [10, 0, 0.1, 0, 10]],
    np.float32,
)


def test_latents_are_told_apart():
    found = relative_norms(ROWS, [2, 2, 1])
    assert found["kind"].to_list() == ["exclusive", "exclusive", "partly", "zero", "partly"]
    assert found["part"].to_list()[:2] == [0, 2]
    np.testing.assert_allclose(found.select("share_0", "share_1", "share_2").row(0), (1, 0, 0))
    np.testing.assert_allclose(found["share_0"][2], 0.5)
    assert np.isnan(found["share_0"][3])
    assert relative_norms(ROWS[2:3], [2, 3])["kind"].to_list() == ["shared"]


def test_scales_put_the_sites_on_one_footing():
    rows = np.array([[1, 100]], np.float32)
    assert relative_norms(rows, [1, 1])["kind"].to_list() == ["exclusive"]
    found = relative_norms(rows, [1, 1], [1.0, 0.01])
    np.testing.assert_allclose(found["share_0"], 0.5)


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match=r"parts = \[2, 2\] .* 5 dimensions"):
        relative_norms(ROWS, [2, 2])
    with pytest.raises(SpecError, match="1 scales"):
        relative_norms(ROWS, [2, 3], [1.0])


D, SHARED, OWN = 32, 24, 4
"""Of each version; `OWN` features of the first and as many others of the second."""


@pytest.fixture(scope="module")
def versions():
    """Rows of both side by side, and the features that are of one version only."""
    rng = np.random.default_rng(0)
    drawn = (rng.standard_normal((n, D)) for n in (SHARED, OWN, OWN))
    shared, *own = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in drawn)

    def codes(features, rate):
        return (rng.random((30_000, features)) < rate) * rng.gamma(4.0, 0.25, (30_000, features))

    same = codes(SHARED, 0.06) @ shared
    x = np.concatenate([same + codes(OWN, 0.12) @ mine for mine in own], axis=1)
    return x.astype(np.float32), own


ARMS = {"parts": [D, D], "latents": SHARED + 2 * OWN, "k": 2, "lr": 1e-2, "batch": 256}


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_what_is_reserved_is_zero_to_the_last_bit(versions, optimizer):
    (sae,) = reseed.train(
        versions[0], "crosscoder", init_seeds=[0], tokens=2560, exclusive=0.125,
        tied_init=optimizer == "adam", optimizer=optimizer, **ARMS,
    )  # fmt: skip
    found = relative_norms(sae.W_dec.numpy(), sae.about["parts"], sae.about["scales"])
    assert found["part"].to_list()[: 2 * OWN] == [0] * OWN + [1] * OWN
    assert set(found["kind"][: 2 * OWN]) == {"exclusive"}
    for rows in (sae.W_enc, sae.W_dec):
        assert not rows[:OWN, D:].any()
        assert not rows[OWN : 2 * OWN, :D].any()
        assert bool((rows[2 * OWN :] != 0).all())


def test_the_loss_of_the_difference_is_that_of_its_formula(versions):
    x, (a, b) = torch.tensor(versions[0][:64]), (slice(0, D), slice(D, 2 * D))
    told = CrosscoderSpec(parts=(D, D), latents=8, k=2, delta=0.7, delta_share=0.5)
    plain = CrosscoderSpec(parts=(D, D), latents=8, k=2)
    draw = torch.Generator().manual_seed(0)
    p = {name: torch.randn(8, 2 * D, generator=draw) for name in ("W_enc", "W_dec")}
    p |= {"b_enc": torch.zeros(8), "b_dec": torch.randn(2 * D, generator=draw)}
    p |= {"scales": torch.tensor([2.0, 3.0]), "threshold": torch.tensor(-1.0)}
    at = At(0, 1, torch.zeros(8, dtype=torch.bool))
    out, base = (CROSSCODER.objective(p, Batch(x, x), spec, at) for spec in (told, plain))
    scaled = x * torch.tensor([2.0, 3.0]).repeat_interleave(D)
    z, W, bias = out.codes[:, :4], p["W_dec"][:4], p["b_dec"]
    missed = z @ (W[:, b] - W[:, a]) + bias[b] - bias[a] - (scaled[:, b] - scaled[:, a])
    added = 0.7 * missed.square().sum() / (scaled - scaled.mean(0)).square().sum()
    torch.testing.assert_close(out.loss, base.loss + added)
    assert torch.equal(out.fvu, base.fvu)


def test_live_latents_of_one_version_are_what_it_has_alone(versions):
    x, own = versions
    (sae,) = reseed.train(
        x, "crosscoder", init_seeds=[0], tokens=320_000, exclusive=0.125, auxk_alpha=1 / 32,
        dead_after=10_000, **ARMS,
    )  # fmt: skip
    found = relative_norms(sae.W_dec.numpy(), sae.about["parts"], sae.about["scales"])
    live = (sae.encode(torch.tensor(x[:4000])) > 0).any(0).numpy()
    reserved = 0
    for part, features in enumerate(own):
        (alone,) = np.nonzero(
            live & (found["kind"] == "exclusive").to_numpy() & found["part"].eq(part).to_numpy()
        )
        pairs = reseed.match(sae.W_dec[alone, part * D : (part + 1) * D].numpy(), features)
        latents = alone[pairs.pairs[pairs.similarity > 0.9, 0]]
        assert len(latents) >= OWN - 1
        reserved += int((latents < 2 * OWN).sum())
    assert reserved >= OWN - 1
