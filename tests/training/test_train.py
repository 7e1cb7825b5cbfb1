"""Training finds what is there, depends on its own seeds alone, and says when it cannot."""

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError, SubjectError, TrainingError
from reseed.matching.stage import load_snapshot
from reseed.sae.architecture import Start
from reseed.sae.architectures import topk
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.parts import encoder_rows
from reseed.spec.subject import ToySpec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.subjects.toy import Toy
from reseed.training.learner import Learner
from reseed.training.schedule import learning_rate


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def easy() -> tuple[Toy, np.ndarray]:
    toy = Toy(ToySpec(kind="toy", features=64, dimensions=32, active=3, zipf=0.0, noise=0.0))
    return toy, np.concatenate([toy.rows(block) for block in range(80)])


def test_the_features_of_the_toy_are_found(easy) -> None:
    toy, x = easy
    saes = reseed.train(x, latents=64, k=3, lr=3e-3, batch=256, tokens=400_000, init_seeds=[0, 1])
    each = [reseed.match(toy.features, sae.W_dec).similarity.mean() for sae in saes]
    assert np.mean(each) > 0.9
    assert min(each) > 0.88  # seeds differ by .04
    start = reseed.train(x, latents=64, k=3, lr=1e-12, batch=256, tokens=2560, init_seeds=[0])[0]
    assert reseed.match(toy.features, start.W_dec).similarity.mean() < 0.6


def test_runs_depend_on_their_own_seed_alone(easy) -> None:
    _, x = easy
    settings = {"latents": 40, "k": 3, "batch": 128, "tokens": 6400}
    alone = reseed.train(x, init_seeds=[5], **settings)[0]
    among = reseed.train(x, init_seeds=[1, 5, 2], **settings)
    assert torch.equal(alone.W_dec, among[1].W_dec)
    assert torch.equal(alone.W_enc, among[1].W_enc)
    assert not torch.equal(among[0].W_dec, among[1].W_dec)
    other_order = reseed.train(x, init_seeds=[5], data_seed=1, **settings)[0]
    assert not torch.equal(alone.W_dec, other_order.W_dec)


def test_decoder_rows_keep_length_one(easy) -> None:
    sae = reseed.train(easy[1], latents=40, k=3, batch=128, tokens=6400, init_seeds=[0])[0]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))


def test_auxk_teaches_latents_that_never_fire(easy) -> None:
    spec = TopKSpec(latents=40, k=2, auxk_alpha=1 / 32)
    zeros = np.zeros(32, np.float32)
    p = topk.initial(spec, Start(encoder_rows(40, 32, 0), zeros, zeros, 0))
    x = torch.from_numpy(easy[1][:256])
    p["b_enc"][30:] = -100.0  # silent, so the loss itself does not reach them
    dead = torch.arange(40) >= 30
    plain = topk.step(p, x, spec.model_copy(update={"auxk_alpha": 0.0}), dead)
    assert not plain.gradients["W_dec"][30:].any()
    p["b_enc"][30:] = -0.5
    aux = topk.step(p, x, spec, dead)
    assert aux.gradients["W_dec"][30:].any()
    assert torch.equal(
        aux.gradients["W_dec"][:30],
        topk.step(p, x, spec.model_copy(update={"auxk_alpha": 0.0}), dead).gradients["W_dec"][:30],
    )


def learner(x: torch.Tensor, **sae) -> Learner:
    training = TrainingSpec(tokens=64 * 40, batch=64)
    given = {"latents": 20, "k": 2, **sae}
    return Learner(
        RunSpec(data="", site="x", sae=given, training=training, init_seed=0, data_seed=0), x
    )


def test_state_and_restore_continue_bit_for_bit(easy) -> None:
    x = torch.from_numpy(easy[1])
    whole, first, second = (learner(x[:64]) for _ in range(3))
    for i in range(30):
        whole.update(x[i * 64 : (i + 1) * 64])
        if i < 13:
            first.update(x[i * 64 : (i + 1) * 64])
    second.restore({name: value.clone() for name, value in first.state().items()})
    for i in range(13, 30):
        second.update(x[i * 64 : (i + 1) * 64])
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_a_run_into_infinity_is_stopped_with_its_step(easy) -> None:
    with pytest.raises(TrainingError, match=r"at step \d+ .*learning rate"):
        reseed.train(easy[1], latents=20, k=2, lr=1e38, batch=128, init_seeds=[0])


def test_nonsense_is_refused_before_any_work(easy) -> None:
    x = easy[1]
    with pytest.raises(SpecError, match="did you mean 'topk'"):
        reseed.train(x, "topkk", latents=4)
    with pytest.raises(SpecError, match="k = 5 is above latents = 4"):
        reseed.train(x, latents=4, k=5)
    with pytest.raises(SpecError, match="did you mean 'lr'"):
        reseed.train(x, latents=4, k=2, lrr=1.0)
    with pytest.raises(SpecError, match="none twice"):
        reseed.train(x, latents=4, k=2, init_seeds=[1, 1])
    bad = x.copy()
    bad[700, 3] = np.nan
    with pytest.raises(SubjectError, match="row 700|row 188"):
        reseed.train(bad, latents=4, k=2)


def test_the_schedule() -> None:
    rate = [learning_rate("linear", s, 2.0, 10, 110) for s in range(110)]
    assert rate[0] == 0.0
    assert rate[5] == 1.0
    assert rate[10] == 2.0
    assert rate[60] == 1.0
    assert rate[-1] == pytest.approx(0.02)


def test_the_papers_learning_rate_and_warmup() -> None:
    assert TopKSpec(latents=2**14).peak_lr == pytest.approx(2e-4)
    assert TopKSpec(latents=32_768).peak_lr == pytest.approx(1.41e-4, rel=0.01)
    assert TrainingSpec(tokens=10**9, batch=1000).warmup == 1000
    assert TrainingSpec(tokens=10**6, batch=1000).warmup == 100


def test_the_finished_sae_is_stored_once(finished) -> None:
    """The end of training is the run itself; snapshots are what was before."""
    study = reseed.Study.load(finished)
    for run in study.runs:
        folder = study.folder / "runs" / run.id
        steps = run.spec.training.snapshot_steps
        kept = sorted(path.name for path in (folder / "snapshots").iterdir())
        assert kept == [f"{step:08d}" for step in steps[:-1]]
        weights = [path.read_bytes() for path in folder.rglob("sae.safetensors")]
        assert len(weights) == len(set(weights)) == len(steps)
        end = load_snapshot(study.store, run.id, steps[-1])
        assert np.array_equal(end.W_dec, run.sae().W_dec.numpy())
        assert end.about["tokens"] == run.spec.training.steps * run.spec.training.batch
        assert np.array_equal(reseed.load(folder).W_dec.numpy(), end.W_dec)
