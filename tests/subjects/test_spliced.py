"""A language model with a site replaced: the same where nothing changes, and differentiable."""

import numpy as np
import pytest
import torch

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.activations import SplicedModel, divergence, put_rows


@pytest.fixture
def model(tiny_folder):
    return SplicedModel.load(LanguageModelSpec(model=str(tiny_folder)))


IDS = torch.from_numpy(np.random.default_rng(0).integers(4, 20, (2, 8)))


@pytest.mark.parametrize("site", ["layers.1", "layers.1.mlp", "layers.1.mlp:in", "layers.2:in"])
def test_putting_back_what_was_there_changes_nothing(model, site):
    whole = model.run(IDS, [site, "layers.3"])
    same = model.run_with(IDS, site, lambda x: x.clone(), ["layers.3"])
    assert torch.equal(whole.logits, same.logits)
    assert torch.equal(whole.at["layers.3"], same.at["layers.3"])
    other = model.run_with(IDS, site, torch.zeros_like, [site])
    assert not torch.equal(whole.logits, other.logits)
    assert not other.at[site].any(), "a site is read as it goes on"


def test_only_kept_positions_are_replaced_and_nothing_before_them_changes(model):
    keep = torch.zeros(2, 8, dtype=torch.bool)
    keep[0, 5] = True
    whole = model.run(IDS, ["layers.1"])
    new = model.run_with(IDS, "layers.1", put_rows(keep, torch.ones(1, 16)), ["layers.1"])
    assert torch.equal(new.at["layers.1"][keep], torch.ones(1, 16))
    assert torch.equal(new.at["layers.1"][~keep], whole.at["layers.1"][~keep])
    assert torch.equal(new.logits[1], whole.logits[1])
    assert torch.equal(new.logits[0, :5], whole.logits[0, :5])
    assert not torch.equal(new.logits[0, 5:], whole.logits[0, 5:])


def test_gradients_are_those_of_finite_differences(model):
    keep = torch.ones(2, 8, dtype=torch.bool)
    whole = model.run(IDS, ["layers.1"])
    rows = (whole.at["layers.1"][keep] + 0.5).requires_grad_()

    def loss(x):
        new = model.run_with(IDS, "layers.1", put_rows(keep, x), ["layers.3"])
        return divergence(whole.logits[keep], new.logits[keep]) + new.at["layers.3"].square().mean()

    (gradient,) = torch.autograd.grad(loss(rows), rows)
    step = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (loss(rows + 1e-2 * step) - loss(rows - 1e-2 * step)) / 2e-2
    assert float((gradient * step).sum()) == pytest.approx(float(difference), rel=2e-2)


def test_divergence_is_that_of_the_formula():
    p = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    q = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    want = (0.2 * np.log(0.4) + 0.8 * np.log(1.6)) / 2
    assert float(divergence(p.log(), q.log())) == pytest.approx(want)
    assert float(divergence(p.log() + 3, p.log())) == pytest.approx(0, abs=1e-6)


def test_sites_must_come_after_the_one_replaced(model):
    model.check_sites("layers.1", ["layers.2", "layers.1.mlp:in"][:1], IDS)
    for later in (["layers.0"], ["layers.1.mlp"]):
        with pytest.raises(SpecError, match="does not depend on"):
            model.check_sites("layers.1", later, IDS)
    with pytest.raises(SpecError, match="pattern"):
        model.check_sites("layers.*", [], IDS)
    with pytest.raises(SpecError, match="no such module"):
        model.check_sites("layers.7", [], IDS)


def test_a_model_without_its_head_is_refused(tiny_folder):
    with pytest.raises(SubjectError, match="random weights"):
        SplicedModel.load(LanguageModelSpec(model=str(tiny_folder), random_weights=0))
