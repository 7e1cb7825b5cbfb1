"""A study of the same rows in another unit: the same runs, controls, snapshots and refits."""

import json

import numpy as np
import pytest
import torch

from reseed import Study
from reseed.consensus_sae.refit import refit
from reseed.events import Events
from reseed.records import SAEArrays
from reseed.sae.architectures.topk import TopKSpec
from reseed.spec.training import TrainingSpec
from reseed.subjects.inputs import Inputs
from reseed.training.stage import stage

RNG = np.random.default_rng(4)
X = RNG.standard_normal((600, 8)).astype(np.float32)
Y = (X @ RNG.standard_normal((8, 6))).astype(np.float32) * 20

TOML = """
[subject]
kind = "arrays"
paths = {{ x = "{folder}/x.npy", y = "{folder}/y.npy" }}
block = 20
[activations]
sites = ["x"]
tokens = 600
[[sae]]
latents = 12
k = 2
lr = 1e-2
[[sae]]
architecture = "transcoder"
target = "y"
latents = 12
k = 2
lr = 1e-2
[seeds]
init = [0]
[controls]
kinds = ["shuffled", "frozen_decoder"]
[training]
tokens = 1280
batch = 64
snapshots = [0.5]
scale = {scale}
"""


def trained(folder, unit: float, scale: bool = True) -> Study:
    folder.mkdir()
    np.save(folder / "x.npy", X * np.float32(unit))
    np.save(folder / "y.npy", Y * np.float32(unit))
    (folder / "s.toml").write_text(TOML.format(folder=folder, scale=str(scale).lower()))
    study = Study.load(folder / "s.toml")
    with study.locked("test"):
        stage(study, Events(), Inputs(study, Events()))
    return study


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    return {unit: trained(folder / f"{unit:g}", unit) for unit in (1.0, 2.0**-12)}


def test_runs_controls_and_snapshots_do_not_depend_on_the_unit(studies) -> None:
    one, small = studies.values()
    assert len(one.runs) == 6
    for run, other in zip(one.runs, small.runs, strict=True):
        a, b = run.sae(), other.sae()
        assert torch.equal(a.W_dec, b.W_dec)
        assert torch.equal(a.W_enc, b.W_enc)
        assert torch.equal(a.b_dec, b.b_dec * 2**12)
        assert torch.equal(a.b_enc, b.b_enc * 2**12)
        assert run.metrics().equals(other.metrics())
    start = [s.folder / "runs" / s.runs[0].id / "snapshots/00000000/cfg.json" for s in (one, small)]
    scales = [json.loads(path.read_text())["about"]["scale"] for path in start]
    assert scales[1] == scales[0] * 2**12
    kept = one.store.document("scale/subject", "scale.json")["sites"]
    assert kept["x"]["scale"] == scales[0]
    assert kept["y"]["mean_length"] > 10 * kept["x"]["mean_length"]


def test_it_can_be_switched_off(tmp_path, studies) -> None:
    study = trained(tmp_path / "off", 1.0, scale=False)
    assert "scale" not in study.runs[0].sae().about
    assert not study.store.path("scale").exists()
    assert study.runs[0].id != studies[1.0].runs[0].id


def test_a_refit_does_not_depend_on_the_unit_either() -> None:
    rows = torch.tensor(X) * 0.4
    training = TrainingSpec(tokens=640, batch=64)

    def refitted(unit: float) -> SAEArrays:
        start = SAEArrays(
            W_enc=RNG_ROWS, W_dec=RNG_ROWS, b_enc=np.zeros(12, np.float32),
            b_dec=np.full(8, 0.1 * unit, np.float32), activation={"kind": "topk", "k": 2}, about={},
        )  # fmt: skip
        spec = TopKSpec(latents=12, k=2, lr=1e-2)
        scaled = 0.4 / unit
        return refit(start, lambda _: rows[:64], spec, training, Events(), scaled)

    one, small = refitted(1.0), refitted(2.0**-12)
    np.testing.assert_array_equal(one.W_enc, small.W_enc)
    np.testing.assert_array_equal(one.b_dec, small.b_dec * 2**12)


RNG_ROWS = RNG.standard_normal((12, 8)).astype(np.float32)
RNG_ROWS /= np.linalg.norm(RNG_ROWS, axis=1, keepdims=True)
