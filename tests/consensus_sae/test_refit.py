"""Refitting an encoder: what moves, what does not, and what it is good for."""

import numpy as np
import pytest
import torch

from reseed.consensus_sae.refit import refit
from reseed.errors import SpecError, TrainingError
from reseed.events import Events
from reseed.records import SAEArrays
from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import topk
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.model import from_arrays
from reseed.spec.training import TrainingSpec

SPEC = TopKSpec(latents=24, k=3, lr=5e-3)
TRAINING = TrainingSpec(tokens=40_000, batch=200)
ONE = TrainingSpec(tokens=200, batch=200, warmup_steps=0)


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, torch.Tensor]:
    """Known unit directions, and sparse sums of them."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(24, 12))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    fires = draw.random((8000, 24)) < 0.1
    x = (fires * draw.uniform(0.5, 1.5, fires.shape)) @ features
    return features.astype(np.float32), torch.from_numpy(x.astype(np.float32))


def start(features: np.ndarray, **changes) -> SAEArrays:
    arrays = {
        "W_enc": features * 0.3,
        "b_enc": np.full(24, 0.1, np.float32),
        "W_dec": features,
        "b_dec": np.zeros(12, np.float32),
        "activation": {"kind": "topk", "k": 3},
        "about": {"kind": "test"},
    }
    return SAEArrays(**(arrays | changes))


def batches(x: torch.Tensor):
    return lambda step: x[(step * 200) % len(x) :][:200]


def fvu(sae: SAEArrays, x: torch.Tensor) -> float:
    error = from_arrays(sae).reconstruct(x) - x
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


def test_the_decoder_stays_and_the_encoder_learns(world) -> None:
    features, x = world
    before = start(features)
    held_out, seen = x[-1000:], []

    def batch(step):
        seen.append(step)
        return batches(x[:-1000])(step)

    fitted = refit(before, batch, SPEC, TRAINING, Events())
    np.testing.assert_array_equal(fitted.W_dec, before.W_dec)
    assert seen == [0, *range(200)]
    assert fvu(fitted, held_out) < 0.5 * fvu(before, held_out)
    assert (fitted.about, fitted.activation) == (before.about, before.activation)
    np.testing.assert_array_equal(before.W_enc, features * 0.3)


def test_equal_batches_give_equal_results(world) -> None:
    features, x = world
    short = TrainingSpec(tokens=4000, batch=200)
    a, b = (refit(start(features), batches(x), SPEC, short, Events()) for _ in range(2))
    for name in ("W_enc", "b_enc", "b_dec"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_first_step_is_the_gradient_of_the_loss_without_the_decoder(world) -> None:
    """Adam's first step is the sign of the gradient; autograd of the plain loss says which."""
    features, x = world
    before = start(features)
    after = refit(before, batches(x), SPEC, ONE, Events())
    p = {n: torch.tensor(getattr(before, n)) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    for value in p.values():
        value.requires_grad_()
    at = At(0, 1, torch.zeros(24, dtype=torch.bool))
    topk.objective(p, Batch(x[:200], x[:200]), SPEC, at).loss.backward()
    moved = after.W_enc - before.W_enc
    gradient = p["W_enc"].grad.numpy()
    clear = np.abs(gradient) > 1e-6
    np.testing.assert_array_equal(np.sign(moved)[clear], -np.sign(gradient)[clear])


def test_a_refit_that_does_not_fit_is_refused(world) -> None:
    features, x = world
    with pytest.raises(SpecError, match="TopK of 4"):
        refit(start(features), batches(x), SPEC.model_copy(update={"k": 4}), TRAINING, Events())
    with pytest.raises(SpecError, match="24 latents"):
        refit(start(features), batches(x), TopKSpec(latents=25, k=3), TRAINING, Events())


def test_nan_stops_the_refit_with_its_step(world) -> None:
    features, x = world
    spoilt = x.clone()
    spoilt[650] = float("nan")
    with pytest.raises(TrainingError, match="refitting the encoder.*step 3"):
        refit(start(features), batches(spoilt), SPEC, TRAINING, Events())


def test_a_device_that_every_machine_has_gives_the_same(world) -> None:
    """`"cpu:0"` goes the way of a GPU."""
    features, x = world
    short = TrainingSpec(tokens=1000, batch=200)
    plain, found = (
        refit(start(features), batches(x), SPEC, short, Events(), device=device)
        for device in ("cpu", "cpu:0")
    )
    for name in ("W_enc", "b_enc", "b_dec"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))
