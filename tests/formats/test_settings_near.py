"""Every array and setting that a reconstruction depends on is used, or refused by its name."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import reseed
from reseed.errors import ReseedError, SpecError, StoreError
from reseed.formats import read
from reseed.formats.settings_near import kind_of

D, F = 6, 12


def matrices(encoder=(D, F), decoder=(F, D)):
    return {
        "W_enc": torch.randn(encoder),
        "W_dec": torch.randn(decoder),
        "b_enc": torch.zeros(F),
        "b_dec": torch.zeros(D),
    }


def linear(decoder_bias="decoder.bias", **more):
    return {
        "encoder.weight": torch.randn(F, D),
        "encoder.bias": torch.zeros(F),
        "decoder.weight": torch.randn(D, F),
        decoder_bias: torch.zeros(D),
        **more,
    }


def put(folder, name, arrays, settings=None, settings_name="config.json"):
    folder.mkdir(exist_ok=True)
    save = save_file if name.endswith(".safetensors") else torch.save
    save(arrays, folder / name)
    if settings is not None:
        text = settings if isinstance(settings, str) else json.dumps(settings)
        (folder / settings_name).write_text(text)
    return folder


SAELENS = {
    "d_in": D, "d_sae": F, "dtype": "float32", "apply_b_dec_to_input": True,
    "normalize_activations": "none", "metadata": {"sae_lens_version": "6.0.0"},
}  # fmt: skip
TOPK = {"trainer": {"dict_class": "AutoEncoderTopK", "k": 3, "activation_dim": D, "dict_size": F}}
OPENAI = {
    "pre_bias": torch.zeros(D), "encoder.weight": torch.randn(F, D), "latent_bias": torch.zeros(F),
    "decoder.weight": torch.randn(D, F), "activation": "ReLU", "activation_state_dict": {},
}  # fmt: skip

LEFT_OUT = {
    "saelens, threshold beside standard": (
        "sae_weights.safetensors", matrices() | {"threshold": torch.rand(F)},
        SAELENS | {"architecture": "standard"}, "cfg.json", "also holds threshold",
    ),
    "saelens, gates beside topk": (
        "sae_weights.safetensors", matrices() | {"r_mag": torch.rand(F)},
        SAELENS | {"architecture": "topk", "k": 3}, "cfg.json", "also holds r_mag",
    ),
    "saelens, another activation": (
        "sae_weights.safetensors", matrices(),
        SAELENS | {"architecture": "standard", "activation_fn": "topk"}, "cfg.json",
        "activation_fn is topk",
    ),
    "llama_scope, a bias that the settings deny": (
        "sae_weights.safetensors", linear(),
        {"d_model": D, "act_fn": "relu", "norm_activation": "none", "use_decoder_bias": False},
        "hyperparams.json", "use_decoder_bias",
    ),
    "sparsify, skip without skip_connection": (
        "sae.safetensors",
        {"encoder.weight": torch.randn(F, D), "encoder.bias": torch.zeros(F),
         "W_dec": torch.randn(F, D), "b_dec": torch.zeros(D), "W_skip": torch.randn(D, D)},
        {"d_in": D, "k": 3, "num_latents": F, "transcode": True}, "cfg.json", "also holds W_skip",
    ),
    "batchtopk, a threshold beside vanilla": (
        "sae.pt", matrices() | {"jumprelu.log_threshold": torch.zeros(F)},
        {"sae_type": "vanilla", "act_size": D, "dict_size": F}, "config.json", "log_threshold",
    ),
    "llamascopium, thresholds beside relu": (
        "sae_weights.safetensors",
        {"W_E": torch.randn(D, F), "b_E": torch.zeros(F), "W_D": torch.randn(F, D),
         "b_D": torch.zeros(D), "activation_function.log_jumprelu_threshold": torch.zeros(F)},
        {"sae_type": "sae", "d_model": D, "act_fn": "relu", "expansion_factor": 2,
         "norm_activation": "inference"}, "config.json", "log_jumprelu_threshold",
    ),
    "reseed, an array of another kind": (
        "sae.safetensors", matrices((F, D)) | {"scale": torch.ones(F)},
        {"format": "reseed", "version": 1, "activation": {"kind": "relu"}, "centred": True,
         "about": {}}, "cfg.json", "also holds scale",
    ),
    "gemma_scope_2, a skip that the settings deny": (
        "params.safetensors",
        {"w_enc": torch.randn(D, F), "w_dec": torch.randn(F, D), "b_enc": torch.zeros(F),
         "b_dec": torch.zeros(D), "threshold": torch.ones(F),
         "affine_skip_connection": torch.randn(D, D)},
        {"architecture": "jump_relu", "affine_connection": False}, "config.json",
        "affine_skip_connection",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_arrays_that_settings_do_not_use_are_named(tmp_path, case) -> None:
    name, arrays, settings, settings_name, word = LEFT_OUT[case]
    put(tmp_path, name, arrays, settings, settings_name)
    with pytest.raises(SpecError, match=word):
        read.read(tmp_path)


OTHERWISE = {
    "two linear layers, class of another": ("ae.pt", linear(), TOPK),
    "AutoEncoder, class of another": ("ae.pt", linear("bias"), TOPK),
    "AutoEncoderNew, k without a class": ("ae.pt", linear("bias"), {"k": 3}),
    "topk, settings of another k": (
        "ae.pt", linear("b_dec", k=torch.tensor(4), threshold=torch.tensor(-1.0)), TOPK,
    ),
    "goodfire, topk": (
        "sae.pt",
        {"encoder_linear.weight": torch.randn(F, D), "encoder_linear.bias": torch.zeros(F),
         "decoder_linear.weight": torch.randn(D, F), "decoder_linear.bias": torch.zeros(D)},
        {"sae": {"activation_fn": "topk", "top_k": 3}},
    ),
    "circuit_tracer, gated": (
        "layer_0.safetensors", matrices((F, D)), {"architecture": "gated"},
    ),
    "e2e_sae, topk": (
        "samples_1.pt",
        {"p.encoder.0.weight": torch.randn(F, D), "p.encoder.0.bias": torch.zeros(F),
         "p.decoder.weight": torch.randn(D, F), "p.decoder.bias": torch.zeros(D)},
        {"activation": "TopK"},
    ),
    "openai, topk": ("0.pt", OPENAI, {"activation": "topk", "k": 3}),
    "qwen_scope, relu": ("layer0.sae.pt", matrices((F, D), (D, F)), {"type": "vanilla"}),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERWISE)
def test_settings_that_say_another_rule_are_named(tmp_path, case) -> None:
    name, arrays, settings = OTHERWISE[case]
    beside = "config.json" if name == "ae.pt" else f"{name.partition('.')[0]}.json"
    folder = put(tmp_path / "SAE-L0_3", name, arrays, settings, beside)
    with pytest.raises(SpecError, match="settings beside it say otherwise"):
        read.read(folder / name)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_transcoder_whose_settings_say_topk_is_one(tmp_path, ending) -> None:
    arrays = matrices((F, D))
    text = '{"activation": "topk", "k": 3}' if ending == "json" else "activation: topk\nk: 3  # few"
    put(tmp_path, "layer_0.safetensors", arrays, text, f"config.{ending}")
    sae = reseed.load(tmp_path)
    assert sae.activation == {"kind": "topk", "k": 3}
    x = torch.randn(20, D)
    pre = torch.relu(x @ arrays["W_enc"].T)
    values, places = pre.topk(3, dim=1)
    right = torch.zeros_like(pre).scatter_(1, places, values) @ arrays["W_dec"]
    torch.testing.assert_close(sae.reconstruct(x), right, atol=1e-5, rtol=0)


def test_topk_of_before_k_was_among_the_tensors(tmp_path) -> None:
    put(tmp_path, "ae.pt", linear("b_dec"), TOPK)
    assert reseed.load(tmp_path).activation == {"kind": "topk", "k": 3}
    (tmp_path / "config.json").unlink()
    with pytest.raises(SpecError, match="AutoEncoderTopK"):
        read.read(tmp_path)
    with pytest.raises(StoreError, match="k is not one"):
        read.read(tmp_path, dict_class="AutoEncoderTopK")


def test_sizes_of_another_sae_are_named(tmp_path) -> None:
    changed = {"trainer": TOPK["trainer"] | {"dict_size": 24}}
    put(tmp_path, "ae.pt", linear("b_dec"), changed)
    with pytest.raises(StoreError, match="dict_size = 24"):
        read.read(tmp_path)


def test_a_batchtopk_threshold_that_is_there_is_used(tmp_path) -> None:
    settings = {"sae_type": "batchtopk", "act_size": D, "dict_size": F, "top_k": 3}
    put(tmp_path, "sae.pt", matrices() | {"threshold": torch.tensor(0.3)}, settings)
    sae = reseed.load(tmp_path)
    assert sae.activation == {"kind": "jumprelu"}
    np.testing.assert_allclose(sae.threshold, 0.3)
    assert sae.about["warnings"] == []
    put(tmp_path, "sae.pt", matrices() | {"threshold": torch.tensor(0.0)}, settings)
    sae = reseed.load(tmp_path)
    assert sae.activation == {"kind": "batchtopk", "k": 3}
    assert "threshold of 0" in sae.about["warnings"][0]


def test_four_common_names_are_nobodys(tmp_path) -> None:
    """Named like Qwen Scope's or a transcoder's arrays, in a file of any name."""
    torch.save(matrices((F, D), (D, F)), tmp_path / "sae.pt")
    save_file(matrices((F, D)), tmp_path / "mine.safetensors")
    for name in ("sae.pt", "mine.safetensors"):
        assert read.recognise(tmp_path / name) == ["home_made"]
        with pytest.raises(SpecError, match=r"W_enc \[12, 6\].*not said in it") as caught:
            read.read(tmp_path / name)
        assert "Qwen" not in str(caught.value)


def test_two_linear_layers_without_settings_are_warned_of(tmp_path) -> None:
    torch.save(linear(), tmp_path / "ae.pt")
    assert "any two linear layers" in " ".join(reseed.load(tmp_path).about["warnings"])


def test_settings_of_a_language_model_beside_are_passed_over(tmp_path) -> None:
    model = {"architectures": ["GPT2"], "vocab_size": 9, "activation_function": "gelu", "k": 7}
    put(tmp_path, "ae.pt", linear("bias"), model)
    assert read.read(tmp_path).activation == {"kind": "relu"}


def test_settings_that_are_cut_are_named(tmp_path) -> None:
    put(tmp_path, "layer_0.safetensors", matrices((F, D)), '{"activation": "to')
    with pytest.raises(StoreError, match=r"config\.json is no JSON"):
        read.read(tmp_path)
    (tmp_path / "config.json").unlink()
    for content in (b"\xff\xfe\x00activation: topk", b"k: 3\n" * 300_000):
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(StoreError, match=r"config\.yaml is no YAML"):
            read.read(tmp_path)


def test_what_settings_say_of_the_model_is_kept_and_warned_of(tmp_path) -> None:
    more = {"model_name": "gpt2-small", "hook_name": "blocks.6.hook_resid_pre",
            "prepend_bos": False, "context_size": 128,
            "model_from_pretrained_kwargs": {"center_writing_weights": True}}  # fmt: skip
    settings = SAELENS | {"architecture": "topk", "k": 3, "metadata": SAELENS["metadata"] | more}
    put(tmp_path / "a", "sae_weights.safetensors", matrices(), settings, "cfg.json")
    sae = reseed.load(tmp_path / "a")
    assert sae.about["center_writing_weights"] is True
    assert (sae.about["prepend_bos"], sae.about["context_size"]) == (False, 128)
    assert "centred" in " ".join(sae.about["warnings"])
    reseed.save(sae, tmp_path / "b", format="saelens")
    again = reseed.load(tmp_path / "b").about
    assert again["center_writing_weights"] is True
    assert again["site"] == "blocks.5.hook_resid_post"
    x = np.random.default_rng(0).normal(size=(200, D)).astype(np.float32)
    warned = " ".join(reseed.compare(tmp_path / "a", sae.arrays(), activations=x).warnings)
    assert "here models are read as they were published" in warned
    assert "without a token at the beginning" in warned


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("AutoEncoderTopK", "topk"), ("MatryoshkaBatchTopKTrainer", "batchtopk"),
        ("jump_relu", "jumprelu"), ("torch.nn.ReLU", None), ("relu", "relu"), ("gelu", "gelu"),
        ("StandardTrainerAprilUpdate", "relu"), ("GatedAutoEncoder", "gated"), ("gpt2", None),
    ],
)  # fmt: skip
def test_words_for_rules(word, kind) -> None:
    assert kind_of(word) == kind


def test_settings_that_contradict_each_other_are_named(tmp_path) -> None:
    both = {"sae": {"architecture": "topk", "k": 3}, "old": {"architecture": "gated"}}
    put(tmp_path, "layer_0.safetensors", matrices((F, D)), both)
    with pytest.raises(ReseedError, match=r"several things.*sae\.architecture.*old\.architecture"):
        read.read(tmp_path)
