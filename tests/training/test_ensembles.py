"""Bagging is one SAE where that is exact, and refused where not; boosting is kept as its parts."""

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError, StoreError
from reseed.sae.model import SAE
from reseed.training.ensembles import Ensemble, bag, boost, read_ensemble


def sae(seed, kind="relu", latents=6, dimensions=5, **more):
    draw = np.random.default_rng(seed)

    def tensor(*shape):
        return torch.from_numpy(draw.normal(size=shape)).float()

    rule = {"kind": kind}
    if kind in ("topk", "groupmax"):
        rule["k"] = more.pop("k")
    threshold = tensor(latents).abs() if kind == "jumprelu" else None
    return SAE(
        W_enc=tensor(latents, dimensions), W_dec=tensor(latents, dimensions), b_enc=tensor(latents),
        b_dec=tensor(dimensions), activation=rule, threshold=threshold, **more,
    )  # fmt: skip


X = torch.from_numpy(np.random.default_rng(9).normal(size=(50, 5))).float()


@pytest.mark.parametrize(
    "parts",
    [
        [sae(0), sae(1), sae(2, latents=9)],
        [sae(0, "jumprelu"), sae(1, "jumprelu")],
        [sae(0, "jumprelu"), sae(1), sae(2, centred=False)],
        [sae(0, "topk", k=1), sae(1, "topk", k=1), sae(2, "topk", k=1)],
        [sae(0, "groupmax", k=2), sae(1, "groupmax", k=2)],
        [sae(0, "groupmax", latents=12, k=2), sae(1, "topk", k=1)],
        [sae(0, normalised=True), sae(1, normalised=True)],
        [sae(0, W_skip=torch.eye(5)), sae(1)],
        [sae(0, "topk", k=3)],
    ],
    ids=lambda parts: "+".join(str(one.activation["kind"]) for one in parts),
)
def test_a_bag_is_the_average_of_its_parts(parts):
    """The plain twin: reconstruct with each and average."""
    one = bag(parts)
    assert one.latents == sum(part.latents for part in parts)
    want = Ensemble(saes=tuple(parts), kind="bagged").reconstruct(X)
    torch.testing.assert_close(one.reconstruct(X), want, atol=1e-5, rtol=1e-5)
    codes = torch.cat([part.encode(X) for part in parts], 1)
    torch.testing.assert_close(one.encode(X), codes, atol=1e-5, rtol=1e-5)


def test_rules_without_an_exact_union_are_refused():
    with pytest.raises(SpecError, match="no exact union"):
        bag([sae(0, "topk", k=2), sae(1, "topk", k=2)])
    with pytest.raises(SpecError, match="no exact union"):
        bag([sae(0, "topk", k=1), sae(1, "topk", latents=7, k=1)])
    with pytest.raises(SpecError, match="no exact union"):
        bag([sae(0, "topk", k=1), sae(1)])
    with pytest.raises(SpecError, match="same dimensions"):
        bag([sae(0), sae(1, dimensions=4)])
    with pytest.raises(SpecError, match="same dimensions"):
        bag([])
    with pytest.raises(SpecError, match="normalise"):
        bag([sae(0), sae(1, normalised=True)])


def test_boosting_explains_more_with_each_part():
    draw = np.random.default_rng(0)
    x = torch.from_numpy((draw.random((2000, 20)) < 0.2) @ draw.normal(size=(20, 5))).float()
    found = boost(x, latents=6, k=1, lr=0.01, batch=100, tokens=20_000, init_seeds=[0, 1, 2])
    errors = [
        float((Ensemble(saes=found.saes[:n], kind="boosted").reconstruct(x) - x).square().sum())
        for n in (1, 2, 3)
    ]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]
    first = reseed.train(x, latents=6, k=1, lr=0.01, batch=100, tokens=20_000, init_seeds=[0])[0]
    assert torch.equal(found.saes[0].W_dec, first.W_dec)
    assert found.dictionary.shape == (18, 5)
    with pytest.raises(SpecError, match="one SAE after the other"):
        boost(x, latents=6, k=1, mutual={})
    with pytest.raises(SpecError, match="empty"):
        boost(x, latents=6, k=1, init_seeds=[])


@pytest.mark.parametrize("kind", ["bagged", "boosted"])
def test_an_ensemble_is_saved_as_its_parts(tmp_path, kind):
    one = Ensemble(saes=(sae(0, "topk", k=2), sae(1, "jumprelu")), kind=kind)
    one.write(tmp_path / "e")
    again = read_ensemble(tmp_path / "e")
    assert again.kind == kind
    assert torch.equal(again.reconstruct(X), one.reconstruct(X))
    (tmp_path / "e/ensemble.json").write_text("{}")
    with pytest.raises(StoreError, match="no ensemble"):
        read_ensemble(tmp_path / "e")
