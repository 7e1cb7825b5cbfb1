"""Texts as unit vectors."""

import json

import numpy as np
import pytest
import torch

from reseed.errors import ModelError, SpecError, SubjectError
from reseed.interpretation.models.embedding import HashedWords, SentenceModel, ServerEmbedder
from reseed.spec.llm import SentenceModelSpec, ServerEmbedderSpec


def test_words_are_unit_and_see_shared_words():
    rows = HashedWords().embed(["Months of the year", "the year's months", "dogs", "", "!?"])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    cosine = rows @ rows.T
    assert 0.6 < cosine[0, 1] < 0.95
    assert cosine[0, 2] == 0.0
    assert cosine[3, 4] == pytest.approx(1.0)  # texts without words are alike
    assert cosine[3, 0] == 0.0
    np.testing.assert_array_equal(
        rows,
        HashedWords().embed(["months OF the YEAR"] * 1 + ["the year's months", "dogs", "", "!?"]),
    )
    assert HashedWords().embed([]).shape == (0, 4096)
    assert HashedWords(64).name == "words-64"


def test_a_repeated_word_counts_less_each_time():
    rows = HashedWords().embed(["cat dog", "cat cat cat dog", "cat"])
    want = (1 + np.log(3)) / np.sqrt((1 + np.log(3)) ** 2 + 1)
    assert rows[1] @ rows[2] == pytest.approx(want, abs=1e-6)


# -- servers ---------------------------------------------------------------------------------------


@pytest.fixture
def embedder():
    opened = []

    def make(url, **settings):
        opened.append(ServerEmbedder(ServerEmbedderSpec(model="e", base_url=url, **settings)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def vectors(texts):
    rows = [{"index": i, "embedding": [len(t), 3.0, 0.0]} for i, t in enumerate(texts)]
    return {"data": rows[::-1]}  # servers need not keep the order


def test_a_server_in_batches(serve, embedder):
    server = serve(lambda texts, _: vectors(texts))
    rows = embedder(server.url, batch=2).embed(["abcd", "", "a" * 4])
    np.testing.assert_allclose(rows[[0, 2]], [[0.8, 0.6, 0.0]] * 2)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert server.questions == [["abcd", " "], ["aaaa"]]
    assert embedder(server.url).embed([]).shape[0] == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"data": []}, "vectors for 2 texts"),
        ({"data": [{"index": 0, "embedding": [1.0]}] * 2}, "vectors for 2 texts"),
        ({"data": [{"index": 0}]}, "cannot be read"),
        ({"vectors": []}, "cannot be read"),
        ((400, {}, b"no such input"), "no such input"),
    ],
)
def test_bad_answers_of_a_server(serve, embedder, answer, words):
    server = serve(lambda *_: answer)
    with pytest.raises(ModelError, match=words):
        embedder(server.url).embed(["a", "b"])


def test_vectors_without_direction_are_refused(serve, embedder):
    server = serve(lambda *_: {"data": [{"index": 0, "embedding": [0.0, 0.0]}]})
    with pytest.raises(SubjectError, match="text 0 is zero"):
        embedder(server.url).embed(["a"])


# -- sentence models -------------------------------------------------------------------------------

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_bert(folder, pooling=None, longest=None):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIALS + WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(SPECIALS + WORDS)}, "[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    if longest:
        path = folder / "sentence_bert_config.json"
        path.write_text(json.dumps({"max_seq_length": longest}))


def states(folder, text):
    from transformers import BertModel

    ids = [2, *[(SPECIALS + WORDS).index(w) for w in text.split()], 3]
    with torch.inference_mode():
        model = BertModel.from_pretrained(folder).eval()
        return model(torch.tensor([ids])).last_hidden_state[0].double().numpy()


TEXTS = ["the cat sat on a mat", "dog", "a dog ran", "the mat"]


@pytest.mark.parametrize("pooling", [None, "pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_pooling_by_hand(tmp_path, pooling):
    save_bert(tmp_path, pooling)
    model = SentenceModel(SentenceModelSpec(kind="local", model=str(tmp_path), batch=3))
    rows = model.embed(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        found = states(tmp_path, text)
        want = found[0] if pooling == "pooling_mode_cls_token" else found.mean(0)
        np.testing.assert_allclose(row, want / np.linalg.norm(want), atol=1e-5)
    assert model.embed([]).shape == (0, 16)
    assert model.name == str(tmp_path)


def test_long_texts_are_cut_where_the_folder_says(tmp_path):
    save_bert(tmp_path, longest=4)
    model = SentenceModel(SentenceModelSpec(kind="local", model=str(tmp_path)))
    long, short = model.embed(["the cat sat on a mat", "the cat"])
    np.testing.assert_allclose(long, short, atol=1e-6)


def test_other_ways_of_pooling_are_refused(tmp_path):
    save_bert(tmp_path, "pooling_mode_max_tokens")
    with pytest.raises(SpecError, match="pooling_mode_max_tokens; only mean and CLS"):
        SentenceModel(SentenceModelSpec(kind="local", model=str(tmp_path)))
