"""The way of a GPU and the plain way are one training; it gives the same bits twice."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from reseed.sae.architecture import At, Batch
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.training import learner as module
from reseed.training.learner import Learner
from reseed.training.step.gpu import TritonStep


def rows(count, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, d))).float()


@pytest.fixture
def learner(device, monkeypatch):
    """Makes a learner that takes the way of a GPU, interpreted where there is none."""

    def make(x, control=None, *, plain=False, batch=12, steps=1000, clip=1.0, **sae):
        training = TrainingSpec(tokens=batch * steps, batch=batch, warmup_steps=0, clip=clip)
        sae = {"latents": 14, "k": 2, "lr": 1e-3, **sae}
        spec = RunSpec(
            data="", site="x", sae=sae, training=training, init_seed=0, data_seed=0, control=control
        )
        with monkeypatch.context() as patch:
            if not plain:

                def way(parameters, trained, spec, clip, _):
                    return TritonStep(parameters, trained, spec, clip)

                patch.setattr(module, "step_of", way)
            return Learner(spec, x[:batch], plain=plain, device=device)

    return make


def assert_near(ours, theirs, steps):
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        if name.endswith(("exp_avg", "exp_avg_sq")):
            scale = float(theirs[name].abs().max())
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=2e-5 * scale)
        else:
            # Adam divides by the gradient's own size: rounding in a tiny one is a step of lr
            far = (value.float() - theirs[name].float()).abs()
            assert (far > 1e-5).float().mean() < 0.02, name
            assert far.max() <= 2.1 * steps * 1e-3, name


@pytest.mark.parametrize(
    ("control", "latents", "d", "k", "alpha", "clip"),
    [
        (None, 14, 6, 2, 0.0, 1.0),
        (None, 14, 7, 1, 1 / 32, 1e-3),
        ("frozen_decoder", 9, 5, 9, 1 / 32, 1e3),
        ("frozen_encoder", 9, 5, 9, 1 / 32, 1e3),
        ("soft_frozen_decoder", 9, 5, 3, 0.0, 1.0),
    ],
)
def test_steps_equal_those_of_torch(learner, control, latents, d, k, alpha, clip):
    x = rows(36, d)
    settings = {"latents": latents, "k": k, "auxk_alpha": alpha, "dead_after": 12, "clip": clip}
    ours, theirs = (learner(x, control, plain=plain, **settings) for plain in (False, True))
    assert isinstance(ours._path, TritonStep)
    for i in range(3):
        batch = x[i * 12 : (i + 1) * 12]
        a, b = ours.update(batch), theirs.update(batch)
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
        assert a["l0"] == pytest.approx(b["l0"])
        assert a["dead"] == b["dead"]
    assert_near(ours.state(), theirs.state(), 3)


def test_the_batch_rule_equals_that_of_torch(learner):
    x = rows(24, 6)
    settings = {"architecture": "batchtopk", "auxk_alpha": 1 / 32, "dead_after": 12}
    ours, theirs = (learner(x, plain=plain, **settings) for plain in (False, True))
    for i in range(2):
        a, b = (way.update(x[i * 12 : (i + 1) * 12]) for way in (ours, theirs))
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
        assert a["l0"] == pytest.approx(b["l0"])
    assert_near(ours.state(), theirs.state(), 2)
    assert float(ours.parameters["threshold"]) > 0


def test_wide_enough_to_be_screened(learner):
    x = rows(8, 6)
    ours, theirs = (
        learner(x, plain=plain, latents=70, k=1, batch=4, auxk_alpha=1 / 32, dead_after=4)
        for plain in (False, True)
    )
    for i in range(2):
        a, b = (way.update(x[4 * i : 4 * i + 4]) for way in (ours, theirs))
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
    assert_near(ours.state(), theirs.state(), 2)
    screen, rows_now = ours._path._screen, ours.parameters["W_enc"]
    assert torch.equal(screen.rows.float().sign(), rows_now.sign())
    close = (screen.rows.float() - rows_now).abs() <= 2.0**-7 * rows_now.abs()
    assert close.all()
    torch.testing.assert_close(screen.length, rows_now.square().sum(1))
    lost = (rows_now - screen.rows.float()).square().sum(1)
    torch.testing.assert_close(screen.lost, lost)


def test_a_run_can_go_on_the_other_way(learner):
    x = rows(72, 6)
    ours, theirs = learner(x), learner(x, plain=True)
    for i in range(2):
        ours.update(x[i * 12 : (i + 1) * 12])
    theirs.restore({name: value.clone() for name, value in ours.state().items()})
    back = learner(x)
    back.restore(theirs.state())
    for i in range(2, 4):
        batch = x[i * 12 : (i + 1) * 12]
        a, b, c = (way.update(batch) for way in (ours, theirs, back))
        assert a == c
        assert a["fvu"] == pytest.approx(b["fvu"], rel=1e-4)
    same = back.state()
    assert all(torch.equal(value, same[name]) for name, value in ours.state().items())
    torch.testing.assert_close(ours.sae().W_dec, theirs.sae().W_dec, atol=1e-3, rtol=0)


def test_state_and_sae_are_on_the_cpu(learner):
    x = rows(12, 6)
    made = learner(x)
    made.update(x)
    assert all(value.device.type == "cpu" for value in made.state().values())
    sae = made.sae()
    assert sae.W_enc.device.type == "cpu"
    torch.testing.assert_close(torch.linalg.vector_norm(sae.W_dec, dim=1), torch.ones(14))


def test_what_it_cannot_do_is_said(learner):
    x = rows(12, 6)
    made = learner(x)
    at = At(0, 1, torch.zeros(14, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="take the plain one"):
        made._path.look(Batch(x, x), at, pull=torch.zeros(14, 6))
    with pytest.raises(RuntimeError, match="look before"):
        made._path.apply(1e-3)
