"""What a batch says by Triton's kernels is what it says by the plain twin, to rounding."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from reseed.sae import codes as kernels
from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import topk
from reseed.sae.architectures.batchtopk import BatchTopKSpec
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.gpu import new_screen
from reseed.sae.parts import unit_rows
from reseed.training.step.gpu import find, sizes
from reseed.training.step.plain import by_autograd

ALL = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})


def parameters(d, latents, device, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(latents, d)).astype(np.float32)
    p = {"W_enc": rows, "W_dec": unit_rows(rows)}
    p |= {"b_enc": 0.1 * rng.normal(size=latents), "b_dec": 0.1 * rng.normal(size=d)}
    return {n: torch.from_numpy(np.asarray(v, np.float32)).to(device) for n, v in p.items()}


def dense(found, latents):
    """The gradients of both matrices, from the entries that they are made of."""
    starts, rows, values, flow = found.entries
    counts = (starts[1:] - starts[:-1]).long()
    latent = torch.repeat_interleave(torch.arange(latents, device=rows.device), counts)
    rows, count = rows[: len(latent)].long(), len(found.x)
    out = torch.zeros(2, latents, found.x.shape[1], dtype=torch.float64, device=rows.device)
    values, flow = values[: len(latent), None].double(), flow[: len(latent), None].double()
    out[0].index_add_(0, latent, flow * found.x.double()[rows % count])
    out[1].index_add_(0, latent, values * found.residual.double()[rows])
    return out


@pytest.mark.parametrize("alpha", [0.0, 1 / 32])
@pytest.mark.parametrize(
    ("rows", "d", "latents", "k"), [(5, 7, 20, 3), (3, 12, 75, 1), (4, 5, 9, 9), (1, 6, 8, 2)]
)
def test_gradients_equal_the_plain_twin(rows, d, latents, k, alpha, device):
    p = parameters(d, latents, device)
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(rows, d)).astype(np.float32)).to(device)
    if rows > 3:
        x[2] = p["b_dec"]  # a row of zeros to the encoder
    dead = torch.from_numpy(rng.random(latents) < 0.4).to(device)
    spec = TopKSpec(latents=latents, k=k, auxk_alpha=alpha)
    if rows == 1:
        x = torch.cat([x, -x])
    plain = topk.step(p, x, spec, dead)
    found = find(p, x, spec, dead, new_screen(p["W_enc"]), trained=ALL)
    made = dict(zip(("W_enc", "W_dec"), dense(found, latents), strict=True))
    made |= found.vectors
    total = 0.0
    for name, expected in plain.gradients.items():
        near = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(made[name].float(), expected, rtol=1e-4, atol=near)
        total += float(expected.double().square().sum())
    assert found.norm == pytest.approx(total**0.5, rel=1e-5)
    assert found.fvu == pytest.approx(plain.fvu, rel=1e-5)
    assert found.l0 == pytest.approx(plain.l0)
    assert torch.equal(found.fired, plain.fired)


@pytest.mark.parametrize("before", [-1.0, 0.5])
@pytest.mark.parametrize(("latents", "k", "alpha"), [(20, 3, 1 / 32), (80, 1, 0.0)])
def test_the_batch_rule_equals_autograd(latents, k, alpha, before, device):
    p = parameters(6, latents, device) | {"threshold": torch.tensor(before, device=device)}
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32)).to(device)
    dead = torch.from_numpy(rng.random(latents) < 0.4).to(device)
    spec = BatchTopKSpec(latents=latents, k=k, auxk_alpha=alpha)
    free = {n: torch.nn.Parameter(p[n]) for n in ALL}
    plain = by_autograd(spec)(p | free, Batch(x, x), At(0, 1, dead))
    found = find(p, x, spec, dead, new_screen(p["W_enc"]), trained=ALL)
    made = dict(zip(("W_enc", "W_dec"), dense(found, latents), strict=True))
    made |= found.vectors
    for name in ALL:
        near = 1e-5 * float(plain.by_name[name].abs().max())
        torch.testing.assert_close(made[name].float(), plain.by_name[name], rtol=1e-4, atol=near)
    torch.testing.assert_close(found.buffers["threshold"], plain.buffers["threshold"])
    assert found.fvu == pytest.approx(plain.fvu, rel=1e-5)
    assert found.l0 == pytest.approx(plain.l0)
    assert torch.equal(found.fired, plain.fired)


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_the_norm_is_of_what_is_trained(name, device):
    p = parameters(6, 10, device)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)).to(device)
    spec, dead = TopKSpec(latents=10, k=2), torch.zeros(10, dtype=torch.bool, device=device)
    g = topk.step(p, x, spec, dead).gradients
    screen = new_screen(p["W_enc"])
    found = find(p, x, spec, dead, screen, trained=ALL - {name})
    expected = sum(float(v.square().sum()) for n, v in g.items() if n != name) ** 0.5
    assert found.norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the interpreter
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "b_dec"])
def test_what_is_not_a_number_is_told(name, device):
    p = parameters(6, 80, device)
    p[name].view(-1)[3] = torch.nan
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)).to(device)
    spec, dead = TopKSpec(latents=80, k=1), torch.zeros(80, dtype=torch.bool, device=device)
    found = find(p, x, spec, dead, new_screen(p["W_enc"]), trained=ALL)
    assert not np.isfinite(found.fvu)


def test_entries_are_sorted_by_latent_then_by_row(device):
    p = parameters(5, 12, device)
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)).to(device)
    spec, dead = TopKSpec(latents=12, k=4), torch.zeros(12, dtype=torch.bool, device=device)
    found = find(p, x, spec, dead, new_screen(p["W_enc"]), trained=ALL)
    codes = kernels.top_codes_plain(found.x @ p["W_enc"].T + p["b_enc"], 4)
    where = kernels.dense(codes, 12).T > 0
    assert found.entries.starts.tolist() == [0, *where.sum(1).cumsum(0).tolist()]
    active = int(found.entries.starts[-1])
    assert found.entries.rows[:active].tolist() == where.nonzero()[:, 1].tolist()


@pytest.mark.parametrize("d", [1, 16, 17, 576, 2304, 4096])
def test_sizes_hold_all_dimensions(d):
    made = sizes(d)
    assert made["WIDTH"] >= d
    assert made["WIDTH"] < 2 * max(d, 16)
    assert made["ENTRIES"] & (made["ENTRIES"] - 1) == 0
