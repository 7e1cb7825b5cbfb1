"""Defaults with a `target_l0` work in short and in longer trainings, in any unit."""

import numpy as np
import pytest
import torch

import reseed
from reseed.sae.architectures import ARCHITECTURES
from reseed.sae.parts import encoder_rows, unit_rows
from reseed.sae.settings import LONG
from reseed.training.schedule import memory

D, F, TARGET = 32, 64, 4
RNG = np.random.default_rng(0)
ROWS = unit_rows(RNG.standard_normal((F, D)).astype(np.float32))
CODES = (RNG.random((12_000, F)) < 0.06) * np.abs(1 + 0.25 * RNG.standard_normal((12_000, F)))
X = (CODES @ ROWS).astype(np.float32)
PENALISED = ("relu", "panneal", "gated", "jumprelu")


@pytest.mark.parametrize("steps", [80, pytest.param(240, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "unit"), list(zip(PENALISED, (1.0, 0.03, 30.0, 1.0), strict=True))
)
def test_l0_is_held_and_something_is_learnt(name: str, unit: float, steps: int) -> None:
    x = torch.tensor(X * np.float32(unit))
    settings = {"latents": F, "init_seeds": [0], "target_l0": TARGET}
    sae = reseed.train(x, name, tokens=256 * steps, batch=256, **settings)[0]
    seen = x[-3000:]
    left = (sae.reconstruct(seen) - seen).square().sum() / (seen - seen.mean(0)).square().sum()
    start = torch.tensor(unit_rows(encoder_rows(F, D, 0)))
    assert float((sae.encode(seen) > 0).sum(1).float().mean()) == pytest.approx(TARGET, rel=0.2)
    assert float(left) < 0.7
    assert float((sae.W_dec * start).sum(1).mean()) < 0.8


def test_the_default_rate_grows_where_steps_are_few_and_only_there() -> None:
    relu, topk = (ARCHITECTURES[name].settings for name in ("relu", "topk"))
    spec = relu(latents=64)
    assert spec.rate(10 * LONG) == spec.rate(LONG) == spec.peak_lr
    assert spec.rate(LONG // 4) == pytest.approx(2 * spec.peak_lr)
    assert spec.rate(10) == pytest.approx(10 * spec.peak_lr)
    assert relu(latents=64, lr=1e-3).rate(10) == 1e-3
    assert topk(latents=64, k=2).rate(10) == topk(latents=64, k=2).peak_lr


def test_the_mean_of_l0_never_reaches_back_over_much_of_a_training() -> None:
    for steps in (1, 50, 100, 300, 1000, 10**6):
        reach = 1 / (1 - memory(steps))
        assert reach <= max(1.0, steps / 100) + 1e-9
        assert reach <= 10 + 1e-9
