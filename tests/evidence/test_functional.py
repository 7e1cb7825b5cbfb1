"""Dropping latents at equal firing mass, on dictionaries whose worth is known."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.evidence.equal_mass import equal_mass_draws
from reseed.evidence.function import functional_value, mass_of, without
from reseed.sae.model import SAE

D = 24


class Memory:
    """Rows of blocks that lie in memory."""

    def __init__(self, blocks):
        self._blocks = blocks
        self.sites = {"s": blocks[0].shape[1]}
        self.rows = np.array([len(b) for b in blocks])

    def read(self, blocks):
        return {"s": torch.cat([self._blocks[b] for b in blocks])}


def identity(useless=0.0, **more):
    """A latent for each direction; the second half decode wrongly by a share of `useless`."""
    W = torch.eye(D)
    W_dec = W.clone()
    half = D // 2
    W_dec[half:] = (1 - useless) * W[half:] + useless * torch.roll(W[half:], 1, dims=0)
    return SAE(
        W_enc=W, W_dec=W_dec, b_enc=torch.zeros(D), b_dec=torch.zeros(D),
        activation={"kind": "relu"}, **more,
    )  # fmt: skip


def rows(rng, blocks=30, n=40):
    x = rng.exponential(1, (blocks, n, D)) * (rng.random((blocks, n, D)) < 0.3)
    return [torch.from_numpy(b).float() for b in x]


def firing_of(sae, blocks):
    codes = sae.encode(torch.cat(blocks)).numpy()
    fires = codes > 0
    return pl.DataFrame(
        {
            "latent": np.arange(sae.latents),
            "rate": fires.mean(0),
            "mean_act": codes.sum(0) / np.maximum(fires.sum(0), 1),
        }
    )


SETS = {"shared": range(D // 2), "orphan": range(D // 2, D)}


def value(sae, blocks, sets=SETS, **more):
    firing = more.pop("firing", None)
    firing = firing_of(sae, blocks) if firing is None else firing
    given = {"draws": 6, "tolerance": 0.1, **more}
    source = Memory(blocks)
    return functional_value(
        sae, "s", source, np.arange(len(blocks)), firing, sets, Events(), **given
    )


# -- equal mass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_draws_have_equal_mass_whatever_the_sets(seed):
    rng = np.random.default_rng(seed)
    mass = np.concatenate([rng.lognormal(0, 1, 300), rng.lognormal(-2, 1, 500), np.zeros(50)])
    sets = {"heavy": range(300), "light": range(300, 850)}
    draws = equal_mass_draws(mass, sets, draws=8, tolerance=0.02, seed=seed)
    wanted = 0.5 * min(mass[:300].sum(), mass[300:].sum())
    assert len(draws) == 16
    for one in draws:
        assert one.mass == pytest.approx(mass[list(one.latents)].sum())
        assert abs(one.mass - wanted) <= 0.02 * wanted
        assert set(one.latents) <= set(sets[one.name])
        assert (mass[list(one.latents)] > 0).all()
    assert len({one.latents for one in draws}) == 16
    assert equal_mass_draws(mass, sets, draws=8, tolerance=0.02, seed=seed) == draws
    assert equal_mass_draws(mass, sets, draws=3, tolerance=0.02, seed=seed)[:3] == draws[:3]


@pytest.mark.parametrize(
    ("mass", "sets", "message"),
    [
        ([1.0, 0.0], {"a": [0], "b": [1]}, "b: none of its 1 latents fires"),
        ([1.0, 10.0], {"a": [0], "b": [1]}, "b: no 200 orders of its 1 latents reach"),
        ([1.0], {"a": [0, 3]}, "latents 0 to 0, not 3"),
        ([1.0], {"a": [-1, 0]}, "latents 0 to 0, not -1"),
        ([1.0], {"a": []}, "none of its 0"),
        ([1.0], {}, "0 sets"),
    ],
)
def test_what_cannot_be_equal_is_refused(mass, sets, message):
    with pytest.raises(SpecError, match=message):
        equal_mass_draws(np.array(mass), sets, draws=2, share=1.0)


# -- what is lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_dropping_is_the_same_as_zeroing_decoder_rows(kind, normalised):
    rng = np.random.default_rng(0)
    sae = SAE(
        W_enc=torch.from_numpy(rng.normal(size=(40, D))).float(),
        W_dec=torch.from_numpy(rng.normal(size=(40, D))).float(),
        b_enc=torch.zeros(40),
        b_dec=torch.from_numpy(rng.normal(size=D)).float(),
        activation={"kind": "topk", "k": 5} if kind == "topk" else {"kind": "relu"},
        normalised=normalised,
    )
    x = torch.from_numpy(rng.normal(size=(50, D))).float()
    dropped = [3, 4, 20, 39]
    W_dec = sae.W_dec.clone()
    W_dec[dropped] = 0
    plain = replace(sae, W_dec=W_dec).reconstruct(x)
    assert torch.allclose(without(sae, dropped)(x), plain, atol=1e-3)
    assert torch.equal(without(sae, [])(x), sae.reconstruct(x))


def test_the_rise_is_that_of_the_plain_loop():
    blocks = rows(np.random.default_rng(1))
    sae = identity(useless=0.3)
    found = value(sae, blocks)
    x = torch.cat(blocks).double()
    scale = float((x - x.mean(0)).square().sum())

    def fvu(reconstruct):
        return float((reconstruct(x.float()) - x).square().sum()) / scale

    assert found.fvu == pytest.approx(fvu(sae.reconstruct), abs=1e-6)
    draws = equal_mass_draws(mass_of(sae, firing_of(sae, blocks)), SETS, draws=6, tolerance=0.1)
    for one, row in zip(draws, found.draws.iter_rows(named=True), strict=True):
        assert row["fvu"] == pytest.approx(fvu(without(sae, one.latents)), abs=1e-5)
        assert row["latents"] == len(one.latents)
    means = found.draws.group_by("set", maintain_order=True).agg(pl.col("fvu_rise").mean())
    assert np.allclose(means["fvu_rise"], found.sets["fvu_rise"], atol=1e-9)


def test_useless_latents_cost_less_and_equal_ones_the_same():
    useless = value(identity(useless=0.8), rows(np.random.default_rng(2)))
    row = useless.differences.row(0, named=True)
    assert row["contrast"] == "shared - orphan"
    assert row["fvu_rise_lo"] > 0
    covered = 0
    for draw in range(30):
        found = value(identity(), rows(np.random.default_rng(draw), blocks=20), seed=draw)
        row = found.differences.row(0, named=True)
        covered += row["fvu_rise_lo"] <= 0 <= row["fvu_rise_hi"]
    assert covered >= 25
    assert "equal firing mass" in found.says


def test_rare_and_frequent_latents_of_one_worth_are_alike_at_equal_mass():
    """Without equal mass, dropping as many frequent latents would cost several times as much."""
    rng = np.random.default_rng(3)
    rate = np.where(np.arange(D) < D // 2, 0.4, 0.1)
    x = (rng.random((40, 60, D)) < rate) * 1.0
    blocks = [torch.from_numpy(b).float() for b in x]
    sae = identity()
    found = value(sae, blocks, tolerance=0.15, share=0.65)
    counts = found.sets["latents"].to_list()
    assert counts[1] > 3 * counts[0]
    rises = found.sets["fvu_rise"].to_list()
    # all activations are 1, so energy is mass
    assert np.allclose(found.sets["energy"], found.sets["mass"])
    assert rises[1] == pytest.approx(rises[0], rel=0.15)


def test_cross_entropy_is_asked_of_every_reconstruction():
    blocks = rows(np.random.default_rng(4))
    x = torch.cat(blocks)
    asked = []

    def entropy(reconstruct):
        asked.append(1)
        return 3.0 + float((reconstruct(x) - x).square().mean())

    found = value(identity(useless=0.5), blocks, cross_entropy=entropy)
    assert len(asked) == 1 + 2 * 6
    assert found.ce == pytest.approx(entropy(identity(useless=0.5).reconstruct))
    assert (found.draws["ce_rise"] - (found.draws["ce"] - found.ce)).abs().max() < 1e-12
    assert found.differences["ce_rise_lo"][0] > 0
    plain = value(identity(), blocks)
    assert plain.ce is None
    assert plain.sets["ce_rise"].null_count() == 2


def test_what_cannot_be_measured_is_refused():
    blocks = rows(np.random.default_rng(5), blocks=4)
    alike = [torch.ones_like(b) for b in blocks]
    with pytest.raises(SubjectError, match="all alike"):
        value(identity(), alike)
    with pytest.raises(SpecError, match="firing of 3 latents for an SAE of 24"):
        value(identity(), blocks, firing=firing_of(identity(), blocks).head(3))
    transcoder = replace(identity(), W_dec=torch.zeros(D, 5), b_dec=torch.zeros(5), centred=False)
    as_wide = replace(identity(), about={"site": "layers.6.mlp:in", "target": "layers.6.mlp"})
    for one in (transcoder, as_wide):
        with pytest.raises(SpecError, match="transcoder"):
            value(one, blocks)
