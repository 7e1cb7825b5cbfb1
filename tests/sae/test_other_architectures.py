"""What every architecture promises, for those that read more than a batch of one site at a time."""

from itertools import islice

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.formats import own
from reseed.sae.architecture import At, Batch, OneBatch, Start
from reseed.sae.architectures import ARCHITECTURES, architecture
from reseed.sae.model import from_arrays
from reseed.sae.parts import encoder_rows
from reseed.spec.refusals import read_spec
from reseed.spec.subject import ToySpec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.subjects.toy import Toy
from reseed.training.learner import Learner

D, E, F, B = 12, 9, 24, 64
STEPS = 200
CASES = {
    "llamascope": {"k": 3},
    "matching_pursuit": {"k": 3},
    "transcoder": {"k": 3, "target": "y"},
    "skip_transcoder": {"k": 3, "target": "y"},
    "crosscoder": {"parts": [7, 5]},
    "crosscoder k": {"parts": [7, 5], "k": 3},
    "crosscoder arms": {
        "parts": [6, 6],
        "k": 3,
        "exclusive": 0.125,
        "delta": 0.3,
        "auxk_alpha": 0.03,
        "dead_after": 128,
    },
    "archetypal": {"k": 3, "fit_rows": 512},
    "archetypal shared": {"k": 3, "fit_rows": 512, "start": "shared"},
}
FITTED = {
    "pca": {"fit_rows": 1024},
    "pca k": {"fit_rows": 1024, "k": 3},
    "ica": {"fit_rows": 1024, "rounds": 50},
    "nmf": {"fit_rows": 256, "latents": 8, "rounds": 50},
    "kmeans": {"fit_rows": 512},
}
EVERY = CASES | FITTED
MOST = {"kmeans": 1, "pca": D, "ica": D, "nmf": 8, "crosscoder": F}
"""Latents that may fire in a row, where that is not k."""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    toy = Toy(ToySpec(kind="toy", features=F, dimensions=D, active=2, zipf=0.0, noise=0.02))
    rows = np.concatenate([toy.rows(block) for block in range(8)])
    return torch.from_numpy(rows + np.linspace(0, 1, D, dtype=np.float32))


@pytest.fixture(scope="module")
def y(x: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(D, E, generator=torch.Generator().manual_seed(0))
    return torch.relu(x @ weights) + 0.3


def sae_spec(case, **changes):
    kind = ARCHITECTURES[case.split()[0]].settings
    rate = {} if case in FITTED else {"lr": 3e-3}
    return read_spec(kind, {"latents": F, **rate, **EVERY[case], **changes}, "test")


class Given:
    """BatchSource from one array, as a run gives them."""

    def __init__(self, x, y, steps):
        self.x, self.y, self.steps = x, y, steps

    def at(self, number):
        place = number * B % (len(self.x) - B)
        x = self.x[place : place + B]
        return Batch(x, x if self.y is None else self.y[place : place + B])

    def first(self, rows):
        return islice(map(self.at, range(self.steps)), -(-rows // B))

    def last(self, rows):
        return islice(map(self.at, range(self.steps - 1, -1, -1)), -(-rows // B))


def learner(case, x, y, steps=40, seed=0, **changes):
    spec = sae_spec(case, **changes)
    target = y if spec.output_site else None
    given = Given(x, target, steps)
    run = RunSpec(
        data="",
        site="x",
        sae=spec,
        training=TrainingSpec(tokens=B * steps, batch=B),
        init_seed=seed,
        data_seed=0,
    )
    first = given.at(0)
    return Learner(run, first.x, first.y, batches=given), given


def trained(case, x, y, steps=40, **more):
    made, given = learner(case, x, y, steps, **more)
    for number in range(steps):
        batch = given.at(number)
        made.update(batch.x, batch.y)
    return made


@pytest.fixture(scope="module")
def done(x, y):
    """The SAE of each case after some hundred steps; trained once."""
    kept = {}

    def get(case):
        if case not in kept:
            kept[case] = trained(case, x, y, STEPS if case in CASES else 2).sae()
        return kept[case]

    return get


def fvu(sae, x, y):
    return float((sae.reconstruct(x) - y).square().sum() / (y - y.mean(0)).square().sum())


def aim(case, x, y):
    return y if "transcoder" in case else x


@pytest.mark.parametrize("case", EVERY)
def test_shapes_and_sparsity_are_as_promised(case, x, y, done):
    sae = done(case)
    latents = EVERY[case].get("latents", F)
    codes = sae.encode(x)
    assert codes.shape == (len(x), latents)
    assert sae.W_enc.shape == (latents, D)
    assert sae.W_dec.shape == (latents, aim(case, x, y).shape[1])
    assert sae.reconstruct(x).shape == aim(case, x, y).shape
    assert bool((codes >= 0).all())
    fires = (codes > 0).sum(1)
    if case == "llamascope" or case.startswith("crosscoder "):
        assert float(fires.float().mean()) == pytest.approx(3, rel=0.15)  # 3 on average
    else:
        assert int(fires.max()) <= MOST.get(case, EVERY[case].get("k", F))


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_reaches_every_parameter(case, x, y):
    made, given = learner(case, x, y)
    for number in range(3):  # at a start some gradients can be zero
        made.update(*given.at(number))
    module, spec = architecture(made.spec.sae.name), made.spec.sae
    p = {name: value.clone() for name, value in made.parameters.items()}
    names = [name for name in p if name not in module.buffers]
    for name in names:
        p[name].requires_grad_()
    at = At(3, 40, torch.zeros(F, dtype=torch.bool))
    out = module.objective(p, given.at(3), spec, at)
    found = torch.autograd.grad(out.loss, [p[name] for name in names], allow_unused=True)
    for name, gradient in zip(names, found, strict=True):
        assert gradient is not None, name
        assert bool(gradient.abs().sum() > 0), name
        assert bool(torch.isfinite(gradient).all()), name


@pytest.mark.parametrize("case", FITTED)
def test_nothing_is_trained_where_all_is_fitted(case, x, y):
    made, given = learner(case, x, y)
    before = made.sae()
    made.update(*given.at(0))
    fitted = made.sae()
    assert not torch.equal(before.W_dec, fitted.W_dec)
    for number in range(1, 10):
        made.update(*given.at(number))
    assert torch.equal(made.sae().W_dec, fitted.W_dec)
    assert "converged" in fitted.about


@pytest.mark.parametrize("case", EVERY)
def test_inference_equals_training(case, x, y):
    """FVU and codes of the objective are those of the SAE that is saved."""
    made = trained(case, x, y, steps=10)
    module, spec = architecture(made.spec.sae.name), made.spec.sae
    batch = Batch(x[:200], aim(case, x, y)[:200])
    at = At(10, 10, torch.zeros(len(made.parameters["b_dec"]), dtype=torch.bool))
    p = dict(made.parameters)
    if "threshold" in p:  # the training rule is compared with the form before the threshold
        p["threshold"] = torch.tensor(-1.0)
    out = module.objective(p, batch, spec, at)
    sae = module.freeze(p, spec, {})
    assert torch.equal(sae.encode(batch.x) > 0, out.codes > 0)
    scaled = torch.ones(D)
    if case.startswith("crosscoder"):  # its sites are weighed alike in training
        scaled = p["scales"].repeat_interleave(torch.tensor(EVERY[case]["parts"]))
    error = ((sae.reconstruct(batch.x) - batch.y) * scaled[: batch.y.shape[1]]).square().sum()
    whole = ((batch.y - batch.y.mean(0)) * scaled[: batch.y.shape[1]]).square().sum()
    assert float(error / whole) == pytest.approx(float(out.fvu), rel=1e-4, abs=1e-6)
    if "threshold" in p:
        settled = "jumprelu" if "k" in EVERY[case] else "relu"
        assert made.sae().activation == {"kind": settled}


@pytest.mark.parametrize("case", EVERY)
def test_saved_and_loaded_it_is_the_same(case, x, done, tmp_path):
    sae = done(case)
    own.write(tmp_path, sae.arrays())
    again = from_arrays(own.read(tmp_path))
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again.reconstruct(x), sae.reconstruct(x))
    assert again.activation == sae.activation
    sparse = sae.encode_sparse(x)
    torch.testing.assert_close(sae.rebuild(x, sparse), sae.reconstruct(x))


@pytest.mark.parametrize("case", EVERY)
def test_bfloat16_rows_are_read(case, x, done):
    sae = done(case)
    assert torch.isfinite(sae.reconstruct(x[:50].bfloat16())).all()


@pytest.mark.parametrize("case", EVERY)
def test_the_init_seed_alone_decides_the_start(case, x, y):
    one, same, other = (learner(case, x, y, seed=seed)[0].parameters for seed in (5, 5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert moved
    assert not moved & {"scale", "scales", "centroids", "b_dec"}


@pytest.mark.parametrize("case", EVERY)
def test_a_resumed_training_ends_bit_for_bit_the_same(case, x, y):
    whole = trained(case, x, y, steps=12)
    first, given = learner(case, x, y, 12)
    for number in range(5):
        first.update(*given.at(number))
    second, _ = learner(case, x, y, 12)
    second.restore({name: value.clone() for name, value in first.state().items()})
    for number in range(5, 12):
        second.update(*given.at(number))
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name
    assert torch.equal(whole.sae().reconstruct(x), second.sae().reconstruct(x))


@pytest.mark.parametrize("case", EVERY)
def test_training_beats_the_start(case, x, y, done):
    """By a quarter of what the start leaves unexplained, and the mean by a quarter too."""
    target = aim(case, x, y)
    before = fvu(learner(case, x, y)[0].sae(), x, target)
    after = fvu(done(case), x, target)
    assert after < before * 0.75
    assert after < 0.75


def test_pairs_of_rows_are_what_a_transcoder_learns_from(x, y):
    saes = reseed.train(x, "transcoder", latents=F, k=3, target=y, batch=64, init_seeds=[0])
    assert saes[0].W_dec.shape == (F, E)
    with pytest.raises(SpecError, match="target"):
        reseed.train(x, "transcoder", latents=F, k=3)
    with pytest.raises(SpecError, match="target"):
        reseed.train(x, "topk", latents=F, k=3, target=y)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llamascope", {"k": 25}, "k = 25 is above latents = 24"),
        ("matching_pursuit", {"k": 0}, "k"),
        ("transcoder", {"target": "layers.*.mlp"}, "pattern"),
        ("crosscoder", {"parts": [12]}, "parts"),
        ("crosscoder", {"penalty": -1.0}, "penalty"),
        ("crosscoder k", {"penalty": 0.3}, "two ways"),
        ("crosscoder k", {"exclusive": 0.01}, "is 0 for each site, which must be 1 to 12"),
        ("crosscoder k", {"delta": 0.1}, r"of one width, and parts = \[7, 5\]"),
        ("crosscoder k", {"delta_share": 0.5}, "delta_share is a part of delta"),
        ("crosscoder", {"threshold_rows": 64}, "threshold_rows is a part of k"),
        ("pca", {"lr": 1.0}, "lr does not go together with pca"),
        ("archetypal shared", {"centroids": 5}, "raise centroids"),
        ("pca", {"latents": 23}, "odd"),
    ],
)
def test_what_cannot_be_is_refused_with_its_settings(case, changes, message):
    with pytest.raises(SpecError, match=message):
        sae_spec(case, **changes)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("crosscoder", {"parts": [7, 6]}, "add up to 13 dimensions, but its rows have 12"),
        ("pca", {"latents": 26}, "13 components, but the rows have 12 dimensions.*most 24"),
        ("ica", {"latents": 26}, "13 components"),
        ("nmf", {"latents": 13}, "13 components.*at most 12"),
        ("archetypal", {"centroids": 4000, "fit_rows": 4000}, "raise fit_rows"),
    ],
)
def test_what_does_not_fit_the_rows_is_refused_before_the_first_step(case, changes, message, x, y):
    with pytest.raises(SpecError, match=message):
        learner(case, x, y, **changes)


@pytest.mark.parametrize("case", EVERY)
def test_settings_say_what_steps_move(case, x, y):
    one = learner(case, x, y)[0]
    moved = one.parameters.keys() - architecture(one.spec.sae.name).buffers
    assert one.spec.sae.trains == moved & {"W_enc", "W_dec"}


@pytest.mark.parametrize("control", ["frozen_decoder", "soft_frozen_decoder"])
@pytest.mark.parametrize("case", ["pca", "archetypal"])
def test_a_control_that_holds_what_is_not_there_is_refused(case, control, x):
    run = RunSpec(
        data="",
        site="x",
        sae=sae_spec(case),
        training=TrainingSpec(tokens=B, batch=B),
        init_seed=0,
        data_seed=0,
        control=control,
    )
    with pytest.raises(SpecError, match="has no trained W_dec"):
        Learner(run, x[:B])


def test_known_batches_alone_make_a_start(x):
    spec = sae_spec("llamascope")
    rows, zeros = encoder_rows(F, D, 0), np.zeros(D, np.float32)
    given = Start(rows, zeros, zeros, 0, batches=OneBatch(Batch(x[:B], x[:B])))
    p = architecture("llamascope").initial(spec, given)
    length = torch.linalg.vector_norm(x[:B] * p["scale"], dim=1).mean()
    assert float(length) == pytest.approx(D**0.5, rel=1e-5)
    norms = torch.linalg.vector_norm(p["W_dec"], dim=1)
    torch.testing.assert_close(norms, torch.full((F,), (2 * D / F) ** 0.5))
    assert torch.equal(p["W_enc"], p["W_dec"])
