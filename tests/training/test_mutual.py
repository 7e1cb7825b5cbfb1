"""Runs that are trained together: the gradient, the two phases, restarts, and what is saved."""

import itertools

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError, TrainingError
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.study import Study
from reseed.training.learner import Learner
from reseed.training.mutual import Together, best_assignment, disagreement, firing_penalty, pulls
from reseed.training.schedule import mutual_weight


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of(seed, members=3, latents=5, dimensions=4):
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(draw.normal(size=(latents, dimensions))) for _ in range(members)]


@pytest.fixture(scope="module")
def x():
    """Sparse sums of 12 directions in 8 dimensions."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(12, 8))
    fires = draw.random((4000, 12)) < 0.15
    return torch.from_numpy((fires * draw.random((4000, 12))) @ features).float()


def members(x, seeds=(0, 1, 2), steps=40, **mutual):
    sae = {"latents": 12, "k": 2, "lr": 0.01, "mutual": {"alpha": 0.5, "warmup_steps": 5, **mutual}}
    training = TrainingSpec(tokens=64 * steps, batch=64)
    specs = [
        RunSpec(data="", site="x", sae=sae, training=training, init_seed=s, data_seed=0,
                ensemble=seeds)
        for s in seeds
    ]  # fmt: skip
    return Together([Learner(spec, x[:64]) for spec in specs])


def batches(x, steps):
    return [x[i * 64 : (i + 1) * 64] for i in range(steps)]


def test_the_assignment_is_the_best_of_all():
    a, b, _ = rows_of(0)
    unit = [m / m.norm(dim=1, keepdim=True) for m in (a, b)]
    cosine = unit[0] @ unit[1].T
    best = max(
        itertools.permutations(range(5)), key=lambda p: sum(cosine[i, j] for i, j in enumerate(p))
    )
    assert best_assignment(a, b).tolist() == list(best)


def test_the_pull_is_the_gradient_by_finite_differences():
    rows = rows_of(1)
    to = {(a, b): best_assignment(rows[a], rows[b]) for a, b in itertools.combinations(range(3), 2)}
    found = pulls(rows, to, 0.7)
    for member, (i, d) in itertools.product(range(3), [(0, 0), (2, 3), (4, 1)]):
        moved = [r.clone() for r in rows]
        moved[member][i, d] += 1e-6
        up = 0.7 * disagreement(moved, to)
        moved[member][i, d] -= 2e-6
        down = 0.7 * disagreement(moved, to)
        assert float(found[member][i, d]) == pytest.approx(float(up - down) / 2e-6, abs=1e-7)


def test_dictionaries_that_agree_up_to_order_do_not_pull():
    a = rows_of(2)[0]
    order = torch.tensor([3, 1, 4, 0, 2])
    to = {(0, 1): best_assignment(a, a[order])}
    assert torch.equal(order[to[0, 1]], torch.arange(5))
    assert float(disagreement([a, a[order]], to)) == pytest.approx(0, abs=1e-12)
    for pull in pulls([a, a[order]], to, 1.0):
        assert pull.abs().max() < 1e-12


def test_the_weight_rises_along_a_cosine():
    assert mutual_weight(0, over=100) == 0
    assert mutual_weight(50, over=100) == pytest.approx(0.5)
    assert mutual_weight(100, over=100) == mutual_weight(7000, over=100) == 1
    assert mutual_weight(0, over=0) == 1


def test_members_agree_more_than_runs_alone(x):
    settings = {"latents": 12, "k": 2, "lr": 0.01, "batch": 64, "init_seeds": [0, 1]}
    alone = reseed.train(x, **settings, tokens=16_000)
    pulled = reseed.train(x, **settings, tokens=16_000, mutual={"alpha": 1.0})
    agree = [reseed.match(a.W_dec, b.W_dec).similarity.mean() for a, b in (alone, pulled)]
    assert agree[1] > agree[0] + 0.02
    assert pulled[0].about["ensemble"] == [0, 1]


def test_without_weight_members_are_as_they_would_be_alone(x):
    settings = {"latents": 12, "k": 2, "lr": 0.01, "batch": 64, "tokens": 6400}
    pulled = reseed.train(x, init_seeds=[3, 4], mutual={"alpha": 0.0}, **settings)
    for sae, seed in zip(pulled, (3, 4), strict=True):
        alone = reseed.train(x, init_seeds=[seed], **settings)[0]
        torch.testing.assert_close(sae.W_dec, alone.W_dec, atol=1e-4, rtol=1e-4)


def test_the_order_of_the_members_does_not_matter(x):
    one, other = members(x, (0, 1, 2)), members(x, (2, 0, 1))
    for batch in batches(x, 15):
        one.update(batch)
        other.update(batch)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        torch.testing.assert_close(
            one.learners[a].parameters["W_dec"], other.learners[b].parameters["W_dec"]
        )


@pytest.mark.parametrize("more", [{}, {"refresh": 7}, {"restart_above": 1.5, "restarts": 3}])
def test_state_and_restore_continue_bit_for_bit(x, more):
    whole, first, second = (members(x, **more) for _ in range(3))
    given = batches(x, 40)
    for number, batch in enumerate(given):
        whole.update(batch)
        if number < 17:
            first.update(batch)
    second.restore({name: value.clone() for name, value in first.state().items()})
    for batch in given[17:]:
        second.update(batch)
    assert whole.state().keys() == second.state().keys()
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_an_sae_that_fires_unevenly_starts_again_from_other_numbers(x):
    together = members(x, restart_above=1e-3, restarts=2)
    before = [one.parameters["W_enc"].clone() for one in together.learners]
    together.update(x[:64])
    assert [one.restarts for one in together.learners] == [1, 1, 1]
    again = members(x, restart_above=1e-3, restarts=2)
    again.update(x[:64])
    for one, other, start in zip(together.learners, again.learners, before, strict=True):
        assert (one.parameters["W_enc"] - start).abs().max() > 0.1
        assert torch.equal(one.parameters["W_enc"], other.parameters["W_enc"])
        assert not any("exp_avg" in name for name in one.state())  # a new optimiser
    for batch in batches(x, 10):
        together.update(batch)
    assert [one.restarts for one in together.learners] == [2, 2, 2]
    assert together.learners[0].sae().about["restarts"] == 2


def test_the_firing_penalty():
    assert firing_penalty(torch.full((8,), 0.25), 0.25) == 0
    assert firing_penalty(torch.tensor([0.0, 0.5]), 0.25) == 1


def test_a_member_that_fails_fails_all(x):
    together = members(x)
    together.update(x[:64])
    kept = [one.parameters["W_dec"].clone() for one in together.learners]
    together.learners[2].parameters["b_dec"].fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"init seed 2: .*The 3 runs .* stop"):
        together.update(x[64:128])
    for one, rows in zip(together.learners, kept, strict=True):
        assert torch.equal(one.parameters["W_dec"], rows)  # nothing was updated


def test_what_cannot_be_trained_together_is_refused(x):
    with pytest.raises(SpecError, match="two seeds"):
        reseed.train(x, latents=8, k=2, init_seeds=[0], mutual={})
    with pytest.raises(SpecError, match="at most 8,192"):
        reseed.train(x, latents=9000, k=2, mutual={})
    with pytest.raises(SpecError, match="mutual.firing"):
        reseed.train(x, "relu", latents=8, mutual={"restart_above": 2.5})
    with pytest.raises(SpecError, match="held_out is for studies"):
        reseed.train(x, latents=8, k=2, mutual={"held_out": [1]})
    narrow, wide = (members(x).learners for _ in range(2))
    wide[1].parameters["W_dec"] = torch.zeros(13, 8)
    with pytest.raises(SpecError, match="all widths must be equal"):
        Together([narrow[0], wide[1]])
    other = narrow[1].spec.model_copy(update={"data_seed": 5})
    with pytest.raises(SpecError, match="differ in more"):
        Together([narrow[0], Learner(other, x[:64])])


SAE = {"latents": 16, "k": 2, "lr": 3e-3}


def test_a_study_with_a_held_out_seed(write_study):
    """Two arms: the ensemble of two seeds, and all seeds alone, the third of which is held out."""
    arms = [SAE, {**SAE, "mutual": {"alpha": 0.5, "held_out": [2]}}]
    study = Study.load(write_study(sae=arms, seeds={"init": [0, 1, 2]}))
    runs = study.spec.runs(["toy"])
    assert [(run.init_seed, run.ensemble) for run in runs] == [
        (0, ()), (1, ()), (2, ()), (0, (0, 1)), (1, (0, 1)),
    ]  # fmt: skip
    assert len({run.id for run in runs}) == 5
    assert len({run.group for run in runs}) == 2
    assert "ensemble" not in runs[0].identity
    assert runs[3].identity["ensemble"] == [0, 1]
    assert "held_out" not in runs[3].identity["sae"]["mutual"]
    with pytest.raises(SpecError, match=r"\[7\] are not in seeds"):
        Study.load(write_study("a", sae=[{**SAE, "mutual": {"held_out": [7]}}]))
    with pytest.raises(SpecError, match="needs two init seeds"):
        Study.load(write_study("b", sae=[{**SAE, "mutual": {"held_out": [1]}}]))


def test_a_run_that_was_deleted_comes_back_the_same(write_study, tree):
    """All train again, only what is missing is written."""
    study = Study.load(write_study(sae=[{**SAE, "mutual": {"alpha": 0.5}}]))
    reseed.run(study, progress=False)
    assert [run.state.state for run in study.runs] == ["done", "done"]
    before = tree(study.folder, skip=(".lock", "events.jsonl"))
    import shutil

    shutil.rmtree(study.folder / "runs" / study.runs[0].id)
    reseed.run(study, progress=False)
    assert tree(study.folder, skip=(".lock", "events.jsonl")) == before
