"""Control runs are runs of their own, and what is frozen stays where it started."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reseed.sae.architecture import Start
from reseed.sae.architectures import topk
from reseed.sae.parts import encoder_rows
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.study import Study
from reseed.training.learner import Learner
from reseed.training.start import LEAST_COSINE, keep_near

WIDTHS = Path(__file__).parents[2] / "studies" / "two_widths.toml"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec(control=None, **sae):
    training = TrainingSpec(tokens=64 * 60, batch=64)
    return RunSpec(
        data="", site="x", sae={"latents": 20, "k": 2, "lr": 0.05, **sae}, training=training,
        init_seed=0, data_seed=0, control=control,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(64 * 60, 8))).float()


def trained(control, rows, steps=60):
    learner = Learner(spec(control), rows[:64])
    for i in range(steps):
        learner.update(rows[i * 64 : (i + 1) * 64])
    return learner


def start():
    zeros = np.zeros(8, np.float32)
    return topk.initial(spec().sae, Start(encoder_rows(spec().sae.latents, 8, 0), zeros, zeros, 0))


def test_runs_that_are_no_controls_keep_their_names(tmp_path):
    """Ids of existing runs are where their results lie; those from before there was a scale too."""
    study = Study.load(WIDTHS, tmp_path / "q")
    runs = study.runs
    assert runs[0].id == "layers.6.mlp.topk-f256-k16-i0-d0-0a717a9b"
    assert "control" not in runs[0].spec.identity
    training = study.spec.training.model_copy(update={"scale": False})
    before = study.spec.model_copy(update={"training": training})
    runs = Study(before, tmp_path / "q").runs
    assert runs[0].id == "layers.6.mlp.topk-f256-k16-i0-d0-9fc148d8"
    assert runs[1].id == "layers.6.mlp.topk-f256-k16-i1-d0-fcf12109"
    assert runs[0].spec.group == "layers.6.mlp.topk-f256-k16-a9f7d7"
    assert "control" not in runs[0].spec.identity


def test_a_control_is_a_run_and_a_group_of_its_own():
    kinds = (None, "gaussian", "shuffled", "random_subject", "frozen_decoder", "frozen_encoder")
    runs = [spec(kind) for kind in kinds]
    assert len({run.id for run in runs}) == len({run.group for run in runs}) == len(kinds)
    assert "gaussian" in runs[1].id
    assert runs[1].identity["control"] == "gaussian"
    assert [run.reads for run in runs] == [*kinds[:4], None, None]
    again = runs[1].model_copy(update={"init_seed": 7, "data_seed": 3})
    assert again.group == runs[1].group
    assert again.id != runs[1].id


@pytest.mark.parametrize(
    ("control", "held"), [("frozen_decoder", "W_dec"), ("frozen_encoder", "W_enc"), (None, None)]
)
def test_what_is_frozen_does_not_move_by_a_bit(rows, control, held):
    found, before = trained(control, rows).sae(), start()
    for name in ("W_enc", "W_dec"):
        assert torch.equal(getattr(found, name), before[name]) == (name == held), name
    assert found.b_enc.abs().max() > 0
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(20))
    assert found.about.get("control") == control


def test_soft_frozen_rows_stay_near_and_some_at_the_limit(rows):
    before = start()["W_dec"]
    free = (trained(None, rows).sae().W_dec * before).sum(1)
    soft = trained("soft_frozen_decoder", rows).sae().W_dec
    near = (soft * before).sum(1)
    assert free.min() < LEAST_COSINE - 0.1
    assert near.min() >= LEAST_COSINE - 1e-6
    assert (near < LEAST_COSINE + 1e-4).any()
    assert (near > LEAST_COSINE + 1e-2).any()
    torch.testing.assert_close(soft.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("control", ["frozen_decoder", "soft_frozen_decoder", "frozen_encoder"])
def test_state_and_restore_continue_bit_for_bit(rows, control):
    whole, first, second = (
        trained(control, rows),
        trained(control, rows, 25),
        trained(control, rows, 0),
    )
    second.restore({name: value.clone() for name, value in first.state().items()})
    for i in range(25, 60):
        second.update(rows[i * 64 : (i + 1) * 64])
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 0.95))
def test_keep_near_is_the_nearest_allowed_direction(seed, least):
    """The plain twin: search the circle through row and start for the allowed vector nearest."""
    rng = np.random.default_rng(seed)
    first, row = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    found = torch.from_numpy(row[None].copy())
    keep_near(found, torch.from_numpy(first[None]), least)
    found = found.numpy()[0]
    assert np.linalg.norm(found) == pytest.approx(1)
    if row @ first >= least:
        assert np.array_equal(found, row)
        return
    sphere = rng.normal(size=(20_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    allowed = sphere[sphere @ first >= least]
    assert found @ first == pytest.approx(least)
    assert not len(allowed) or found @ row >= (allowed @ row).max() - 1e-9


def test_a_row_that_points_away_goes_back_to_its_start():
    first = torch.eye(3)
    rows = -torch.eye(3)
    keep_near(rows, first)
    torch.testing.assert_close(rows, first)
