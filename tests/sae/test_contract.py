"""What every architecture must keep, whatever it is: all in `ARCHITECTURES`, on a small toy."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

import reseed
from reseed.formats import own
from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import ARCHITECTURES, architecture
from reseed.sae.model import SAE, from_arrays
from reseed.spec.subject import ToySpec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.subjects.toy import Toy
from reseed.training.learner import Learner

F, D, B, STEPS, ACTIVE = 32, 16, 128, 300, 2.0
FVU_GAIN, COSINE_GAIN = 0.15, 0.2
"""What training must gain on the untrained SAE with as many latents firing: FVU lower, matched
cosine to the truth higher."""

HELD = {"target_l0": ACTIVE, "lr": 1e-2}
SETTINGS = {
    "topk": {"k": 2, "lr": 5e-3},
    "topk, multi": {"k": 2, "lr": 5e-3, "multi_topk": True},
    "batchtopk": {"k": 2, "lr": 5e-3},
    "matryoshka": {"k": 2, "lr": 1e-2, "prefixes": [0.5]},
    "groupmax": {"k": 2, "lr": 5e-3},
    "relu": {**HELD, "lr": 2e-2},
    "relu, weighted": {**HELD, "decoder": "weighted"},
    "gated": HELD,
    "panneal": HELD,
    "jumprelu": {**HELD, "bandwidth": 0.05, "threshold": 0.02},
    "jumprelu, tanh": {**HELD, "bandwidth": 0.1, "threshold": 0.02, "sparsity": "tanh"},
}
"""The settings of each architecture here; a new one needs an entry of its name."""

CASES = sorted(SETTINGS)
ELSEWHERE = {
    "llamascope", "matching_pursuit", "transcoder", "skip_transcoder", "crosscoder", "archetypal",
    "pca", "ica", "nmf", "kmeans",
}  # fmt: skip
"""Held to the same in test_other_architectures.py: they read several sites or many batches."""


def test_every_architecture_is_covered() -> None:
    assert {case.partition(",")[0] for case in CASES} | ELSEWHERE == set(ARCHITECTURES)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def toy() -> tuple[Toy, torch.Tensor]:
    spec = ToySpec(
        kind="toy", features=F, dimensions=D, active=ACTIVE, zipf=0.0, noise=0.0, block=1024
    )
    made = Toy(spec)
    return made, torch.from_numpy(np.concatenate([made.rows(block) for block in range(12)]))


def batch_at(step: int) -> torch.Tensor:
    x = toy()[1]
    first = step * B % (len(x) - B)
    return x[first : first + B]


def learner(case: str, seed: int = 0, data_seed: int = 0) -> Learner:
    sae = {"architecture": case.partition(",")[0], "latents": F, **SETTINGS[case]}
    training = TrainingSpec(tokens=STEPS * B, batch=B)
    run = RunSpec(
        data="", site="x", sae=sae, training=training, init_seed=seed, data_seed=data_seed
    )
    return Learner(run, batch_at(0))


def continued(one: Learner, until: int = STEPS) -> Learner:
    while one.step < until:
        one.update(batch_at(one.step))
    return one


@dataclass
class Trained:
    start: SAE
    half: dict[str, torch.Tensor]
    end: Learner


@cache
def trained(case: str) -> Trained:
    one = learner(case)
    start = one.sae()
    half = {name: value.clone() for name, value in continued(one, STEPS // 2).state().items()}
    return Trained(start, half, continued(one))


def fvu(sae: SAE) -> float:
    x = toy()[1]
    return float((sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("case", CASES)
def test_shapes(case: str) -> None:
    one = learner(case)
    p, x = one.parameters, batch_at(0)
    assert p["W_enc"].shape == (F, D)
    assert p["W_dec"].shape == (F, D)
    assert all(value.dtype == torch.float32 for value in p.values())
    moved = p.keys() - architecture(one.spec.sae.name).buffers
    assert one.spec.sae.trains == moved & {"W_enc", "W_dec"}
    at = At(0, STEPS, torch.zeros(F, dtype=torch.bool))
    out = architecture(one.spec.sae.name).objective(p, Batch(x, x), one.spec.sae, at)
    assert out.loss.shape == out.fvu.shape == ()
    assert out.codes.shape == (B, F)
    assert bool((out.codes >= 0).all())
    sae = one.sae()
    assert sae.W_enc.shape == sae.W_dec.shape == (F, D)
    assert sae.encode(x).shape == (B, F)
    assert sae.reconstruct(x).shape == (B, D)


@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_every_trained_parameter(case: str) -> None:
    one = trained(case).end
    rule = architecture(one.spec.sae.name)
    leaves = {
        name: value.detach().clone().requires_grad_(name not in rule.buffers)
        for name, value in one.parameters.items()
    }
    x, at = batch_at(3), At(STEPS // 2, STEPS, torch.zeros(F, dtype=torch.bool))
    out = rule.objective(leaves, Batch(x, x), one.spec.sae, at)
    out.loss.backward()
    for name, leaf in leaves.items():
        if name not in rule.buffers:
            assert leaf.grad is not None, name
            assert bool(leaf.grad.any()), name
    assert set(out.buffers) == set(rule.buffers)


@pytest.mark.parametrize("case", CASES)
def test_sparsity_is_as_promised(case: str) -> None:
    """k or the target, of the SAE that is saved, on rows one by one."""
    codes = trained(case).end.sae().encode(toy()[1])
    fires = (codes > 0).sum(1).float()
    if case.partition(",")[0] in ("topk", "groupmax"):
        assert int(fires.max()) <= 2
    assert float(fires.mean()) == pytest.approx(ACTIVE, rel=0.1)


@pytest.mark.parametrize("case", CASES)
def test_the_saved_form_computes_what_was_trained(case: str, tmp_path) -> None:
    one = trained(case).end
    sae, x = one.sae(), batch_at(0)
    at = At(STEPS, STEPS, torch.zeros(F, dtype=torch.bool))
    out = architecture(one.spec.sae.name).objective(one.parameters, Batch(x, x), one.spec.sae, at)
    ours = ((sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()
    if "threshold_momentum" in type(one.spec.sae).model_fields:  # another rule, on average the same
        assert ours == pytest.approx(float(out.fvu), abs=0.05)
    else:
        assert ours == pytest.approx(float(out.fvu), rel=1e-4)
        same = (sae.encode(x) > 0) == (out.codes > 0)
        assert float(same.float().mean()) > 0.999  # a code at its threshold may round away
    arrays = sae.arrays()
    own.write(tmp_path, arrays)
    back = own.read(tmp_path)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
        given, read = getattr(arrays, name), getattr(back, name)
        assert (given is None and read is None) or np.array_equal(given, read)
    assert torch.equal(from_arrays(back).encode(x), sae.encode(x))


@pytest.mark.parametrize("case", CASES)
def test_an_untrained_one_can_be_saved(case: str, tmp_path) -> None:
    own.write(tmp_path, trained(case).start.arrays())
    x = batch_at(0)
    assert torch.equal(from_arrays(own.read(tmp_path)).encode(x), trained(case).start.encode(x))


@pytest.mark.parametrize("case", CASES)
def test_it_encodes_in_bfloat16(case: str) -> None:
    sae, x = trained(case).end.sae(), toy()[1]
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    found = {name: getattr(sae, name) for name in names}
    half = replace(sae, **{n: t.bfloat16() for n, t in found.items() if t is not None})
    codes, out = half.encode(x), half.reconstruct(x)
    assert codes.dtype == out.dtype == torch.bfloat16
    error = (out.float() - x).square().sum() / (x - x.mean(0)).square().sum()
    assert float(error) == pytest.approx(fvu(sae), abs=0.05)


@pytest.mark.parametrize("case", CASES)
def test_the_init_seed_alone_decides_the_start(case: str) -> None:
    a, b, c = learner(case), learner(case, data_seed=7), learner(case, seed=1)
    for name, value in a.parameters.items():
        assert torch.equal(value, b.parameters[name])
    assert not torch.equal(a.parameters["W_enc"], c.parameters["W_enc"])
    assert not torch.equal(a.parameters["W_dec"], c.parameters["W_dec"])


@pytest.mark.parametrize("case", CASES)
def test_other_runs_change_nothing(case: str) -> None:
    name, settings = case.partition(",")[0], {"latents": F, "batch": B, **SETTINGS[case]}
    x = toy()[1][: 20 * B]
    alone = reseed.train(x, name, init_seeds=[5], **settings)[0]
    among = reseed.train(x, name, init_seeds=[1, 5], **settings)
    for part in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert torch.equal(getattr(alone, part), getattr(among[1], part))
    assert not torch.equal(among[0].W_dec, among[1].W_dec)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_as_one_never_stopped(case: str) -> None:
    done = trained(case)
    again = learner(case)
    again.restore({name: value.clone() for name, value in done.half.items()})
    assert again.step == STEPS // 2
    whole, resumed = done.end.state(), continued(again).state()
    assert set(whole) == set(resumed)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("case", CASES)
def test_training_beats_no_training(case: str) -> None:
    done, features = trained(case), toy()[0].features
    end = done.end.sae()
    sparse = replace(done.start, activation={"kind": "topk", "k": int(ACTIVE)}, threshold=None)
    assert fvu(end) < fvu(sparse) - FVU_GAIN
    before = reseed.match(features, done.start.W_dec.numpy()).similarity.mean()
    after = reseed.match(features, end.W_dec.numpy()).similarity.mean()
    assert after > before + COSINE_GAIN
