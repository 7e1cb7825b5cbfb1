"""Tiny random language models of the families whose structures are known, and a study of one."""

import json

import numpy as np
import pytest
import torch
import transformers as tf

SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 6}
TWO = {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 24}
FAMILIES = {
    "GPT2": ("GPT2", {**TWO, "bos_token_id": 0, "eos_token_id": 0}),
    "GPTNeoX": ("GPTNeoX", SMALL),
    "OPT": ("OPT", {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16, "pad_token_id": 1}),
    "Phi": ("Phi", SMALL),
    "Llama": ("Llama", GROUPED),
    "Mistral": ("Mistral", GROUPED),
    "Gemma": ("Gemma", GROUPED),
    "Gemma2": ("Gemma2", {**GROUPED, "query_pre_attn_scalar": 6}),
    "Gemma3": ("Gemma3Text", {**GROUPED, "query_pre_attn_scalar": 6}),
    "Qwen2": ("Qwen2", {k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "Qwen3": ("Qwen3", GROUPED),
}


def body_of(family, options):
    torch.manual_seed(0)
    config = getattr(tf, f"{family}Config")(**options)
    model = getattr(tf, f"{family}Model")(config)
    for name, value in model.named_parameters():  # biases begin as 0, matrices small
        torch.manual_seed(len(name))
        value.data += 0.3 * torch.randn_like(value)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_body():
    """The body of a tiny random model of a family."""
    return lambda family: body_of(*FAMILIES[family])


WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "blue"]


@pytest.fixture
def language_study(tmp_path, tiny_folder, write_study):
    """A function that gives a study of the tiny llama on random words, with these variants."""
    import reseed

    words = np.random.default_rng(0).choice(WORDS, 2400).tolist()
    texts = [" ".join(words[first : first + 30]) for first in range(0, 2400, 30)]
    (tmp_path / "text.json").write_text(json.dumps(texts))

    def make(variants, **changes):
        tables = {
            "subject": {"kind": "language_model", "model": str(tiny_folder), "batch_blocks": 4},
            "text": {"source": str(tmp_path / "text.json"), "block": 16},
            "activations": {"sites": ["layers.2", "layers.3.mlp"]},
            "variant": variants,
        }
        return reseed.Study.load(write_study(**{**tables, **changes}))

    return make
