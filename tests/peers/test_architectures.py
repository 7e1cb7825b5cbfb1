"""Training rules against the peers' own classes, on the same random weights. `make test-peers`.

Peers take the mean over rows of the summed squared error; ours is that over the squared length ℓ² =
Σ (x - mean)² / B. So a peer's loss over ℓ² is ours, with its coefficient c as λ = c / ℓ where codes
are penalised, c / ℓ² where firing is.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from reseed.sae.architecture import At, Batch
from reseed.sae.architectures import ARCHITECTURES, architecture
from reseed.sae.parts import squared_variation

pytestmark = pytest.mark.peers
D, F, B, K, C = 16, 48, 64, 6, 0.3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def p():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    rows = normal(F, D)
    return {
        "W_enc": 0.5 * normal(F, D),
        "b_enc": 0.1 * normal(F),
        "W_dec": rows / rows.norm(dim=1, keepdim=True),
        "b_dec": normal(D),
    }


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    scale = torch.rand(D, generator=generator) * 3 + 0.5
    return torch.randn(B, D, generator=generator) * scale + 1.0


def ours(name, p, x, step=0, steps=1, dead=None, **settings):
    """Loss, gradients and objective of ours."""
    spec = ARCHITECTURES[name].settings(latents=F, **settings)
    leaves = {key: value.clone().requires_grad_() for key, value in p.items()}
    dead = torch.zeros(F, dtype=torch.bool) if dead is None else dead
    out = architecture(name).objective(leaves, Batch(x, x), spec, At(step, steps, dead))
    out.loss.backward()
    return out, {key: leaf.grad for key, leaf in leaves.items()}, spec


def batch_length(x):
    """Root mean square distance of rows to their mean."""
    return (squared_variation(x) / len(x)).sqrt()


def agree(out, gradients, length, loss, theirs, fired):
    """Their loss over ℓ² is ours, and so is every gradient."""
    torch.testing.assert_close(out.loss, (loss / length**2).detach(), **CLOSE)
    torch.testing.assert_close(out.codes, fired.detach(), **CLOSE)
    for name, gradient in theirs.items():
        torch.testing.assert_close(gradients[name], gradient / length**2, **CLOSE, msg=name)


def set_(module, values):
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)


class Lens:
    """A training class of SAELens with our weights."""

    def __init__(self, kind, p, **cfg):
        sae_lens = pytest.importorskip("sae_lens")
        names = {"threshold", "r_mag", "b_gate", "b_mag"} & set(p)
        config = getattr(sae_lens, f"{kind}TrainingSAEConfig")
        self.sae = getattr(sae_lens, f"{kind}TrainingSAE")(
            config(d_in=D, d_sae=F, apply_b_dec_to_input=True, normalize_activations="none", **cfg)
        )
        values = {"W_enc": p["W_enc"].T, "W_dec": p["W_dec"], "b_dec": p["b_dec"]}
        if "b_enc" in p:
            values["b_enc"] = p["b_enc"]
        set_(self.sae, values | {name: p[name] for name in names})

    def run(self, x, dead=None, **coefficients):
        from sae_lens.saes.sae import TrainStepInput

        step = TrainStepInput(
            sae_in=x,
            coefficients=coefficients,
            dead_neuron_mask=dead,
            n_training_steps=0,
            is_logging_step=False,
        )
        out = self.sae.training_forward_pass(step)
        out.loss.backward()
        found = {name: value.grad for name, value in self.sae.named_parameters()}
        found["W_enc"] = found["W_enc"].T
        return out.loss, found, out.feature_acts


@pytest.mark.parametrize("dead_latents", [0, 3, 20])
def test_batchtopk_is_saelens(p, x, dead_latents) -> None:
    """With dead latents on at every row: its AuxK lets pre-activations below 0 through, unlike that
    of 2406.04093 and of sparsify."""
    dead = torch.arange(F) < dead_latents
    p = p | {"b_enc": p["b_enc"] + 100.0 * dead} if dead_latents else p
    lens = Lens("BatchTopK", p, k=K, rescale_acts_by_decoder_norm=False, aux_loss_coefficient=1.0)
    loss, theirs, codes = lens.run(x, dead)
    given = p | {"threshold": torch.tensor(0.7)}
    out, found, _ = ours("batchtopk", given, x, dead=dead, k=K, auxk_alpha=1.0)
    agree(out, found, batch_length(x), loss, theirs, codes)
    lens.sae.topk_threshold = torch.tensor(0.7, dtype=torch.double)
    lens.sae.update_topk_threshold(codes.detach())  # their .01 is our 1 - .99
    assert float(out.buffers["threshold"].detach()) == pytest.approx(
        float(lens.sae.topk_threshold), rel=1e-6
    )


def test_matryoshka_is_saelens(p, x) -> None:
    lens = Lens(
        "MatryoshkaBatchTopK",
        p,
        k=K,
        matryoshka_widths=[12, 24, F],
        rescale_acts_by_decoder_norm=False,
    )
    loss, theirs, codes = lens.run(x)
    given = p | {"threshold": torch.tensor(0.7)}
    out, found, _ = ours("matryoshka", given, x, k=K, prefixes=(0.25, 0.5))
    agree(out, found, batch_length(x), loss, theirs, codes)


@pytest.mark.parametrize("sparsity", ["l0", "tanh"])
def test_jumprelu_is_saelens(p, x, sparsity) -> None:
    length = batch_length(x)
    tanh = sparsity == "tanh"
    scale = 4.0
    lens = Lens(
        "JumpReLU",
        p | {"threshold": torch.full((F,), 0.2)},
        jumprelu_bandwidth=0.5,
        jumprelu_sparsity_loss_mode="tanh" if tanh else "step",
        jumprelu_tanh_scale=scale,
        jumprelu_ste_to_input=tanh,
        pre_act_loss_coefficient=0.01 if tanh else None,
    )
    dead = torch.arange(F) < 5
    loss, theirs, codes = lens.run(x, dead, l0=C)
    given = p | {"threshold": torch.full((F,), 0.2) / length, "length": length}
    out, found, _ = ours(
        "jumprelu", given, x, dead=dead,
        sparsity=sparsity, bandwidth=float(0.5 / length), penalty=float(C / length**2),
        **({"tanh_scale": float(scale * length / D**0.5),
            "pre_act": float(0.01 / length**2 * length / D**0.5)} if tanh else {}),
    )  # fmt: skip
    found["threshold"] = found["threshold"] / length  # by t = θ / ℓ
    agree(out, found, length, loss, theirs, codes)


def test_gated_is_saelens_but_for_the_decoder(p, x) -> None:
    """SAELens lets the auxiliary loss teach the decoder too; the paper holds it constant there."""
    length, generator = batch_length(x), torch.Generator().manual_seed(2)
    given = {name: value for name, value in p.items() if name != "b_enc"} | {
        name: 0.2 * torch.randn(F, generator=generator) for name in ("r_mag", "b_gate", "b_mag")
    }
    loss, theirs, codes = Lens("Gated", given).run(x, l1=C)
    out, found, _ = ours("gated", given, x, penalty=float(C / length))
    same = {name: theirs[name] for name in ("W_enc", "r_mag", "b_gate", "b_mag")}
    # with unit rows; theirs weights the penalty by them, which has a gradient of its own
    agree(out, found, length, loss, same, codes)


def test_weighted_relu_is_saelens(p, x) -> None:
    length = batch_length(x)
    given = p | {"W_dec": p["W_dec"] * torch.linspace(0.5, 2.0, F)[:, None]}
    loss, theirs, codes = Lens("Standard", given).run(x, l1=C)
    out, found, _ = ours("relu", given, x, penalty=float(C / length), decoder="weighted")
    agree(out, found, length, loss, theirs, codes)


@pytest.fixture(scope="module")
def dictionary_learning():
    pytest.importorskip("einops")
    if importlib.util.find_spec("dictionary_learning") is None:
        pytest.skip("dictionary-learning is not installed")
    path = Path(__file__).with_name("write_formats.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("dictionary_learning", "dictionary_learning.trainers"):
        module.without_init(name)  # which needs nnsight


def trainer(kind, **more):
    return kind(
        steps=100,
        activation_dim=D,
        dict_size=F,
        layer=0,
        lm_name="x",
        device="cpu",
        warmup_steps=0,
        **more,
    )


def linear(p, bias="bias"):
    return {
        "encoder.weight": p["W_enc"],
        "encoder.bias": p["b_enc"],
        "decoder.weight": p["W_dec"].T,
        bias: p["b_dec"],
    }


def linear_gradients(ae, bias="bias"):
    named = {name: value.grad for name, value in ae.named_parameters()}
    return {
        "W_enc": named["encoder.weight"],
        "b_enc": named["encoder.bias"],
        "W_dec": named["decoder.weight"].T,
        "b_dec": named[bias],
    }


def test_relu_is_dictionary_learning(dictionary_learning, p, x) -> None:
    from dictionary_learning.trainers.standard import StandardTrainer

    length = batch_length(x)
    one = trainer(StandardTrainer, l1_penalty=C, sparsity_warmup_steps=None)
    set_(one.ae, linear(p))
    loss = one.loss(x, step=0)
    loss.backward()
    out, found, _ = ours("relu", p, x, penalty=float(C / length))
    agree(out, found, length, loss, linear_gradients(one.ae), one.ae.encode(x))


@pytest.mark.parametrize("stretch", [0, 4])
def test_panneal_is_dictionary_learning(dictionary_learning, p, x, stretch) -> None:
    """Ours penalises codes in parts of ℓ, so that c = λ ℓ² / ℓ^p."""
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer

    from reseed.sae.architectures import panneal

    length = batch_length(x)
    one = trainer(
        PAnnealTrainer,
        initial_sparsity_penalty=C,
        sparsity_function="Lp^p",
        anneal_start=20,
        p_end=0.2,
        sparsity_warmup_steps=None,
    )
    set_(one.ae, linear(p))
    buffers = {"recent": torch.ones(10, 2), "adapted": torch.tensor(1.0)}
    spec = ARCHITECTURES["panneal"].settings(latents=F)
    one.p = float(one.p_values[stretch])
    assert one.p == pytest.approx(panneal.power(stretch, spec))
    loss = one.loss(x, step=1)
    loss.backward()
    weight = float(C * length**one.p / length**2)
    step = 20 + 8 * stretch + 1
    out, found, _ = ours("panneal", p | buffers, x, step=step, steps=100, penalty=weight)
    agree(out, found, length, loss, linear_gradients(one.ae), one.ae.encode(x))


def test_gated_is_dictionary_learning(dictionary_learning, p, x) -> None:
    from dictionary_learning.trainers.gdm import GatedSAETrainer

    length, generator = batch_length(x), torch.Generator().manual_seed(2)
    given = {name: value for name, value in p.items() if name != "b_enc"} | {
        name: 0.2 * torch.randn(F, generator=generator) for name in ("r_mag", "b_gate", "b_mag")
    }
    one = trainer(GatedSAETrainer, l1_penalty=C, sparsity_warmup_steps=None)
    names = {
        "encoder.weight": given["W_enc"],
        "decoder.weight": given["W_dec"].T,
        "decoder_bias": given["b_dec"],
        "r_mag": given["r_mag"],
        "gate_bias": given["b_gate"],
        "mag_bias": given["b_mag"],
    }
    set_(one.ae, names)
    loss = one.loss(x, step=0)
    loss.backward()
    named = {name: value.grad for name, value in one.ae.named_parameters()}
    theirs = {
        "W_enc": named["encoder.weight"],
        "W_dec": named["decoder.weight"].T,
        "b_dec": named["decoder_bias"],
        "r_mag": named["r_mag"],
        "b_gate": named["gate_bias"],
        "b_mag": named["mag_bias"],
    }
    out, found, spec = ours("gated", given, x, penalty=float(C / length))
    agree(out, found, length, loss, theirs, one.ae.encode(x))
    sae = architecture("gated").freeze(given, spec, {})
    torch.testing.assert_close(sae.reconstruct(x), one.ae(x).detach(), **CLOSE)


def test_batchtopk_is_dictionary_learning(dictionary_learning, p, x) -> None:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    one = trainer(BatchTopKTrainer, k=K, threshold_start_step=0, threshold_beta=0.99)
    set_(one.ae, linear(p, "b_dec"))
    one.ae.threshold = torch.tensor(0.7)
    loss = one.loss(x, step=1)
    loss.backward()
    out, found, spec = ours("batchtopk", p | {"threshold": torch.tensor(0.7)}, x, k=K)
    codes = one.ae.encode(x, use_threshold=False)
    agree(out, found, batch_length(x), loss, linear_gradients(one.ae, "b_dec"), codes)
    assert float(out.buffers["threshold"].detach()) == pytest.approx(
        float(one.ae.threshold), rel=1e-6
    )
    given = p | {"threshold": out.buffers["threshold"].detach()}
    sae = architecture("batchtopk").freeze(given, spec, {})
    torch.testing.assert_close(sae.reconstruct(x), one.ae(x).detach(), **CLOSE)


def test_matryoshka_is_dictionary_learning(dictionary_learning, p, x) -> None:
    """Its loss is the mean of the weighted prefixes; with weights of 1 ours is n times that."""
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

    one = trainer(
        MatryoshkaBatchTopKTrainer, k=K, group_fractions=[0.25, 0.25, 0.5], group_weights=[1, 1, 1]
    )
    set_(
        one.ae, {"W_enc": p["W_enc"].T, "W_dec": p["W_dec"]} | {n: p[n] for n in ("b_enc", "b_dec")}
    )
    loss = 3 * one.loss(x, step=0)
    loss.backward()
    theirs = {name: value.grad for name, value in one.ae.named_parameters()}
    theirs["W_enc"] = theirs["W_enc"].T
    given = p | {"threshold": torch.tensor(0.7)}
    out, found, _ = ours("matryoshka", given, x, k=K, prefixes=(0.25, 0.5))
    codes = one.ae.encode(x, use_threshold=False)
    agree(out, found, batch_length(x), loss, theirs, codes)


@pytest.mark.parametrize("kind", ["topk", "groupmax"])
def test_multi_topk_and_groupmax_are_sparsify(p, x, kind) -> None:
    sparsify = pytest.importorskip("sparsify")
    multi = kind == "topk"
    cfg = sparsify.SparseCoderConfig(num_latents=F, k=K, multi_topk=multi, activation=kind)
    coder = sparsify.SparseCoder(D, cfg)
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
    set_(coder, {theirs: p[mine] for theirs, mine in names.items()})
    given = coder(x)
    loss = given.fvu + (given.multi_topk_fvu / 8 if multi else 0.0)
    loss.backward()
    settings = {"multi_topk": True} if multi else {}
    out, found, spec = ours(kind, p, x, k=K, **settings)
    torch.testing.assert_close(out.loss.detach(), loss.detach(), **CLOSE)
    # the backward of its fused encoder passes gradients through entries that the ReLU made 0, and
    # drops those of the 4 k; only the decoder's is that of its loss
    torch.testing.assert_close(found["W_dec"], coder.W_dec.grad, **CLOSE)
    sae = architecture(kind).freeze(p, spec, {})
    if not multi:  # it then gives the reconstruction by 4 k
        torch.testing.assert_close(sae.reconstruct(x), given.sae_out.detach(), **CLOSE)


def test_the_jumps_gradient_is_llamascopiums(p, x) -> None:
    """Its kernel is that of the paper; only for thresholds above half a bandwidth, since it has
    no gradient where pre-activations are negative."""
    functions = pytest.importorskip("llamascopium.activation_functions")
    from reseed.sae.architectures import jumprelu

    theirs = functions.JumpReLU(0.3, shape=(F,), dtype=torch.float32)
    with torch.no_grad():
        theirs.log_jumprelu_threshold.fill_(-1.0)
    pre = ((x - p["b_dec"]) @ p["W_enc"].T).requires_grad_()
    weights = torch.randn(B, F, generator=torch.Generator().manual_seed(3))
    (theirs(pre) * weights).sum().backward()
    flow, pre.grad = pre.grad, None
    log = theirs.log_jumprelu_threshold.detach().clone().requires_grad_()
    threshold = log.exp()
    gate = jumprelu.gates(pre, threshold, torch.tensor(0.3), to_input=False)
    codes = jumprelu.jump(pre, gate, threshold)
    torch.testing.assert_close(codes, theirs(pre).detach())
    (codes * weights).sum().backward()
    torch.testing.assert_close(pre.grad, flow, **CLOSE)
    torch.testing.assert_close(log.grad, theirs.log_jumprelu_threshold.grad, **CLOSE)
