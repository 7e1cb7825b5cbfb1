import pytest
import torch
from torch import nn

from reseed.errors import SpecError, SubjectError
from reseed.subjects.sites import list_sites, read_sites, resolve_sites


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(3, 3)
        self.act = nn.ReLU(inplace=True)
        self.unused = nn.Identity()
        self.calls = 0

    def forward(self, x, *, extra=None):
        self.calls += 1
        return (self.act(self.mlp(x)), "more")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(11))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)[0]
        return {"out": x}


def hooks(net):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_patterns_match_one_component_in_module_order():
    net = Net()
    assert "layers" not in list_sites(net)
    assert "" not in list_sites(net)
    want = [f"layers.{i}.mlp" for i in range(11)]
    assert resolve_sites(net, ["layers.*.mlp"]) == want
    assert resolve_sites(net, ["layers.*"])[2] == "layers.2"
    got = resolve_sites(net, ["layers.10", "layers.2.mlp:out", "layers.2.ml?", "layers.2.mlp:in"])
    assert got == ["layers.2.mlp:in", "layers.2.mlp", "layers.10"]


def test_unknown_sites_teach():
    with pytest.raises(SpecError, match=r"did you mean 'layers.0.mlp'"):
        resolve_sites(Net(), ["layers.0.mpl"])
    with pytest.raises(SpecError, match="not ':middle'"):
        resolve_sites(Net(), ["layers.0:middle"])
    assert resolve_sites(Net(), []) == []
    with pytest.raises(SpecError, match="no site"):
        read_sites(Net(), [], lambda: None)


def test_reads_what_passes_and_stops_after_the_last_site():
    net, x = Net(), torch.randn(5, 3)
    got = read_sites(net, ["layers.1", "layers.1.mlp", "layers.1:in"], lambda: net(x))
    assert list(got) == ["layers.1", "layers.1.mlp", "layers.1:in"]
    assert [layer.calls for layer in net.layers] == [1, 1] + [0] * 9
    assert hooks(net) == 0
    first = net.layers[0](x)[0]
    assert torch.equal(got["layers.1:in"], first)
    # The activation after it works in place; what was read is from before.
    assert torch.equal(got["layers.1.mlp"], net.layers[1].mlp(first))
    assert not any(t.requires_grad or t.is_inference() for t in got.values())


def test_keyword_inputs_count():
    net, x = Net(), torch.randn(2, 3)
    got = read_sites(net, ["layers.0:in"], lambda: net.layers[0](x=x))
    assert torch.equal(got["layers.0:in"], x)


def test_a_module_that_swallows_exceptions_is_stopped_too():
    net, later = Net(), []

    def call():
        try:
            net(torch.randn(1, 3))
        except Exception:  # noqa: BLE001  (what the test is about)
            later.append(1)

    read_sites(net, ["layers.0"], call)
    assert not later


def test_unreached_sites_and_failures_leave_no_hooks():
    net = Net()
    with pytest.raises(SubjectError, match=r"layers.3.unused.*not reached"):
        read_sites(net, ["layers.0", "layers.3.unused"], lambda: net(torch.randn(1, 3)))
    with pytest.raises(RuntimeError):
        read_sites(net, ["layers.0"], lambda: net(torch.randn(1, 4)))
    with pytest.raises(SpecError, match="no such module"):
        read_sites(net, ["layers.0", "layers.0.mpl"], lambda: net(torch.randn(1, 3)))
    assert hooks(net) == 0
