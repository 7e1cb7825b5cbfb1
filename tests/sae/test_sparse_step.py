"""The entries that a step finds are the gradients of its plain twin, taken apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.sae.architecture import start as begin
from reseed.sae.architectures import topk
from reseed.sae.encode import new_screen
from reseed.sae.sparse_step import find
from reseed.sae.specs.topk import TopKSpec

ALL = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})


def start(spec, d, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    p = topk.initial(spec, begin(spec.latents, seed, rng.normal(size=d).astype(np.float32)))
    p["W_dec"] += torch.from_numpy(0.1 * rng.normal(size=p["W_dec"].shape)).float()
    p["b_enc"] += torch.from_numpy(0.1 * rng.normal(size=spec.latents)).float() + shift
    return p


def dense(found, latents):
    """The gradients as arrays."""
    entries, d = found.entries, found.x.shape[1]
    out = {"W_enc": np.zeros((latents, d)), "W_dec": np.zeros((latents, d))}
    for j in range(latents):
        for e in range(entries.starts[j], entries.starts[j + 1]):
            row = entries.rows[e]
            out["W_enc"][j] += entries.flow[e] * found.x[row % len(found.x)].astype(np.float64)
            out["W_dec"][j] += entries.values[e] * found.residual[row].astype(np.float64)
    return out | {"b_enc": found.b_enc, "b_dec": found.b_dec}


def hold_together(spec, d, rows, dead, seed, shift=0.0, trained=ALL, threads=1):
    p = start(spec, d, seed, shift)
    x = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(rows, d))).float()
    screen = new_screen(p["W_enc"], 1)
    found = find(p, x, spec, dead, screen, trained=trained, threads=threads)
    double = {name: value.double() for name, value in p.items()}
    torch.set_default_dtype(torch.float64)
    try:
        plain = topk.step(double, x.double(), spec, dead)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in dense(found, spec.latents).items():
        expected = plain.gradients[name].numpy()
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-5 * scale, err_msg=name)
    squares = sum(float(plain.gradients[name].square().sum()) for name in trained)
    assert found.norm == pytest.approx(squares**0.5, rel=1e-5)
    assert found.fvu == pytest.approx(plain.fvu, rel=1e-5)
    assert found.l0 == plain.l0
    assert torch.equal(found.fired, plain.fired)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30), st.integers(2, 70), st.integers(2, 40), st.integers(0, 99),
    st.floats(0, 1), st.sampled_from([0.0, 1 / 32, 1.0]), st.data(),
)  # fmt: skip
def test_gradients_equal_the_plain_twin(d, latents, rows, seed, share_dead, alpha, data):
    k = data.draw(st.one_of(st.just(1), st.integers(1, latents), st.just(latents)))
    spec = TopKSpec(latents=latents, k=k, auxk_alpha=alpha)
    dead = torch.from_numpy(np.random.default_rng(seed).random(latents) < share_dead)
    hold_together(spec, d, rows, dead, seed)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 1 / 32])
def test_more_rows_and_latents_than_a_piece_of_work(threads, alpha):
    spec = TopKSpec(latents=1200, k=6, auxk_alpha=alpha)
    hold_together(spec, 20, 300, torch.arange(1200) % 3 == 0, 0, threads=threads)


def test_all_silent():
    spec = TopKSpec(latents=20, k=3)
    found = hold_together(spec, 8, 16, torch.zeros(20, dtype=torch.bool), 0, shift=-100.0)
    assert found.l0 == 0
    assert not found.fired.any()


@pytest.mark.parametrize("frozen", ["W_enc", "W_dec"])
def test_the_norm_is_of_what_is_trained(frozen):
    spec = TopKSpec(latents=20, k=3)
    hold_together(spec, 8, 16, torch.zeros(20, dtype=torch.bool), 0, trained=ALL - {frozen})


def test_a_batch_of_equal_rows_has_no_loss():
    spec = TopKSpec(latents=20, k=3)
    p = start(spec, 8, 0)
    dead = torch.zeros(20, dtype=torch.bool)
    screen = new_screen(p["W_enc"], 1)
    found = find(p, torch.ones(4, 8), spec, dead, screen, trained=ALL, threads=1)
    assert np.isnan(found.fvu)
