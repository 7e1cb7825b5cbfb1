"""What we write of the formats of suites, loaded by the libraries that read them.

Run by `make test-peers`; a library that is not installed is skipped. OpenAI's is no package: put a
clone of openai/sparse_autoencoder on PYTHONPATH.
"""

import numpy as np
import pytest
import torch

from reseed.formats import read
from reseed.records import SAEArrays
from reseed.sae.model import from_arrays

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
D, F, K = 6, 12, 3


def sae(kind, **changes):
    rng = np.random.default_rng(3)

    def normal(*shape):
        return (0.4 * rng.normal(size=shape)).astype(np.float32)

    given = {
        "W_enc": normal(F, D),
        "b_enc": normal(F) + 0.5,
        "W_dec": normal(F, D),
        "b_dec": normal(D),
        "activation": {"kind": kind} if "relu" in kind else {"kind": kind, "k": K},
        "threshold": np.abs(normal(F)) if kind == "jumprelu" else None,
        "about": {},
    }
    return SAEArrays(**(given | changes))


@pytest.fixture
def x():
    return torch.randn(40, D, generator=torch.Generator().manual_seed(1))


def agree(arrays, x, theirs) -> None:
    torch.testing.assert_close(
        theirs.detach(), from_arrays(arrays).reconstruct(x), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize(("kind", "normalised"), [("topk", True), ("relu", False)])
def test_openai(tmp_path, x, kind, normalised) -> None:
    model = pytest.importorskip("sparse_autoencoder.model")
    ours = sae(kind, normalised=normalised)
    read.write(tmp_path / "0.pt", ours, "openai")
    state = torch.load(tmp_path / "0.pt", weights_only=True)
    agree(ours, x, model.Autoencoder.from_state_dict(state)(x)[2])


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu", "batchtopk"])
def test_llamascopium(tmp_path, x, kind) -> None:
    theirs = pytest.importorskip("llamascopium").SparseAutoEncoder
    read.write(tmp_path, sae(kind), "llamascopium")
    agree(sae(kind), x, theirs.from_local(str(tmp_path))(x))


def test_openai_cannot_load_its_own_topk() -> None:
    """It saves k twice and loads strictly; what we write leaves the second out."""
    model = pytest.importorskip("sparse_autoencoder.model")
    theirs = model.Autoencoder(F, D, activation=model.TopK(K), normalize=True)
    with pytest.raises(RuntimeError, match=r"activation\.k"):
        model.Autoencoder.from_state_dict(theirs.state_dict())


def test_their_folding_changes_a_jumprelu(x) -> None:
    """llamascopium says that folding the norms leaves what is reconstructed as it is; the
    thresholds stay behind, so it does not. We fold them too, and agree with the unfolded."""
    llamascopium = pytest.importorskip("llamascopium")
    torch.manual_seed(0)
    hook = {"hook_point_in": "a", "hook_point_out": "a"}
    cfg = llamascopium.SAEConfig(d_model=D, expansion_factor=2, act_fn="jumprelu", **hook)
    model = llamascopium.SparseAutoEncoder(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        model.set_dataset_average_activation_norm({"a": 9.0})
        scaled, factors = model.normalize_activations({"a": x}, return_scale_factor=True)
        before = model.denormalize_activations({"a": model(scaled["a"])}, factors)["a"]
        model.standardize_parameters_of_dataset_norm()
        after = model(x)
    assert (after - before).abs().max() > 0.1


@pytest.fixture
def hub(monkeypatch):
    """SAELens' loaders of published suites, reading from a folder in place of the hub."""
    loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")

    def load(name, folder, repo, inner, **given):
        def local(repo_id, filename, subfolder=None, **_):
            return str(folder / filename if subfolder is None else folder / subfolder / filename)

        monkeypatch.setattr(loaders, "hf_hub_download", local)
        return getattr(loaders, name)(repo, inner, **given)[1]

    return load


def of_saelens(kind, state, x, **cfg):
    import sae_lens

    cls = {"topk": "TopKSAE", "relu": "StandardSAE", "jumprelu": "JumpReLUSAE"}[kind]
    settings = getattr(sae_lens, f"{cls}Config")(
        d_in=D, d_sae=F, apply_b_dec_to_input=False, normalize_activations="none", **cfg
    )
    model = getattr(sae_lens, cls)(settings)
    model.load_state_dict({name: one.float().contiguous() for name, one in state.items()})
    return model(x)


@pytest.mark.parametrize("embedding", [False, True])
def test_gemma_scope_in_saelens(tmp_path, x, hub, embedding) -> None:
    folder = f"{'embedding' if embedding else 'layer_5'}/width_16k/average_l0_9"
    ours = sae("jumprelu")
    read.write(tmp_path / folder, ours, "gemma_scope")
    state = hub("gemma_2_sae_huggingface_loader", tmp_path, "google/gemma-scope-2b-pt-res", folder)
    if not embedding:
        agree(ours, x, of_saelens("jumprelu", state, x))
        return
    # it scales by the width of the real model; ours by that of the file
    state["W_enc"] = state["W_enc"] * (2304 / D) ** 0.5
    state["W_dec"] = state["W_dec"] / (2304 / D) ** 0.5
    agree(read.read(tmp_path / folder), x, of_saelens("jumprelu", state, x))


def test_goodfire_in_saelens(tmp_path, x, hub) -> None:
    ours, name = sae("relu"), "Llama-3.1-8B-Instruct-SAE-l19.pth"
    read.write(tmp_path / name, ours, "goodfire")
    repo = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19"
    state = hub("get_goodfire_huggingface_loader", tmp_path, repo, name)
    agree(ours, x, of_saelens("relu", state, x))


def test_qwen_scope_in_saelens(tmp_path, x, hub) -> None:
    repo = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
    ours, folder = sae("topk"), tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"
    read.write(folder, ours, "qwen_scope", layer=4)
    given = {"device": "cpu"}
    state = hub("qwen_scope_sae_huggingface_loader", folder, repo, "layer4.sae.pt", **given)
    agree(ours, x, of_saelens("topk", state, x, k=K))


def test_circuit_tracer_in_saelens(tmp_path, x, hub) -> None:
    (tmp_path / "wandb-config.yaml").write_text(
        "d_model: {value: 6}\nd_feature: {value: 12}\nbatch_size: {value: 1}\n"
    )
    (tmp_path / "config.yaml").write_text("model_name: a\n")
    ours = sae("relu")
    read.write(tmp_path, ours, "circuit_tracer", layer=2)
    name = "mwhanna_transcoder_huggingface_loader"
    state = hub(name, tmp_path, "mwhanna/qwen3-4b-transcoders", "layer_2.safetensors")
    agree(ours, x, of_saelens("relu", state, x))


def test_llama_scope_in_saelens(tmp_path, x, hub) -> None:
    """It rounds to bfloat16, so weights are compared, at that precision."""
    ours = sae("jumprelu", threshold=np.full(F, 0.25, np.float32), centred=False)
    read.write(tmp_path / "L8R", ours, "llama_scope")
    name = "llama_scope_sae_huggingface_loader"
    state = hub(name, tmp_path, "fnlp/Llama3_1-8B-Base-LXR-8x", "L8R")
    for mine, theirs in (
        (ours.W_enc.T, "W_enc"), (ours.W_dec, "W_dec"), (ours.b_enc, "b_enc"),
        (ours.b_dec, "b_dec"), (ours.threshold, "threshold"),
    ):  # fmt: skip
        torch.testing.assert_close(state[theirs].float(), torch.tensor(mine).bfloat16().float())


def test_llama_scope_r1_in_saelens(tmp_path, x, hub) -> None:
    name = "llama_scope_r1_distill_sae_huggingface_loader"
    # it would centre nothing whatever the settings say, so the SAE given centres nothing
    flat = sae("jumprelu", centred=False)
    read.write(tmp_path / "L15R", flat, "llama_scope_r1")
    state = hub(name, tmp_path, "fnlp/Llama-Scope-R1-Distill", "L15R", device="cpu")
    agree(flat, x, of_saelens("jumprelu", state, x))


@pytest.mark.parametrize("case", ["relu", "jumprelu", "skip"])
def test_circuit_tracer(tmp_path, x, case) -> None:
    name = "circuit_tracer.transcoder.single_layer_transcoder"
    load = pytest.importorskip(name).load_relu_transcoder
    changes = {"W_skip": sae("relu").W_enc[:D]} if case == "skip" else {}
    ours = sae("relu" if case == "skip" else case, **changes)
    read.write(tmp_path, ours, "circuit_tracer")
    lazy = {"lazy_encoder": False, "lazy_decoder": False}
    path = str(tmp_path / "layer_0.safetensors")
    agree(ours, x, load(path, 0, device=torch.device("cpu"), **lazy)(x))


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scopes_in_circuit_tracer(tmp_path, x, skip) -> None:
    name = "circuit_tracer.transcoder.single_layer_transcoder"
    theirs, cpu = pytest.importorskip(name), torch.device("cpu")
    ours = sae("jumprelu", W_skip=sae("relu").W_enc[:D] if skip else None)
    read.write(tmp_path, ours, "gemma_scope_2")
    path = str(tmp_path / "params.safetensors")
    agree(ours, x, theirs.load_gemma_scope_2_transcoder(path, 0, device=cpu)(x))
    if not skip:
        path = str(tmp_path / "first" / "params.npz")
        read.write(tmp_path / "first", ours, "gemma_scope")
        agree(ours, x, theirs.load_gemma_scope_transcoder(path, 0, device=cpu)(x))
