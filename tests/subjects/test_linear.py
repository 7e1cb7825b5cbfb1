"""Linear layers by oneDNN are the same; in 8 bits close, row by row, and nothing hidden."""

import pytest
import torch
from torch import nn

from reseed.errors import SpecError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language import linear
from reseed.subjects.language.linear import Int8Linear, to_int8
from reseed.subjects.language.model import load_language_model


def layer(inputs=24, outputs=16, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def rows(count=9, inputs=24, seed=1):
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))


def plain(small, x):
    """What the layer says it computes, in float64."""
    largest = x.abs().amax(1, keepdim=True).clamp_min(1e-30)
    rounded = (x * (127 / largest)).round().double() * (largest / 127).double()
    weights = small.weight.double() * small.scale[:, None].double()
    return rounded @ weights.T + (0 if small.bias is None else small.bias.double())


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_it_computes_what_it_says_and_is_near_the_exact_layer(bias):
    exact = layer(bias=bias)
    small, x = Int8Linear(exact), rows()
    torch.testing.assert_close(small(x).double(), plain(small, x), rtol=1e-5, atol=1e-6)
    error = (small(x) - exact(x)).norm() / exact(x).norm()
    assert 0 < error < 0.02
    assert small.weight.dtype == torch.int8
    assert small.weight.abs().max() == 127


@torch.no_grad()
def test_what_eight_bits_can_say_is_exact():
    """Whole numbers up to 127, with 127 in each row of weights and inputs."""
    exact = layer(bias=False)
    exact.weight.copy_(torch.randint(-127, 128, exact.weight.shape).float())
    exact.weight[:, 0] = 127
    x = torch.randint(-127, 128, (5, 24)).float()
    x[:, 3] = -127
    assert torch.equal(Int8Linear(exact)(x), exact(x))


@torch.no_grad()
def test_a_row_depends_on_no_other_and_shapes_stay():
    small, x = Int8Linear(layer()), rows(12)
    whole = small(x)
    x_outlier = x.clone()
    x_outlier[3] *= 1e6
    assert torch.equal(small(x_outlier)[[0, 5, 11]], whole[[0, 5, 11]])
    assert torch.equal(small(x[4:5]), whole[4:5])
    assert torch.equal(small(x.view(3, 4, 24)), whole.view(3, 4, 16))
    assert small(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_odd_rows():
    small, x = Int8Linear(layer(bias=False)), rows(5)
    x[0], x[1], x[2, 3], x[3, 0] = 0.0, 1e-38, float("nan"), float("inf")
    out = small(x)
    assert torch.equal(out[0], torch.zeros(16))
    assert out[1].isfinite().all()
    assert out[2].isnan().all()
    assert not out[3].isfinite().any()
    assert torch.equal(out[4], small(rows(5))[4])


def test_a_model_in_int8_keeps_its_sites(tiny_folder):
    sites = ["layers.1.mlp", "layers.*.self_attn.q_proj"]
    ids = torch.randint(4, 20, (2, 6), generator=torch.Generator().manual_seed(0))
    exact, small = (
        load_language_model(LanguageModelSpec(model=str(tiny_folder), dtype=dtype), sites)
        for dtype in ("float32", "int8")
    )
    assert small.sites == exact.sites
    assert not any(type(part) is nn.Linear for part in small.body.modules())
    for site, want in exact.forward(ids).items():
        error = (small.forward(ids)[site] - want).norm() / want.norm()
        assert 0 < error < 0.05, site


def test_nothing_to_round_is_refused():
    with pytest.raises(SpecError, match=r"no torch\.nn\.Linear"):
        to_int8(nn.Sequential(nn.ReLU()), "mine")


onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN")


@onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_by_onednn_is_the_same_layer(bias, monkeypatch):
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)
    exact, x = layer(bias=bias), rows().view(3, 3, 24)
    seen = []
    model = nn.Sequential(exact, nn.ReLU())
    exact.register_forward_hook(lambda *args: seen.append(args[2]))
    before = model(x)
    linear.to_onednn(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), before.detach())
        torch.testing.assert_close(model(x.bfloat16().float()), before.detach(), atol=0.1, rtol=0.1)
    assert len(seen) == 3, "hooks stay"
    model(x).sum().backward()
    assert exact.weight.grad is not None, "gradients go the usual way"
    with torch.no_grad():
        assert exact.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_elsewhere_layers_stay(monkeypatch):
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: False)
    model = nn.Sequential(layer())
    linear.to_onednn(model)
    assert type(model[0]) is nn.Linear
