"""Text that is tokenised already, special tokens in a text, and texts that are long."""

import json

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from reseed.errors import SpecError, SubjectError
from reseed.events import Events
from reseed.spec.subject import TextSpec
from reseed.store import Store
from reseed.subjects.language import ids as module
from reseed.subjects.language.blocks import TokenBlocks, make_tokens
from reseed.subjects.language.documents import Document, read_documents
from reseed.subjects.language.ids import ids_of
from reseed.subjects.language.tokenizer import Tokenizer

BOS, EOS = 1, 2
DOCUMENTS = [[1, 10, 11, 12], [20, 21, 2, 22], [30, 31, 32, 33]]


def spelled(texts):
    return [[int(word) for word in text.split()] for text in texts]


@pytest.fixture
def blocks(tmp_path):
    """Blocks of a source, of a model with 40 ids."""
    tokenizer = Tokenizer("small", "0", BOS, EOS, None, spelled, str, vocabulary=40)

    def make(source, tokens, **spec):
        store = Store(tmp_path / "study")
        text = TextSpec(source=str(source), block=5, **spec)
        make_tokens(text, tokenizer, tokens, store, "text", "x", Events())
        return TokenBlocks.open(store, "text")

    return make


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "npy", "safetensors"])
def test_ids_are_taken_as_they_are(tmp_path, blocks, kind):
    path, records = tmp_path / f"ids.{kind}", [{"input_ids": ids} for ids in DOCUMENTS]
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    elif kind == "json":
        path.write_text(json.dumps(records))
    elif kind == "parquet":
        pl.DataFrame(records).write_parquet(path)
    elif kind == "npy":
        np.save(path, np.array(DOCUMENTS, np.uint16))
    else:
        save_file({"input_ids": np.array(DOCUMENTS)}, path)
    b = blocks(path, 15, ids=None if kind == "npy" else "input_ids")
    order = [int(origin.split(":")[1]) - (kind == "jsonl") for origin in b.documents["origin"]]
    texts = [[i for i in DOCUMENTS[n] if i != BOS] for n in order]
    flat = b.ids[:, 1:].ravel().tolist()
    assert flat == [*texts[0], EOS, *texts[1], EOS, *texts[2]][:12]
    assert BOS not in flat  # the document's own is left out, blocks have theirs
    assert set(b.ids[:, 0].tolist()) == {BOS}
    assert not b.keep[np.isin(b.ids, [BOS, EOS])].any()  # the EOS inside a document neither


def test_one_long_array_is_one_document(tmp_path, blocks):
    np.save(tmp_path / "a.npy", np.arange(10, 35))
    b = blocks(tmp_path / "a.npy", 20)
    assert b.ids[:, 1:].ravel().tolist() == list(range(10, 26))
    assert b.documents["origin"].to_list() == ["a.npy:0"]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([10, 40], r"ids\.jsonl:1: token id 40, but small has ids 0 to 39"),
        ([-1, 10], "token id -1"),
        ([1.5, 2.0], "holds float64"),
        ([True, False], "holds bool"),
        ("a text", "whole numbers"),
        ([[1], [2]], r"\[2, 1\]"),
    ],
)
def test_what_is_no_id_is_refused(tmp_path, blocks, ids, says):
    (tmp_path / "ids.jsonl").write_text(json.dumps({"i": ids}))
    with pytest.raises(SubjectError, match=says):
        blocks(tmp_path / "ids.jsonl", 5, ids="i")


def test_arrays_that_hold_no_ids_are_refused(tmp_path, blocks):
    np.save(tmp_path / "f.npy", np.zeros((4, 4)))
    with pytest.raises(SubjectError, match="holds float64"):
        blocks(tmp_path / "f.npy", 5)
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2), int))
    with pytest.raises(SubjectError, match=r"\[2, 2, 2\]"):
        blocks(tmp_path / "deep.npy", 5)
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(SubjectError, match="no array of token ids"):
        blocks(tmp_path / "o.npy", 5)
    save_file({"a": np.zeros((2, 2), int)}, tmp_path / "s.safetensors")
    with pytest.raises(SpecError, match="no array 'b'"):
        blocks(tmp_path / "s.safetensors", 5, ids="b")
    with pytest.raises(SpecError, match=r"text\.ids"):
        blocks(tmp_path / "s.safetensors", 5)


def test_ids_of_text_are_checked_too(tmp_path, blocks):
    (tmp_path / "t.txt").write_text("10 11 99 12")
    with pytest.raises(SubjectError, match=r"t\.txt: token id 99.*resize_token_embeddings"):
        blocks(tmp_path / "t.txt", 5)


def words(texts):
    return [[len(word) for word in text.split()] for text in texts]


def test_long_texts_are_cut_between_words(monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 50)
    sizes = []

    def encode(texts):
        sizes.extend(map(len, texts))
        return words(texts)

    text = " ".join("x" * (1 + i % 9) for i in range(400))
    tokenizer = Tokenizer("words", "0", None, EOS, None, encode, str)
    spec = TextSpec(source="t", bos=False)
    documents = [Document("a b", None, "a"), Document(text, None, "t"), Document("c", None, "c")]
    got = list(ids_of(documents, spec, tokenizer, 10**6))
    assert [d.origin for d, _ in got] == ["a", "t", "c"]
    assert [ids.tolist() for _, ids in got] == words(["a b", text, "c"])
    assert max(sizes) <= 50
    sizes.clear()
    assert [len(ids) for _, ids in ids_of(documents[1:2], spec, tokenizer, 30)] == [30]
    assert sum(sizes) < 300  # the rest of a long text is not read
    blankless = Document("y" * 120, None, "y")
    assert [ids.tolist() for _, ids in ids_of([blankless], spec, tokenizer, 99)] == [[50, 50, 20]]


@pytest.fixture(scope="module")
def chat_tokenizer():
    tf = pytest.importorskip("transformers")
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat"], trainer)
    wrapped = tf.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    wrapped.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    )
    return wrapped


def test_special_tokens_are_text_or_parsed(chat_tokenizer):
    tokenizer = Tokenizer.of(chat_tokenizer, "chat")
    text = ["<|im_start|>the cat<end>"]
    as_text, parsed = tokenizer.encode(text)[0], tokenizer.encode(text, parse=True)[0]
    assert not {0, 1, 2} & set(as_text)
    assert parsed[0] == 1
    assert parsed[-1] == 0
    assert tokenizer.encode(text)[0] == as_text  # asking for one does not change the other
    assert "".join(tokenizer.pieces(as_text)) == "".join(tokenizer.pieces(parsed)) == text[0]


def test_slow_tokenizers_do_the_same():
    tf = pytest.importorskip("transformers")
    wrapped = tf.ByT5Tokenizer()
    tokenizer = Tokenizer.of(wrapped, "bytes")
    assert wrapped.eos_token_id not in tokenizer.encode(["a </s> b"])[0]
    assert wrapped.eos_token_id in tokenizer.encode(["a </s> b"], parse=True)[0]


def test_messages_go_through_the_chat_template(tmp_path, chat_tokenizer):
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    (tmp_path / "chat.jsonl").write_text((json.dumps({"text": messages}) + "\n") * 4)
    tokenizer, store = Tokenizer.of(chat_tokenizer, "chat"), Store(tmp_path / "study")
    spec = TextSpec(source=str(tmp_path / "chat.jsonl"), block=8, special_tokens="parse")
    make_tokens(spec, tokenizer, 32, store, "text", "x", Events())
    b = TokenBlocks.open(store, "text")
    text = "".join(tokenizer.pieces(b.ids[b.document == 0].tolist()))
    assert text == "<|im_start|>user\nthe cat<|im_end|><|im_start|>assistant\nsat<|im_end|>"
    assert b.keep[b.ids == 1].all()  # they are what is studied; only BOS and EOS are left out
    bare = Tokenizer("bare", "0", None, EOS, None, words, str)
    with pytest.raises(SubjectError, match="chat template of bare.*it has none"):
        make_tokens(spec, bare, 32, store, "text", "y", Events())


def test_padding_of_ids_is_no_text(tmp_path):
    tokenizer = Tokenizer("padded", "0", None, EOS, 3, spelled, str, vocabulary=40)
    spec = TextSpec(source="a.npy", bos=False)
    rows = [[3, 3, 10, 11], [12, 3, 13, 3], [3, 3, 3, 3]]
    documents = [Document("", None, str(n), np.array(row)) for n, row in enumerate(rows)]
    assert [ids.tolist() for _, ids in ids_of(documents, spec, tokenizer, 99)] == [
        [10, 11],
        [12, 3, 13],
    ]
    (tmp_path / "m.jsonl").write_text(
        '{"i": [10, 11, 12], "attention_mask": [0, 1, 1]}\n{"i": [10], "attention_mask": [1, 1]}'
    )
    read = read_documents(TextSpec(source=str(tmp_path / "m.jsonl"), ids="i"))
    assert next(read).ids.tolist() == [11, 12]
    with pytest.raises(SubjectError, match=r"shapes \[2\] and \[1\]"):
        next(read)
