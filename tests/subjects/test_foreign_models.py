"""Models that are no causal language models, and folders with faults."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as tf

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.spec.subject import LanguageModelSpec, TextSpec
from reseed.store import Store
from reseed.subjects.language.activations import TextSource
from reseed.subjects.language.blocks import TokenBlocks, make_tokens
from reseed.subjects.language.loading import skeleton
from reseed.subjects.language.model import load_causal, load_language_model
from reseed.subjects.language.tokenizer import Tokenizer
from reseed.subjects.sites import list_sites
from reseed.subjects.subject import known_sites

SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
VIT = {**SMALL, "image_size": 16, "patch_size": 8}


@pytest.fixture
def saved(tmp_path, save_tokenizer):
    """Saves a random model of a family with the tokenizer of 20 words."""

    def save(head, config, **options):
        folder = tmp_path / config
        torch.manual_seed(0)
        getattr(tf, head)(getattr(tf, config)(**options)).save_pretrained(folder)
        save_tokenizer(folder)
        return folder

    return save


def load(folder, *sites):
    return load_language_model(LanguageModelSpec(model=str(folder)), sites)


def test_of_encoder_and_decoder_only_the_encoder_is_read(saved):
    folder = saved("T5ForConditionalGeneration", "T5Config", decoder_start_token_id=0, **T5)
    ids = torch.full((2, 7), 5)
    assert load(folder, "encoder.block.1").forward(ids)["encoder.block.1"].shape == (2, 7, 16)
    with pytest.raises(SubjectError, match=r"choose a site of the encoder.*decoder_input_ids"):
        load(folder, "decoder.block.1").forward(ids)


def test_what_reads_no_text_is_refused(saved):
    options = {k: v for k, v in VIT.items() if k != "vocab_size"}
    folder = saved("ViTModel", "ViTConfig", **options)
    with pytest.raises(SubjectError, match=r"ViTModel\) reads pixel_values, not text.*'module'"):
        load(folder, "layers.1")


def test_positions_that_begin_behind_padding(saved):
    options = {**SMALL, "max_position_embeddings": 12, "pad_token_id": 1, "type_vocab_size": 1}
    model = load(saved("RobertaForMaskedLM", "RobertaConfig", **options), "encoder.layer.1")
    assert model.context == 10
    model.forward(torch.full((1, 10), 5))
    with pytest.raises(SpecError, match="block = 11 tokens, .* at most 10"):
        model.check_block(11)


def test_what_sees_the_next_token_does_not_predict_it(saved, tiny_folder):
    folder = saved("BertForMaskedLM", "BertConfig", **SMALL)
    spec = LanguageModelSpec(model=str(folder))
    load(folder, "encoder.layer.0")  # its activations can be read
    with pytest.raises(SubjectError, match="sees the tokens that follow"):
        load_causal(spec)
    with pytest.raises(SubjectError, match="sees the tokens that follow"):
        load(folder, "encoder.layer.0").check_causal()
    load(tiny_folder, "layers.0").check_causal()
    load_causal(LanguageModelSpec(model=str(tiny_folder)))


@pytest.fixture
def small_embedding(tiny_folder, tmp_path):
    """The tiny llama without the last ids of its tokenizer: `<pad>` moves there in the copy."""

    def make(ids, **roles):
        folder = tmp_path / "cut"
        shutil.copytree(tiny_folder, folder)
        tf.LlamaForCausalLM(
            tf.LlamaConfig(**{**SMALL, "vocab_size": ids, "max_position_embeddings": 32})
        ).save_pretrained(folder)
        tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens(roles)
        tokenizer.save_pretrained(folder)
        return load(folder, "layers.1")

    return make


def blocks(tmp_path, tokenizer, texts, **spec):
    (tmp_path / "t.json").write_text(json.dumps(texts))
    store = Store(tmp_path / "study")
    text = TextSpec(source=str(tmp_path / "t.json"), **spec)
    make_tokens(text, tokenizer, len(texts) * spec["block"], store, "t", "x", Events())
    return TokenBlocks.open(store, "t")


def test_padding_beyond_the_embedding_is_never_read(small_embedding, tmp_path):
    model = small_embedding(20, pad_token="[PAD]")
    assert model.tokenizer.pad is None
    text = blocks(
        tmp_path, model.tokenizer, ["the"] * 3, block=4, layout="padded", bos=False, exclude=[]
    )
    for padded in (False, True):
        rows = TextSource(model, text, 2, padded=padded).read([0, 1, 2])["layers.1"]
        assert rows.shape == (3, 16)


def test_ids_beyond_the_embedding_are_named(small_embedding, tmp_path):
    model = small_embedding(10)
    texts = ["the cat", "one two three"]
    with pytest.raises(SubjectError, match=r"t\.json:1: token id .* 0 to 9.*resize_token"):
        blocks(tmp_path, model.tokenizer, texts, block=3)


def change(folder, file, **values):
    content = json.loads((folder / file).read_text())
    for key, value in values.items():
        content.pop(key) if value is None else content.update({key: value})
    (folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "fault", ["heads", "model_type", "tokenizer", "outside", "odd listing", "pickle", "config"]
)
def test_faults_of_a_folder_are_refused(tiny_folder, tmp_path, fault):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder, folder)
    says = "cannot be loaded"
    if fault == "heads":
        change(folder, "config.json", num_attention_heads=0)
    elif fault == "model_type":
        change(folder, "config.json", model_type=["llama"])
    elif fault == "tokenizer":
        change(folder, "tokenizer.json", model=None)
    elif fault == "config":
        (folder / "config.json").write_text("[]")
    elif fault == "pickle":
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(
            b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq."
        )
    else:
        there = {"weight_map": {"a": "../../etc/passwd"}} if fault == "outside" else [1]
        (folder / "model.safetensors.index.json").write_text(json.dumps(there))
        says = "no file of its own folder" if fault == "outside" else "no list of weights"
    with pytest.raises(SubjectError, match=says):
        load(folder, "layers.0")


def test_sites_are_named_without_weights(tiny_folder, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_folder, folder)
    spec = LanguageModelSpec(model=str(folder))
    full = list_sites(load(folder, "layers.0").body)
    (folder / "model.safetensors").unlink()
    lines = []
    assert known_sites(spec, "**", lines.append) == full
    assert known_sites(spec, "layers.*.mlp") == [f"layers.{i}.mlp" for i in range(4)]
    assert lines == [f"opening {folder}"]
    assert all(p.is_meta for p in skeleton(spec).parameters())
    # a wrong site is refused before weights are missed
    with pytest.raises(SpecError, match="no such module"):
        load(folder, "layers.9.mlp")


def test_a_wrong_text_is_refused_before_the_model_is_opened(tmp_path):
    from reseed.subjects.subject import open_subject

    spec = LanguageModelSpec(model=str(tmp_path / "no model"))
    text = TextSpec(source=str(tmp_path / "missing.txt"), block=4)
    with pytest.raises(SubjectError, match=r"missing\.txt'?: no such file"):
        open_subject(spec, text, ["layers.0"], 8, Store(tmp_path / "study"), Events())
    np.testing.assert_array_equal(list(tmp_path.iterdir()), [])


def test_residues_of_a_protein_are_tokens(tmp_path):
    """The tokenizer of ESM keeps them beside its special tokens, which are ordinary text here."""
    (tmp_path / "vocab.txt").write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", *"LAGV"]))
    wrapped = tf.EsmTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer = Tokenizer.of(wrapped, "esm")
    assert tokenizer.encode(["LAGVLA", "V L"]) == [[4, 5, 6, 7, 4, 5], [7, 4]]
    assert tokenizer.encode(["LA"]) == tokenizer.encode(["LA"], parse=True)
