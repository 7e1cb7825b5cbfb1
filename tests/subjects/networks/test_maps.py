"""Maps, drawn places, patches, experts, and parts of what passes a site."""

import numpy as np
import pytest
import torch
from torch import nn

import reseed
from reseed.errors import SpecError, SubjectError
from reseed.subjects.language.splice import spliced
from reseed.subjects.module import ModuleSource
from reseed.subjects.sites import read_sites, replaced
from reseed.subjects.source import rows_of_split
from reseed.subjects.subject import Opened, sample

SAMPLES = [5, 5, 3]


class Pictures(nn.Module):
    """Two convolutions, the second on maps of half the size, and a pooled layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 2, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


NET = Pictures().eval()
DRAW = torch.Generator().manual_seed(1)
BATCHES = [torch.randn(n, 3, 8, 12, generator=DRAW) for n in SAMPLES]
FIRST = {"layout": {"features.*": "channels_first"}}


def test_a_map_is_rows_with_places():
    source = ModuleSource(NET, ["features.0"], BATCHES, layout="channels_first")
    assert source.sites == {"features.0": 6}
    assert source.rows.tolist() == [n * 96 for n in SAMPLES]
    with torch.no_grad():
        there = NET.features[0](BATCHES[2])
    rows, places = source.read([2])["features.0"], source.places(2)
    sample, y, x = places.T
    assert places.dtype == np.int32
    assert set(sample) == {10, 11, 12}, "samples are counted over all batches"
    assert torch.equal(rows, there[sample - 10, :, y, x])


def test_drawn_places_are_the_same_at_all_sites():
    sites = ["features.*", "head"]
    with pytest.raises(SpecError, match="'head' gives 1 rows for a sample"):
        ModuleSource(NET, sites, BATCHES, **FIRST, positions=6)
    source = ModuleSource(NET, sites[:1], BATCHES, **FIRST, positions=6)
    assert source.rows.tolist() == [6 * n for n in SAMPLES]
    fine, coarse = (source.places(1, f"features.{i}") for i in (0, 1))
    assert (fine[:, 0] == coarse[:, 0]).all()
    assert (fine[:, 1:] // 2 == coarse[:, 1:]).all()
    assert len(np.unique(fine, axis=0)) == 30, "no place is drawn twice here"
    with torch.no_grad():
        there = NET.features(BATCHES[1])
    sample, y, x = coarse.T
    assert torch.equal(source.read([1])["features.1"], there[sample - 5, :, y, x])
    alone = ModuleSource(NET, ["features.1"], BATCHES, **FIRST, positions=6)
    assert (alone.places(1) == coarse).all(), "other sites change no places"
    assert (source.places(0)[:, 1:] != source.places(1)[:, 1:]).any(), "blocks have their own"
    every = ModuleSource(NET, ["features.1"], BATCHES, **FIRST, positions=16).places(0)
    assert every[:, 1].max() == 3
    assert every[:, 2].max() == 5


@pytest.mark.parametrize(
    ("sites", "how", "says"),
    [
        (["features.0"], {}, r"dimension 1 of \[5, 6, 8, 12\].*layout = 'channels_first'"),
        (["features.0:in"], {}, r"Conv2d has 3 features.*'channels_first'"),
        (["features"], {}, r"Sequential has 4 features"),
        (["head"], {"layout": {"haed": "channels_first"}}, "none of the sites .* 'head'"),
        (["features.0"], {"layout": "patches"}, "reads .B, tokens, D."),
        (["features.0", "features.1"], FIRST, "unequal numbers.*features.0: 480, features.1: 120"),
        (["features.1"], FIRST | {"positions": 25}, "positions = 25, but .* gives 24 rows"),
    ],
)
def test_wrong_layouts_are_refused_at_the_first_batch(sites, how, says):
    with pytest.raises((SpecError, SubjectError), match=says):
        ModuleSource(NET, sites, BATCHES, **how)


class Tokens(nn.Module):
    """Two class tokens and 9 patches, of which the layer norm is the site; and a tuple."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.pair = Pair()

    def forward(self, x, scale=2.0):
        return self.pair(self.norm(x), scale=scale).states["b"]


class Pair(nn.Module):
    def forward(self, x, *, scale):
        return Out(x, {"a": (x + 1, 3 * x), "b": scale * x})


class Out:
    def __init__(self, first, states):
        self.first, self.states = first, states


def test_patches_leave_class_tokens_out_and_put_them_back():
    net, x = Tokens(), torch.randn(2, 11, 4, generator=DRAW)
    source = ModuleSource(net, ["norm"], [x], layout="patches")
    assert source.rows.tolist() == [18]
    assert source.places(0)[:10, 1:].tolist() == [[i // 3, i % 3] for i in range(9)] + [[0, 0]]
    assert torch.equal(source.read([0])["norm"], net.norm(x)[:, 2:].reshape(18, 4).detach())
    with torch.no_grad(), replaced(net, "norm", lambda there: there * 0, "patches"):
        out = net(x)
    assert not out[:, 2:].any()
    assert torch.equal(out[:, :2], 2 * net.norm(x)[:, :2].detach())


def test_parts_of_outputs_and_arguments_are_named_by_path():
    net, x = Tokens(), torch.randn(2, 11, 4, generator=DRAW)
    sites = ["pair:in.x", "pair:out.first", "pair:out.states.a[1]", "pair:out.states.b"]
    read = read_sites(net, sites, lambda: net(x, scale=5.0))
    seen = read["pair:in.x"]
    assert torch.equal(read["pair:out.states.a[1]"], 3 * seen)
    assert torch.equal(read["pair:out.first"], seen)
    assert torch.equal(read["pair:out.states.b"], 5 * seen)
    assert reseed.harvest(net, ["pair:out.states.a[0]"], [x])["pair:out.states.a[0]"].shape == (
        22,
        4,
    )
    with torch.no_grad():
        with replaced(net, "pair:out.states.b", torch.zeros_like):
            assert not net(x).any()
        with replaced(net, "pair:out.states.a[1]", torch.zeros_like):
            assert net(x).any()
        with replaced(net, "pair:in.x", torch.ones_like):
            assert torch.equal(net(x), torch.full((2, 11, 4), 2.0))
    with pytest.raises(SubjectError, match=r"no part 'c'; it is a dict with a, b"):
        read_sites(net, ["pair:out.states.c"], lambda: net(x))
    with pytest.raises(SpecError, match=r"as :out\[1\] or :out.logits"):
        ModuleSource(net, ["pair:out..a"], [x])


class Experts(nn.Module):
    """Two experts; each sees the rows whose first number is of its sign."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 5) for _ in range(2))

    def forward(self, x):
        flat, out = x.reshape(-1, 3), x.new_zeros(x.shape[0] * x.shape[1], 5)
        for number, expert in enumerate(self.experts):
            sent = (flat[:, 0] > 0) == bool(number)
            if sent.any():
                out[sent] = expert(flat[sent])
        return out


def test_rows_of_an_expert_are_those_sent_to_it():
    batches = [torch.randn(4, 6, 3, generator=DRAW) for _ in range(4)]
    batches[1] = -batches[1].abs()
    net = Experts()
    source = ModuleSource(net, ["experts.1"], batches, ragged=True)
    sent = [(b[..., 0] > 0) for b in batches]
    assert source.rows.tolist() == [int(s.sum()) for s in sent]
    assert source.rows[1] == 0
    with torch.no_grad():
        want = net.experts[1](batches[3][sent[3]])
    torch.testing.assert_close(source.read([1, 3])["experts.1"], want)
    assert (source.places(3) == -1).all()
    empty = ModuleSource(net, ["experts.1"], [batches[1], *batches, batches[1]], ragged=True)
    assert empty.rows[[0, -1]].tolist() == [0, 0]
    assert np.isfinite(sample(Opened(empty, 6, None, None))["experts.1"]).all()
    with pytest.raises(SpecError, match=r"2 blocks to train on .* the 3 held out 0; both need"):
        rows_of_split(np.array([1, 2, 0, 0, 0]), np.arange(2), np.arange(2, 5))
    few = ModuleSource(net, ["experts.1"], batches, ragged=True, enough=int(source.rows[0]) + 1)
    assert len(few.rows) == 3, "counting stops where there are enough rows"
    with pytest.raises(SubjectError, match="say rows = 'ragged'"):
        ModuleSource(net, ["experts.1"], [torch.ones(2, 1, 3) * torch.tensor([[[1.0]], [[-1.0]]])])
    with pytest.raises(SubjectError, match="no row in any of 1 batches"):
        ModuleSource(net, ["experts.1"], batches[1:2], ragged=True)
    with pytest.raises(SubjectError, match="unequal numbers of rows for batch 0"):
        ModuleSource(net, ["experts.*"], batches, ragged=True)


def test_an_sae_in_a_vision_model_changes_it_as_the_algebra_says():
    sae = reseed.train(
        ModuleSource(NET, ["features.1"], BATCHES, layout="channels_first")
        .read([0, 1])["features.1"],
        latents=8, k=2, tokens=2_560, batch=64, init_seeds=[0],
    )[0]  # fmt: skip
    site, x = "features.1", BATCHES[2]
    with torch.no_grad():
        there = NET.features(x).permute(0, 2, 3, 1)
        codes = sae.encode(there)
        latent = int(codes.sum((0, 1, 2)).argmax())
        whole = NET(x)
        with sae.spliced(NET, site, layout="channels_first"):
            new = NET(x)
        # pooling and the head are linear: the change is that of the mean row, through its weights
        lost = (sae.reconstruct(there) - there).mean((1, 2))
        torch.testing.assert_close(new, whole + lost @ NET.head.weight.T)

        def without(codes):
            out = codes.clone()
            out[..., latent] = 0
            return out

        with spliced(sae, NET, site, layout="channels_first", edit=without, keep_error=True):
            ablated = NET(x)
        mean = codes[..., latent].mean((1, 2))[:, None]
        want = whole - mean * (NET.head.weight @ sae.W_dec[latent])
        torch.testing.assert_close(ablated, want)
        assert (ablated - whole).abs().max() > 1e-3
        with (
            pytest.raises(SubjectError, match=r"\[3, 4, 4, 6\] passes there.*reads rows of 4"),
            spliced(sae, NET, site),
        ):
            NET(x)
