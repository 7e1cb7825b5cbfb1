"""Random weights come from their seed alone, and what cannot be reset is refused."""

import pytest
import torch
from torch import nn

from reseed.errors import SpecError
from reseed.spec.refusals import read_spec
from reseed.spec.subject import LanguageModelSpec, ModuleSpec
from reseed.subjects.controls import randomise
from reseed.subjects.language.model import load_language_model


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def differ(a, b):
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_a_language_model_is_drawn_anew(tiny_folder):
    def load(seed):
        given = LanguageModelSpec(model=str(tiny_folder), random_weights=seed)
        return load_language_model(given, ["layers.*.mlp"])

    state = torch.random.get_rng_state()
    trained, one, again, other = (load(seed) for seed in (None, 0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trained.sites == one.sites
    assert differ(weights(one.body), weights(again.body)) == []
    changed = differ(weights(one.body), weights(trained.body))
    matrices = [name for name, value in trained.body.named_parameters() if value.ndim > 1]
    assert set(matrices) <= set(changed)
    assert set(matrices) <= set(differ(weights(one.body), weights(other.body)))
    ids = torch.tensor([[1, 5, 6]])
    site = one.sites[0]
    assert not torch.equal(one.forward(ids)[site], trained.forward(ids)[site])


def make(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 2)
    )


def test_a_module_is_drawn_anew():
    one, two, three = make(0), make(5), make(0)
    one(torch.randn(10, 4))  # moves the running statistics
    state = torch.random.get_rng_state()
    randomise(one, 3)
    randomise(two, 3)
    randomise(three, 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert differ(weights(one), weights(two)) == []
    assert "0.weight" in differ(weights(one), weights(make(0)))
    assert "2.self_attn.in_proj_weight" in differ(weights(one), weights(make(0)))
    assert "0.weight" in differ(weights(one), weights(three))
    assert torch.equal(one[1].running_mean, torch.zeros(8))


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))


def test_weights_that_cannot_be_reset_are_named_and_nothing_is_changed():
    module = nn.Sequential(nn.Linear(2, 2), Raw())
    before = weights(module)
    with pytest.raises(SpecError, match=r"1 \(Raw\) has the weights scale"):
        randomise(module, 0)
    assert differ(before, weights(module)) == []


def test_a_spec_without_random_weights_is_written_as_ever():
    """Digests of what is written decide where results lie."""
    for kind, given in (
        (LanguageModelSpec, {"model": "x"}),
        (ModuleSpec, {"kind": "module", "factory": "a:b"}),
    ):
        assert "random_weights" not in read_spec(kind, given, "t").model_dump(mode="json")
        random = read_spec(kind, {**given, "random_weights": 0}, "t")
        assert random.model_dump(mode="json")["random_weights"] == 0
        assert random.digest() != read_spec(kind, given, "t").digest()
