import shutil

import pytest
import torch

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.model import load_language_model, load_tokenizer


def load(folder, *sites, **more):
    return load_language_model(LanguageModelSpec(model=str(folder), **more), sites)


def ids(batch=2, length=6):
    return torch.randint(4, 20, (batch, length), generator=torch.Generator().manual_seed(0))


def test_residual_is_what_transformers_calls_hidden_state(tiny_folder):
    from transformers import AutoModelForCausalLM

    model = load(tiny_folder, "layers.1", "layers.1.mlp", "layers.2:in")
    assert model.sites == ["layers.1", "layers.1.mlp", "layers.2:in"]
    got = model.forward(ids())
    whole = AutoModelForCausalLM.from_pretrained(tiny_folder)
    states = whole(ids(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(got["layers.1"], states[2], rtol=1e-5, atol=1e-6)
    assert torch.equal(got["layers.2:in"], got["layers.1"])


def test_later_layers_and_the_head_never_run(tiny_folder):
    model = load(tiny_folder, "layers.*.mlp:in", "layers.1")
    model.sites = model.sites[:3]
    ran = []
    for i, layer in enumerate(model.body.layers):
        layer.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    model.forward(ids())
    assert ran == [0, 1]
    assert not hasattr(model.body, "lm_head")
    # A pass that was stopped leaves a model that works.
    assert model.body(ids()).past_key_values is None


def test_padding_does_not_change_what_stands_before_it(tiny_folder):
    model = load(tiny_folder, "layers.3")
    long = ids()
    attention = torch.ones_like(long)
    attention[:, 4:] = 0
    got = model.forward(long, attention)["layers.3"][:, :4]
    torch.testing.assert_close(got, model.forward(long[:, :4])["layers.3"])


def test_half_precision_is_handed_on_in_float32(tiny_folder):
    model = load(tiny_folder, "layers.0", dtype="bfloat16")
    assert next(model.body.parameters()).dtype == torch.bfloat16
    assert model.forward(ids())["layers.0"].dtype == torch.float32


def test_wrong_requests_teach(tiny_folder, tmp_path):
    with pytest.raises(SpecError, match=r"did you mean 'layers\.3\.mlp'"):
        load(tiny_folder, "layers.3.mpl")
    with pytest.raises(SpecError, match="block = 33 .* at most 32"):
        load(tiny_folder, "layers.0").forward(ids(1, 33))
    with pytest.raises(SubjectError, match="vector of floats for each token"):
        load(tiny_folder, "rotary_emb").forward(ids())
    for name in [str(tmp_path / "missing"), "./missing"]:
        with pytest.raises(SubjectError, match="not there"):
            load(name, "layers.0")
    with pytest.raises(SubjectError, match="HF_HUB_OFFLINE is set"):
        load("nobody/has-this", "layers.0")


def test_incomplete_weights_are_refused(tiny_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SubjectError, match=r"1 weights are missing.*layers\.2\.mlp\.up_proj"):
        load(folder, "layers.0")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(SubjectError, match="cannot be loaded"):
        load(folder, "layers.0")


def test_loading_is_silent(tiny_folder, capfd):
    load(tiny_folder, "layers.0")
    assert capfd.readouterr() == ("", "")


def test_tokenizer_adds_nothing(tiny_folder):
    tokenizer = load_tokenizer(LanguageModelSpec(model=str(tiny_folder)))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 2, 3)
    assert tokenizer.encode(["the cat", "", "cat zebra"]) == [[4, 5], [], [5, 0]]
    assert tokenizer.pieces([4, 2]) == ["the", "</s>"]


def test_tokenizer_digest_follows_what_decides_the_ids(tiny_folder, tmp_path, save_tokenizer):
    save_tokenizer(tmp_path / "same")
    save_tokenizer(tmp_path / "other", eos_token="<s>")
    digests = [
        load_tokenizer(LanguageModelSpec(model=str(folder))).digest
        for folder in (tiny_folder, tmp_path / "same", tmp_path / "other")
    ]
    assert digests[0] == digests[1] != digests[2]
