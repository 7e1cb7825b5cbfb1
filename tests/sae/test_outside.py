"""A new architecture is one file and one line of a list; here both lie outside the package."""

import importlib.util

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.formats import own
from reseed.sae.architectures import ARCHITECTURES

FILE = '''
"""Absolute values: z = |(x - b_dec) W_encᵀ|, where the k largest of each row pass."""

from typing import Literal

from reseed.sae import parts
from reseed.sae.architecture import Architecture, Objective
from reseed.sae.settings import ArchitectureSpec


class SteepSpec(ArchitectureSpec):
    """TopK with a slope."""

    architecture: Literal["steep"] = "steep"
    k: int = 3
    slope: float = 2.0


def initial(spec, start):
    return parts.autoencoder(start)


def objective(p, batch, spec, at):
    z = parts.top(spec.slope * parts.pre_activations(p, batch.x), spec.k)
    loss = (z @ p["W_dec"] + p["b_dec"] - batch.x).square().sum()
    loss = loss / parts.squared_variation(batch.x)
    return Objective(loss, loss.detach(), z.detach())


def freeze(p, spec, about):
    steep = {"W_enc": spec.slope * p["W_enc"], "b_enc": spec.slope * p["b_enc"]}
    return parts.frozen(p | steep, {"kind": "topk", "k": spec.k}, about)


STEEP = Architecture(SteepSpec, initial, objective, freeze)
'''


@pytest.fixture
def steep(tmp_path, monkeypatch):
    path = tmp_path / "steep.py"
    path.write_text(FILE)
    spec = importlib.util.spec_from_file_location("steep", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(ARCHITECTURES, "steep", module.STEEP)


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    fires = rng.random((4000, 24)) < 0.1
    return torch.from_numpy((fires @ rng.normal(size=(24, 12))).astype(np.float32))


@pytest.mark.usefixtures("steep")
def test_it_trains_on_rows(x):
    start, end = (
        reseed.train(x, "steep", latents=24, lr=lr, init_seeds=[0], batch=100, tokens=40_000)[0]
        for lr in (1e-9, 5e-3)
    )
    error = [float((sae.reconstruct(x) - x).square().sum()) for sae in (start, end)]
    assert error[1] < 0.5 * error[0]
    with pytest.raises(SpecError, match="mutual|slope"):
        reseed.train(x, "steep", latents=24, slop=1.0)


@pytest.mark.usefixtures("steep")
def test_it_trains_in_a_study(write_study):
    sae = [{"architecture": "steep", "latents": 16, "slope": 3.0}, {"latents": 16, "k": 2}]
    study = reseed.Study.load(write_study(sae=sae))
    assert not reseed.run(study, progress=False).failed
    runs = [run for run in study.runs if run.spec.sae.name == "steep"]
    assert len(runs) == 2
    assert runs[0].spec.identity["sae"]["slope"] == 3.0
    assert own.read_piece(study.store, f"runs/{runs[0].id}").activation == {"kind": "topk", "k": 3}
    path = write_study(sae=[{"architecture": "steep", "latents": 16, "slop": 3.0}])
    with pytest.raises(SpecError, match=r"unknown key; .*slope"):
        reseed.Study.load(path)


@pytest.mark.usefixtures("steep")
def test_it_is_listed(cli):
    assert "steep" in cli("architectures").stdout


def test_a_name_that_is_not_there_is_refused(write_study):
    with pytest.raises(SpecError, match="topk"):
        reseed.Study.load(write_study(sae=[{"architecture": "topc", "latents": 16}]))
