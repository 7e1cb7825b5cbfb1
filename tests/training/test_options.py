"""Options of any architecture: where training starts, what is added to the loss, how steps go."""

import numpy as np
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.sae.architecture import At, Batch, OneBatch
from reseed.sae.architectures import ARCHITECTURES, architecture
from reseed.sae.architectures.topk import TopKSpec
from reseed.sae.parts import falling_k, orthogonal_rows, restarted, spread_rows, starting_rows
from reseed.spec.refusals import read_spec
from reseed.spec.training import RunSpec, TrainingSpec
from reseed.training.learner import Learner
from reseed.training.schedule import learning_rate, rising
from reseed.training.start import aligned, first_parameters
from reseed.training.step.fast import FastStep
from reseed.training.step.plain import PlainStep, Signum, by_autograd

D, F = 8, 20


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def x():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(24, D))
    return torch.from_numpy(((draw.random((64 * 60, 24)) < 0.1) @ features) + 1.0).float()


def begun(spec, x):
    batch = Batch(x[:64], x[:64])
    return first_parameters(spec, batch, OneBatch(batch))


def run(name="topk", steps=40, init_seed=0, control=None, **sae):
    given = {"architecture": name, "latents": F, "lr": 0.01, **({"k": 3} if name == "topk" else {})}
    return RunSpec(
        data="", site="x", sae={**given, **sae}, control=control, init_seed=init_seed, data_seed=0,
        training=TrainingSpec(tokens=64 * steps, batch=64),
    )  # fmt: skip


def trained(spec, x, steps=None):
    learner = Learner(spec, x[:64])
    for i in range(spec.training.steps if steps is None else steps):
        learner.update(x[i * 64 : (i + 1) * 64])
    return learner


OPTIONS = [
    {"init": "orthogonal"},
    {"init": "subspace"},
    {"init": "data"},
    {"init": "kmeans"},
    {"tied_init": False},
    {"tied_init": True},
    {"weight_l2": 1e-4},
    {"aligned": True},
    {"optimizer": "muon"},
    {"optimizer": "signum", "lr": 1e-3},
    {"lr_schedule": "cosine"},
    {"lr_schedule": "constant"},
    {"k_start": 10, "k_share": 0.5},
]
NAMES = [name for name in ARCHITECTURES if name in ("topk", "relu")]
ALL = [
    (name, option)
    for name in NAMES
    for option in OPTIONS
    if "k_start" not in option or name == "topk"
]


@pytest.mark.parametrize(("name", "option"), ALL, ids=str)
def test_every_option_learns_and_resumes_bit_for_bit(x, name, option):
    spec = run(name, **option)
    whole, first, second = trained(spec, x), trained(spec, x, 17), trained(spec, x, 0)
    start = trained(spec, x, 0).sae()
    second.restore({name: value.clone() for name, value in first.state().items()})
    for i in range(17, 40):
        second.update(x[i * 64 : (i + 1) * 64])
    assert whole.state().keys() == second.state().keys()
    for key, value in whole.state().items():
        assert torch.equal(value, second.state()[key]), key
    # untrained SAEs overshoot: the start is compared at the best multiple of its reconstruction
    errors = []
    for sae in (start, whole.sae()):
        made, want = sae.reconstruct(x) - x.mean(0), x - x.mean(0)
        factor = (made * want).sum() / made.square().sum()
        errors.append(float((factor * made - want).square().sum()))
    assert errors[1] < 0.95 * errors[0]


def test_ids_of_runs_without_options_stay():
    assert run().sae.identity().keys() == {
        "architecture", "latents", "lr", "dead_after", "k", "auxk_alpha",
    }  # fmt: skip
    ids = {run(name, **option).id for name, option in ALL}
    assert len(ids) == len(ALL)
    assert run(init="data").sae.label == "topk 20 k3 data"
    again = RunSpec.model_validate(run(init="kmeans", optimizer="muon").model_dump())
    assert again == run(init="kmeans", optimizer="muon")


# -- starts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "orthogonal", "subspace", "data", "kmeans"])
def test_the_init_seed_decides_the_start(x, kind):
    batch, centre = x[:64].numpy(), x[:64].mean(0).numpy()
    one, again, other = (starting_rows(kind, F, seed, batch, centre) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.dtype == np.float32
    assert np.square(one).sum(1).mean() == pytest.approx(1 / 3, rel=0.15)
    elsewhere = starting_rows(kind, F, 1, x[64:128].numpy(), centre)
    same = kind in ("linear", "orthogonal", "subspace")  # these activations fill all dimensions
    assert np.allclose(one, elsewhere, atol=1e-6) == same


def test_orthogonal_rows_are():
    for latents, dimensions in ((20, 8), (8, 20), (8, 8)):
        rows = orthogonal_rows(latents, dimensions, 0).astype(np.float64)
        assert np.square(rows).sum() == pytest.approx(latents / 3)
        small = rows.T @ rows if latents > dimensions else rows @ rows.T
        np.testing.assert_allclose(small, np.eye(len(small)) * small[0, 0], atol=1e-6)


def test_subspace_rows_lie_where_activations_do():
    draw = np.random.default_rng(0)
    axes = np.linalg.qr(draw.normal(size=(8, 3)))[0]
    thin = 0.01 * draw.normal(size=(200, 8))
    x = (draw.normal(size=(200, 3)) @ axes.T + thin).astype(np.float32)
    rows = starting_rows("subspace", 20, 0, x, x.mean(0))
    inside = np.square(rows @ axes).sum(1) / np.square(rows).sum(1)
    assert inside.min() > 0.99
    assert np.linalg.matrix_rank(rows, tol=1e-3) == 3
    # where activations fill everything nothing is projected out
    full = draw.normal(size=(200, 8)).astype(np.float32)
    linear = starting_rows("linear", 20, 0, full, full.mean(0))
    linear /= np.linalg.norm(linear, axis=1, keepdims=True)
    same = starting_rows("subspace", 20, 0, full, full.mean(0))
    np.testing.assert_allclose(
        same / np.linalg.norm(same, axis=1, keepdims=True), linear, atol=1e-5
    )


def test_data_rows_are_rows_of_the_batch_each_once(x):
    centre = x[:64].mean(0).numpy()
    rows = x[:64].numpy() - centre
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for kind in ("data", "kmeans"):
        found = starting_rows(kind, F, 0, x[:64].numpy(), centre)
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        nearest = (found @ rows.T).argmax(1)
        np.testing.assert_allclose(rows[nearest], found, atol=1e-5)
        assert len(set(nearest.tolist())) == F


def test_kmeans_rows_reach_every_cluster():
    draw = np.random.default_rng(0)
    centres = 100 * draw.normal(size=(6, 5))
    rows = (centres[np.repeat(np.arange(6), 50)] + draw.normal(size=(300, 5))).astype(np.float32)
    chosen = spread_rows(rows, 6, init_seed=3)
    assert {int(np.square(c - centres).sum(1).argmin()) for c in chosen} == set(range(6))


def test_too_few_different_rows_are_refused(x):
    same = x[:1].repeat(64, 1)
    with pytest.raises(SpecError, match="needs 20 different rows .* has"):
        Learner(run(init="data"), same)
    with pytest.raises(SpecError, match="first batch, which has 30"):
        reseed.train(x, latents=40, k=2, batch=30, init="kmeans")


def test_untied_decoders_and_restarts_have_their_own_numbers(x):
    batch = Batch(x[:64], x[:64])
    tied, untied = (
        first_parameters(run(tied_init=t), batch, OneBatch(batch)) for t in (True, False)
    )
    assert torch.equal(tied["W_enc"], untied["W_enc"])
    cosine = (tied["W_enc"] * tied["W_dec"]).sum(1) / tied["W_enc"].norm(dim=1)
    torch.testing.assert_close(cosine, torch.ones(F))
    assert (untied["W_enc"] * untied["W_dec"]).sum(1).abs().max() < 0.9 * cosine.min()
    torch.testing.assert_close(untied["W_dec"].norm(dim=1), torch.ones(F))
    assert restarted(7, 0) == 7
    assert len({restarted(s, n) for s in range(5) for n in range(5)}) == 25


# -- loss ------------------------------------------------------------------------------------------


def at(step=0):
    return At(step, 40, torch.zeros(F, dtype=torch.bool))


@pytest.mark.parametrize("name", NAMES)
def test_weight_l2_adds_the_gradient_of_the_squared_norms(x, name):
    spec = run(name, weight_l2=0.01).sae
    p = {n: v.requires_grad_() for n, v in begun(run(name), x).items()}
    with_l2 = by_autograd(spec)(p, Batch(x[:64], x[:64]), at()).by_name
    without = by_autograd(run(name).sae)(p, Batch(x[:64], x[:64]), at()).by_name
    for matrix in ("W_enc", "W_dec"):
        want = without[matrix] + 0.02 * p[matrix].detach()
        torch.testing.assert_close(with_l2[matrix], want)
    assert torch.equal(with_l2["b_enc"], without["b_enc"])


@pytest.mark.parametrize("name", NAMES)
def test_aligned_rows_have_product_one_before_and_after(x, name):
    learner = trained(run(name, aligned=True), x, 0)
    for step in (0, 30):
        for i in range(step):
            learner.update(x[i * 64 : (i + 1) * 64])
        sae = learner.sae()
        torch.testing.assert_close((sae.W_enc * sae.W_dec).sum(1), torch.ones(F))
    moved = aligned(learner.parameters)["W_enc"] - learner.parameters["W_enc"]
    along = (moved * learner.parameters["W_dec"]).sum(1, keepdim=True) * learner.parameters["W_dec"]
    torch.testing.assert_close(moved, along, atol=1e-5, rtol=1e-4)  # nothing else changes


def test_k_falls_in_the_loss(x):
    spec = run(k_start=10, k_share=0.5).sae
    p = {n: v.requires_grad_() for n, v in begun(run(), x).items()}
    p["b_enc"] = (p["b_enc"].detach() + 5.0).requires_grad_()
    found = [by_autograd(spec)(p, Batch(x[:64], x[:64]), at(s)).l0 for s in (0, 10, 20, 39)]
    assert found == [10, 6, 3, 3]  # halfway 6.5, rounded to even


def test_the_penalty_rises(x):
    learner = trained(run("relu", penalty_warmup=0.5, penalty=1.0, lr=1e-9), x, 0)
    objective = architecture("relu").objective
    seen = {}
    for step in (0, 10, 20):
        p = learner.parameters
        loss = objective(p, Batch(x[:64], x[:64]), learner.spec.sae,
                         at(step)._replace(penalty=rising(step, over=20))).loss  # fmt: skip
        seen[step] = float(loss)
    assert seen[10] - seen[0] == pytest.approx(seen[20] - seen[10], rel=1e-4)


# -- steps -----------------------------------------------------------------------------------------


def test_options_leave_the_fast_way(x):
    assert isinstance(Learner(run(), x[:64])._path, FastStep)
    assert isinstance(Learner(run(init="data", lr_schedule="cosine"), x[:64])._path, FastStep)
    for option in ({"optimizer": "muon"}, {"aligned": True}, {"weight_l2": 0.1}, {"k_start": 4}):
        path = Learner(run(**option), x[:64])._path
        assert isinstance(path, PlainStep)
        assert path._differentiate.__module__ == FastStep.__module__
    counted = {"mutual": {"restart_above": 2.5}}
    for sae in (run(**counted), run(multi_topk=True), run("jumprelu", sparsity="tanh", pre_act=1)):
        assert Learner(sae, x[:64])._path._differentiate.__module__ == PlainStep.__module__
    assert isinstance(Learner(run("relu"), x[:64])._path, FastStep)
    assert isinstance(Learner(run("relu", decoder="weighted"), x[:64])._path, FastStep)
    assert isinstance(Learner(run("jumprelu", sparsity="tanh"), x[:64])._path, FastStep)
    assert isinstance(Learner(run("batchtopk", k=3, k_start=4), x[:64])._path, PlainStep)


def test_signum_by_hand():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    optimizer = Signum([p], lr=0.1, momentum=0.5)
    for gradient in ([1.0, -4.0, 0.0], [-0.5, -1.0, 0.0]):
        p.grad = torch.tensor(gradient)
        optimizer.step()
    # momenta: .5, -2, 0; then 0 (= .25 - .25), -1.5, 0
    torch.testing.assert_close(p.detach(), torch.tensor([0.9, 1.2, 1.0]))
    torch.testing.assert_close(
        optimizer.state[p]["momentum_buffer"], torch.tensor([0.0, -1.5, 0.0])
    )


def test_muon_makes_matrices_step_in_all_directions(x):
    """A step of Muon is near a matrix with equal singular values; Adam has the rest."""
    spec = run(optimizer="muon", lr=0.01, lr_schedule="constant")
    learner = Learner(spec, x[:64])
    learner.update(x[:64])  # warm-up: rate 0
    before = learner.parameters["W_enc"].clone()
    learner.step = 10
    learner.update(x[:64])
    values = torch.linalg.svdvals(learner.parameters["W_enc"] - before)
    assert values.max() < 2.5 * values.min()
    names = learner.state()
    assert {"muon.W_enc.momentum_buffer", "adam.b_enc.exp_avg"} <= names.keys()
    assert "adam.W_enc.exp_avg" not in names


def test_schedules():
    rate = [learning_rate("cosine", s, peak=2.0, warmup=10, steps=110) for s in range(111)]
    assert rate[0] == 0
    assert rate[10] == 2.0
    assert rate[60] == pytest.approx(1.0)
    assert rate[110] == pytest.approx(0.0)
    assert learning_rate("constant", 5, peak=2.0, warmup=10, steps=20) == 1.0
    assert learning_rate("constant", 19, peak=2.0, warmup=0, steps=20) == 2.0
    assert [falling_k(s, first=9, k=3, over=4) for s in range(6)] == [9, 8, 6, 4, 3, 3]
    assert [rising(s, over=2) for s in range(4)] == [0, 0.5, 1, 1]
    assert rising(0, over=0) == 1


def test_default_rates():
    assert TopKSpec(latents=2**14, optimizer="signum").peak_lr == pytest.approx(5e-3)
    assert TopKSpec(latents=2**14, optimizer="muon").peak_lr == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("relu", {"k_start": 5}, "relu has no k"),
        ("topk", {"k_start": 2}, "must lie between k = 3 and latents = 20"),
        ("topk", {"k_start": 3}, "above k"),
        ("topk", {"k_share": 0.5}, "k_share is a part of k_start; set that too, or take k_share"),
        ("topk", {"mutual": {"restarts": 3}}, "restarts is a part of mutual.restart_above"),
        ("topk", {"mutual": {"firing": 0.1}}, "firing is a part of mutual.restart_above"),
        ("jumprelu", {"settle_rows": 64}, "settle_rows is a part of target_l0"),
        ("jumprelu", {"tanh_scale": 9.0}, "tanh_scale is a part of sparsity = .tanh."),
        ("jumprelu", {"pre_act": 0.5}, "pre_act is a part of sparsity = .tanh."),
        ("panneal", {"p_end": 1, "changes": 5}, "changes is a part of p_end below 1"),
        ("topk", {"init": "kmean"}, "init"),
        ("topk", {"weight_l2": -1.0}, "weight_l2"),
        ("topk", {"optimiser": "muon"}, "did you mean 'optimizer'"),
        ("topk", {"latents": 9000, "k": 3, "mutual": {}}, "at most 8,192"),
    ],
)
def test_what_cannot_be_is_refused(name, option, words):
    given = {"latents": F, **({"k": 3} if name == "topk" else {}), **option}
    with pytest.raises(SpecError, match=words):
        read_spec(ARCHITECTURES[name].settings, given, "test")


def test_an_aligned_frozen_encoder_is_refused():
    with pytest.raises(ValueError, match="frozen encoder"):
        run(aligned=True, control="frozen_encoder")
