"""The entries that a step finds are the gradients of its plain twin, taken apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.sae.architecture import At, Batch, Start
from reseed.sae.architectures import ARCHITECTURES, architecture, topk
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.encode import new_screen
from reseed.sae.parts import encoder_rows
from reseed.sae.settings import PenalisedSpec
from reseed.training.step import finding, has_loops, sparse


def parse_sae(given):
    return ARCHITECTURES[given["architecture"]].settings(**given)


MATRICES = ("W_enc", "W_dec")


def start(spec, d, seed, shift=0.0):
    """Parameters in float32."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=d).astype(np.float32)
    p = architecture(spec.name).initial(
        spec, Start(encoder_rows(spec.latents, d, seed), centre, centre, seed, d**0.5)
    )
    p["W_dec"] += torch.from_numpy(0.1 * rng.normal(size=p["W_dec"].shape)).float()
    bias = "b_gate" if spec.name == "gated" else "b_enc"
    p[bias] += torch.from_numpy(0.1 * rng.normal(size=spec.latents)).float() + shift
    if spec.name == "gated":
        p["r_mag"] += torch.from_numpy(rng.choice([0, np.log(2), -np.log(2)], spec.latents)).float()
        p["b_mag"] += torch.from_numpy(rng.integers(-20, 20, spec.latents) / 64 + 3e-4).float()
    if isinstance(spec, PenalisedSpec):  # on a grid, so that what fires is the same in float64
        for name, parts in (("W_enc", 64), (bias, 64), ("b_dec", 16)):
            p[name] = (p[name] * parts).round() / parts
    if spec.name == "jumprelu":
        p["threshold"] *= torch.from_numpy(rng.choice([-1, 1], spec.latents)).float()
    return p


def trained_of(spec, p, without=()):
    return frozenset(p) - architecture(spec.name).buffers - set(without)


def find(spec, p, x, dead, *, trained, threads=1, product=None, penalty=1.0):
    screen = new_screen(p["W_enc"], 1, product=product)
    read = sparse.read_batch(p, x, dead, screen, trained=trained, threads=threads)
    return finding.finding(spec)(read, At(0, 10, dead, penalty))


def dense(found, W_dec):
    """The gradients as arrays."""
    if found.matrices is not None:
        return {name: getattr(found.matrices, name) for name in MATRICES} | found.vectors
    entries, d = found.entries, found.x.shape[1]
    out = {name: np.zeros((len(W_dec), d)) for name in MATRICES}
    for j in range(len(W_dec)):
        for e in range(entries.starts[j], entries.starts[j + 1]):
            row = entries.rows[e]
            out["W_enc"][j] += entries.flow[e] * found.x[row % len(found.x)].astype(np.float64)
            out["W_dec"][j] += entries.values[e] * found.residual[row].astype(np.float64)
    if found.pull is not None:
        out["W_dec"] += found.pull[:, None] * W_dec.numpy()
    return out | found.vectors


def by_torch(spec, p, x, dead, trained, penalty=1.0):
    """Gradients, FVU, codes and buffers in float64 by autograd."""
    here = {name: value.double().requires_grad_(name in trained) for name, value in p.items()}
    torch.set_default_dtype(torch.float64)
    try:
        at = At(0, 10, dead, penalty)
        out = architecture(spec.name).objective(here, Batch(x.double(), x.double()), spec, at)
        names = sorted(trained)
        slopes = torch.autograd.grad(
            out.loss, [here[n] for n in names], allow_unused=True, materialize_grads=True
        )
    finally:
        torch.set_default_dtype(torch.float32)
    return dict(zip(names, slopes, strict=True)), out


def hold_together(spec, d, rows, dead, seed, shift=0.0, without=(), threads=1, penalty=1.0):
    p = start(spec, d, seed, shift)
    x = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(rows, d))).float()
    x = (x * 16).round() / 16 if isinstance(spec, PenalisedSpec) else x
    trained = trained_of(spec, p, without)
    found = find(spec, p, x, dead, trained=trained, threads=threads, penalty=penalty)
    gradients, out = by_torch(spec, p, x, dead, trained, penalty)
    ours = dense(found, p["W_dec"])
    for name, expected in gradients.items():
        expected = expected.numpy()
        scale = np.abs(expected).max() + 1e-6
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=2e-5 * scale, err_msg=name)
    squares = sum(float(value.square().sum()) for value in gradients.values())
    assert found.norm == pytest.approx(squares**0.5, rel=1e-5)
    assert found.fvu == pytest.approx(float(out.fvu), rel=1e-5)
    fires = out.codes > 0
    assert found.l0 == pytest.approx(float(fires.sum()) / rows, abs=1e-12)
    assert torch.equal(found.fired, fires.any(0))
    for name, value in out.buffers.items():
        if name in found.buffers:
            torch.testing.assert_close(found.buffers[name], value.float(), rtol=1e-5, atol=1e-6)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30), st.integers(2, 70), st.integers(2, 40), st.integers(0, 99),
    st.floats(0, 1), st.sampled_from([0.0, 1 / 32, 1.0]), st.data(),
)  # fmt: skip
def test_gradients_equal_the_plain_twin(d, latents, rows, seed, share_dead, alpha, data):
    k = data.draw(st.one_of(st.just(1), st.integers(1, latents), st.just(latents)))
    name = data.draw(st.sampled_from(["topk", "batchtopk", "matryoshka"]))
    own = {"prefixes": [0.5]} if name == "matryoshka" else {}
    spec = parse_sae({"architecture": name, "latents": latents, "k": k, "auxk_alpha": alpha, **own})
    dead = torch.from_numpy(np.random.default_rng(seed).random(latents) < share_dead)
    hold_together(spec, d, rows, dead, seed)


def test_written_out_by_hand_is_the_same_too():
    spec = TopKSpec(latents=50, k=4, auxk_alpha=1 / 32)
    p, dead = start(spec, 12, 0), torch.arange(50) % 3 == 0
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(30, 12))).float()
    plain = topk.step(p, x, spec, dead)
    found = find(spec, p, x, dead, trained=trained_of(spec, p))
    for name, value in dense(found, p["W_dec"]).items():
        np.testing.assert_allclose(value, plain.gradients[name].numpy(), atol=1e-6, rtol=1e-4)


PENALISED = {
    "relu": {"penalty": 0.3},
    "gated": {"penalty": 0.3},
    "jumprelu": {"penalty": 0.1, "threshold": 0.02, "bandwidth": 0.05},
    "jumprelu, wide": {"penalty": 0.1, "threshold": 0.02, "bandwidth": 0.3},
    "relu, free": {"penalty": 0.3, "decoder": "weighted"},
    "jumprelu, tanh": {"penalty": 0.1, "threshold": 0.02, "bandwidth": 0.05, "sparsity": "tanh"},
    "jumprelu, tanh, wide": {
        "penalty": 0.1, "threshold": 0.02, "bandwidth": 0.3, "sparsity": "tanh", "tanh_scale": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("dense_from", [0.0, 1.0])
@pytest.mark.parametrize("case", PENALISED)
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(2, 70), st.integers(2, 40), st.integers(0, 99),
       st.sampled_from([0.0, 1.0, 3.0]), st.sampled_from([0.0, -1.0]))  # fmt: skip
def test_penalties_equal_their_plain_twin_either_way(
    case, dense_from, d, latents, rows, seed, penalty, shift
):
    spec = parse_sae(
        {"architecture": case.partition(",")[0], "latents": latents, **PENALISED[case]}
    )
    dead = torch.zeros(latents, dtype=torch.bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "DENSE_FROM", dense_from)
        hold_together(spec, d, rows, dead, seed, shift=shift, penalty=penalty)


CASES = {
    "topk": {"k": 6},
    "batchtopk": {"k": 6},
    "matryoshka": {"k": 6},
    "relu": {},
    "gated": {},
    "jumprelu": {"threshold": 0.05, "bandwidth": 0.02},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dense_from", [0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_more_rows_and_latents_than_a_piece_of_work(name, dense_from, threads, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", dense_from)
    spec = parse_sae({"architecture": name, "latents": 1200, **CASES[name]})
    hold_together(spec, 20, 300, torch.arange(1200) % 3 == 0, 0, threads=threads, shift=-0.2)


@pytest.mark.parametrize("dense_from", [0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_all_silent(name, dense_from, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", dense_from)
    own = CASES[name] | ({"prefixes": [0.5]} if name == "matryoshka" else {})
    spec = parse_sae({"architecture": name, "latents": 20, **own})
    found = hold_together(spec, 8, 16, torch.zeros(20, dtype=torch.bool), 0, shift=-100.0)
    assert found.l0 == 0
    assert not found.fired.any()


@pytest.mark.parametrize("frozen", MATRICES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dense_from", [0.0, 1.0])
def test_the_norm_is_of_what_is_trained(frozen, name, dense_from, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", dense_from)
    own = CASES[name] | ({"prefixes": [0.5]} if name == "matryoshka" else {})
    spec = parse_sae({"architecture": name, "latents": 20, **own})
    hold_together(spec, 8, 16, torch.zeros(20, dtype=torch.bool), 0, without=(frozen,))


@pytest.mark.parametrize("dense_from", [0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_equal_rows_has_no_loss(name, dense_from, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", dense_from)
    own = CASES[name] | ({"prefixes": [0.5]} if name == "matryoshka" else {})
    spec = parse_sae({"architecture": name, "latents": 20, **own})
    p = start(spec, 8, 0)
    dead = torch.zeros(20, dtype=torch.bool)
    found = find(spec, p, torch.ones(4, 8), dead, trained=trained_of(spec, p))
    assert np.isnan(found.fvu)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_how_many_fire_decides_whether_it_is_made_whole(name):
    spec = parse_sae({"architecture": name, "latents": 200})
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 8))).float()
    dead = torch.zeros(200, dtype=torch.bool)
    for shift, whole in ((0.0, True), (-2.0, False)):
        p = start(spec, 8, 0, shift)
        found = find(spec, p, x, dead, trained=trained_of(spec, p))
        assert (found.matrices is not None) == whole


def test_what_has_no_rule_is_refused():
    for name, own in (("panneal", {}), ("jumprelu", {"sparsity": "tanh", "pre_act": 1})):
        spec = parse_sae({"architecture": name, "latents": 20, **own})
        assert not has_loops(spec)
    with pytest.raises(TypeError, match="panneal"):
        finding.finding(parse_sae({"architecture": "panneal", "latents": 20}))
