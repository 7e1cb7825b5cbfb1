import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

_TEXT = "the cat sat on a mat dog ran far away red blue green one two three"
WORDS = _TEXT.split()
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


def save(folder, **roles):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(SPECIALS + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)


ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random llama with 4 layers and a tokenizer of 20 words, as a folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIALS + WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save(folder, **ROLES)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder instead of the user's."""
    monkeypatch.setenv("RESEED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def save_tokenizer():
    """Saves the tokenizer of 20 words into a folder; roles may be changed."""
    return lambda folder, **roles: save(folder, **{**ROLES, **roles})
