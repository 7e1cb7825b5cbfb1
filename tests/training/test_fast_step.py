"""The fast way and the plain way are one training; the fast one is itself on any threads."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.errors import TrainingError
from reseed.sae import encode
from reseed.spec.subject import ToySpec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.subjects.toy import Toy
from reseed.training.learner import Learner
from reseed.training.step import finding

CONTROLS = (None, "frozen_decoder", "soft_frozen_decoder", "frozen_encoder")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(count, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, d))).float()


RULES = {
    "topk": {"k": 3, "auxk_alpha": 1 / 32},
    "batchtopk": {"k": 3},
    "matryoshka": {"k": 3, "prefixes": [0.2, 0.6]},
    "relu": {"penalty": 0.3, "penalty_warmup": 0},
    "free": {"architecture": "relu", "decoder": "weighted", "penalty": 0.3, "penalty_warmup": 0},
    "gated": {"penalty": 0.3, "penalty_warmup": 0},
    "jumprelu": {"penalty": 0.01, "penalty_warmup": 0, "threshold": 0.1, "bandwidth": 0.1},
    "tanh": {
        "architecture": "jumprelu", "sparsity": "tanh", "penalty": 0.01, "penalty_warmup": 0,
        "threshold": 0.1, "bandwidth": 0.1,
    },
}  # fmt: skip
"""Architectures with loops; `free` and `tanh` have decoder rows of any length."""
WAYS = [(name, whole) for name in RULES for whole in (0.0, 1.0) if "k" not in RULES[name] or whole]
"""With the share of codes from which a step is made by whole matrices, for penalties."""


def learner(x, control=None, *, plain=False, batch=32, steps=1000, clip=1.0, **sae):
    training = TrainingSpec(tokens=batch * steps, batch=batch, warmup_steps=0, clip=clip)
    name = sae.pop("architecture", None)
    own = {"k": 3} if name is None else {"architecture": name, **RULES[name]}
    sae = {"latents": 20, "lr": 1e-3, **own, **sae}
    spec = RunSpec(
        data="", site="x", sae=sae, training=training, init_seed=0, data_seed=0, control=control
    )
    return Learner(spec, x[:batch], plain=plain)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(CONTROLS), st.integers(2, 70), st.integers(1, 24), st.sampled_from([0, 1 / 32]),
    st.sampled_from([1e-3, 1.0, 1e3]), st.data(),
)  # fmt: skip
def test_a_step_equals_autograd_clipping_adam_and_unit_rows(control, latents, d, alpha, clip, data):
    """Several steps of torch's own, on the loss as a formula."""
    k = data.draw(st.one_of(st.just(1), st.integers(1, latents)))
    x = rows(96, d + 1)
    settings = {"latents": latents, "k": k, "auxk_alpha": alpha, "dead_after": 32, "clip": clip}
    fast, plain = (learner(x, control, plain=way, **settings) for way in (False, True))
    for i in range(3):
        batch = x[i * 32 : (i + 1) * 32]
        a, b = fast.update(batch), plain.update(batch)
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
        assert a["dead"] == b["dead"]
    ours, theirs = fast.state(), plain.state()
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        if "exp_avg" in name:
            continue
        # Adam divides by the gradient's own size, so that rounding in a tiny one is a step of lr
        far = (value - theirs[name]).abs() > 1e-5
        assert far.float().mean() < 0.02, name
        assert (value - theirs[name]).abs().max() <= 2.1 * 3e-3, name
    for name in (n for n in ours if n.endswith("exp_avg")):
        scale = theirs[name].abs().max()
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=float(2e-5 * scale))


@pytest.mark.parametrize(("name", "whole"), WAYS)
@pytest.mark.parametrize("control", CONTROLS)
def test_other_rules_equal_autograd_clipping_adam_and_unit_rows(control, name, whole, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", whole)
    x = rows(160, 13)
    given = {"architecture": name, "latents": 50, "dead_after": 64}
    fast, plain = (learner(x, control, plain=way, **given) for way in (False, True))
    for i in range(5):
        batch = x[i * 32 : (i + 1) * 32]
        a, b = fast.update(batch), plain.update(batch)
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
        assert a["l0"] == pytest.approx(b["l0"], rel=1e-3)
    ours, theirs = fast.state(), plain.state()
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        scale = float(theirs[name].abs().max())
        far = (value - theirs[name]).abs() > 1e-3 * scale
        assert far.float().mean() < 0.02, name


@pytest.mark.parametrize(("name", "whole"), WAYS)
@pytest.mark.parametrize("control", CONTROLS)
def test_a_run_can_go_on_the_other_way(control, name, whole, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", whole)
    x = rows(320, 8)
    fast, plain = (learner(x, control, plain=way, architecture=name) for way in (False, True))
    for i in range(4):
        fast.update(x[i * 32 : (i + 1) * 32])
    plain.restore({name: value.clone() for name, value in fast.state().items()})
    for i in range(4, 10):
        a, b = (way.update(x[i * 32 : (i + 1) * 32]) for way in (fast, plain))
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
    torch.testing.assert_close(fast.sae().W_dec, plain.sae().W_dec, atol=1e-3, rtol=0)


OPTIONS = {
    "l2": {"weight_l2": 1e-3},
    "aligned": {"aligned": True},
    "both": {"weight_l2": 1e-3, "aligned": True},
    "signum": {"optimizer": "signum"},
    "pulled": {"mutual": {}},
    "falling": {"k": 3, "k_start": 9},
}
"""Options that leave the codes to the loops and the rest to torch."""


@pytest.mark.parametrize(
    ("option", "name", "whole"),
    [(option, *way) for option in OPTIONS for way in WAYS
     if option != "falling" or "k" in RULES[way[0]]],
)  # fmt: skip
@pytest.mark.parametrize("control", [None, "frozen_decoder"])
def test_options_take_the_gradients_of_autograd_from_loops(
    control, option, name, whole, monkeypatch
):
    given = {"architecture": name, "latents": 50, "dead_after": 32, **OPTIONS[option]}
    monkeypatch.setattr(finding, "DENSE_FROM", whole)
    x = rows(160, 13)
    loops, plain = (learner(x, control, plain=way, **given) for way in (False, True))
    pull = rows(50, 13, seed=1) if option == "pulled" else None
    for i in range(5):
        batch = x[i * 32 : (i + 1) * 32]
        a, b = (way.look(batch, pull=pull) for way in (loops, plain))
        assert a.fvu == pytest.approx(b.fvu, rel=1e-4)
        assert a.norm == pytest.approx(b.norm, rel=1e-3)
        assert a.l0 == pytest.approx(b.l0, rel=1e-3)
        for way, look in ((loops, a), (plain, b)):
            way.apply(look, 32)
        plain.restore({name: value.clone() for name, value in loops.state().items()})
    ours, theirs = loops._path._trained, plain._path._trained
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        scale = float(theirs[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=0, atol=2e-4 * scale)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_encoder_that_is_not_finite_is_told(option):
    made = learner(rows(32, 13), **OPTIONS[option])
    made.parameters["W_enc"][0, 0] = float("nan")
    with pytest.raises(TrainingError, match="learning rate"):
        made.look(rows(32, 13))


@pytest.fixture(scope="module")
def toy():
    toy = Toy(ToySpec(kind="toy", features=128, dimensions=32, active=3, zipf=1.0, noise=0.05))
    return torch.from_numpy(np.concatenate([toy.rows(block) for block in range(120)]))


@pytest.mark.parametrize("alpha", [0.0, 1 / 32])
def test_loss_curves_lie_on_each_other(toy, alpha):
    """500 steps; latents that nearly tie part by rounding, the loss does not."""
    given = {"latents": 160, "k": 4, "lr": 2e-3, "batch": 128, "steps": 500, "auxk_alpha": alpha}
    ways = [learner(toy, plain=plain, dead_after=2000, **given) for plain in (False, True)]
    at = [(i * 128) % (len(toy) - 128) for i in range(500)]
    curves = np.array([[w.update(toy[i : i + 128])["fvu"] for i in at] for w in ways])
    assert curves[:, -50:].mean() < 0.5 * curves[:, :10].mean()
    np.testing.assert_allclose(curves[0, :50], curves[1, :50], rtol=1e-4)
    assert np.abs(curves[0] / curves[1] - 1).max() < 0.05
    assert abs(curves[0, -100:].mean() / curves[1, -100:].mean() - 1) < 0.005


def state_after(x, threads, product, monkeypatch, architecture, broken=False):
    torch.set_num_threads(threads)
    monkeypatch.setattr(encode, "fastest_product", lambda: product)
    given = {"architecture": architecture, "latents": 1100, "batch": 300, "dead_after": 600}
    made = learner(x, **given)
    for i in range(5):
        if broken and i in (2, 4):
            state = {name: value.clone() for name, value in made.state().items()}
            made = learner(x, **given)
            made.restore(state)
        made.update(x[i * 300 : (i + 1) * 300])
    return made.state()


@pytest.mark.parametrize(("name", "whole"), WAYS)
def test_the_same_bytes_twice_on_any_threads_and_by_any_product(name, whole, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", whole)
    x = rows(1500, 24)
    first = state_after(x, 1, "bfloat16", monkeypatch, name)
    for threads, product in itertools.product((1, 2, 3), ("bfloat16", "int16", "float32")):
        for key, value in state_after(x, threads, product, monkeypatch, name).items():
            assert torch.equal(value, first[key]), (key, threads, product)


@pytest.mark.parametrize(("name", "whole"), WAYS)
def test_resuming_changes_no_byte(name, whole, monkeypatch):
    monkeypatch.setattr(finding, "DENSE_FROM", whole)
    x = rows(1500, 24)
    first, second = (state_after(x, 1, True, monkeypatch, name, broken=b) for b in (False, True))
    assert set(first) == set(second)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", [name for name in RULES if name != "topk"])
def test_loss_curves_of_other_rules_lie_on_each_other(toy, name):
    """Through the switch from dense to sparse codes, where there is one."""
    held = {"target_l0": 4.0} if "penalty" in RULES[name] else {"k": 4}
    given = {"architecture": name, "latents": 160, "lr": 2e-3, "batch": 128, "steps": 300, **held}
    ways = [learner(toy, plain=plain, dead_after=2000, **given) for plain in (False, True)]
    at = [(i * 128) % (len(toy) - 128) for i in range(300)]
    made = [[w.update(toy[i : i + 128]) for i in at] for w in ways]
    for what in ("fvu", "l0"):
        curves = np.array([[step[what] for step in steps] for steps in made])
        np.testing.assert_allclose(curves[0, :20], curves[1, :20], rtol=1e-3)
        assert np.abs(curves[0] / curves[1] - 1).max() < 0.1
        assert abs(curves[0, -50:].mean() / curves[1, -50:].mean() - 1) < 0.01


def test_where_nothing_compiles_the_plain_way_is_taken(monkeypatch):
    from reseed.sae import codes as kernels
    from reseed.training import step as module
    from reseed.training.step.plain import PlainStep

    for place in (kernels, module):
        monkeypatch.setattr(place, "compiles", lambda: False)
    x = rows(64, 8)
    made = learner(x)
    assert isinstance(made._path, PlainStep)
    made.update(x[:32])
    made.sae().encode(x)
    for name in RULES:
        assert isinstance(learner(x, architecture=name)._path, PlainStep)
