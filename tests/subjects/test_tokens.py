import json

import numpy as np
import pytest

from reseed.errors import SpecError
from reseed.events import Events
from reseed.spec.subject import LanguageModelSpec, TextSpec
from reseed.store import Store
from reseed.subjects.language.blocks import TokenBlocks, make_tokens
from reseed.subjects.language.tokenizer import Tokenizer

BOS, EOS, PAD = 1, 2, 3


@pytest.fixture
def make(tmp_path):
    """Blocks of texts that spell their ids, in the order given (seed 1 keeps three in order)."""

    def encode(texts):
        return [[int(word) for word in text.split()] for text in texts]

    def run(texts, tokens, roles=(BOS, EOS, PAD), **spec):
        source = tmp_path / "texts.json"
        source.write_text(json.dumps(texts))
        tokenizer = Tokenizer("spelling", "0", *roles, encode, str)
        store = Store(tmp_path / "study")
        spec = TextSpec(source=str(source), **spec)
        make_tokens(spec, tokenizer, tokens, store, "text", "x", Events())
        return TokenBlocks.open(store, "text")

    return run


def in_order(blocks, texts):
    """Document number to text, since documents are shuffled."""
    return [texts[int(origin.split(":")[1])] for origin in blocks.documents["origin"]]


TEXTS = ["10 11 12", "20 21 22 23 24", "30 31"]


def test_packed_blocks_by_hand(make):
    b = make(TEXTS, 15, block=5, exclude=[])
    d = [[int(i) for i in t.split()] for t in in_order(b, TEXTS)]
    stream = [*d[0], EOS, *d[1], EOS, *d[2]]
    assert b.ids.tolist() == [[BOS, *stream[i : i + 4]] for i in (0, 4, 8)]
    number = [0] * len(d[0]) + [-1] + [1] * len(d[1]) + [-1] + [2] * len(d[2])
    assert b.document.tolist() == [[-1, *number[i : i + 4]] for i in (0, 4, 8)]
    assert b.keep.all()
    assert (b.rows == 5).all()
    assert b.documents["tokens"].to_list() == [len(one) for one in d]
    assert b.about["tokens"] == 15
    assert b.about["text_tokens"] == 10


def test_exclusions(make):
    def kept(**more):
        b = make(TEXTS, 15, block=5, **more)
        return b, b.keep.astype(int)

    b, keep = kept()
    np.testing.assert_array_equal(keep, (b.document >= 0))
    assert b.rows.tolist() == keep.sum(1).tolist()
    assert b.positions(0).tolist() == np.flatnonzero(keep[0]).tolist()
    assert make(TEXTS, 10, block=5, exclude=["special"], bos=False, separator=False).keep.all()
    b = make(TEXTS, 10, block=5, exclude=["first"], bos=False)
    keep = b.keep.astype(int)
    assert keep.tolist() == [[0, 1, 1, 1, 1]] * len(keep)
    b, keep = kept(exclude=["border"])
    firsts = np.isin(b.ids, [10, 20, 30])
    np.testing.assert_array_equal(keep, ~firsts)
    assert firsts.sum() == 3


def test_border_is_found_without_separator_and_at_the_start_of_a_block(make):
    b = make(
        ["10 11", "20 21", "30 31"], 6, block=2, bos=False, separator=False, exclude=["border"]
    )
    assert b.keep.tolist() == [[False, True]] * 3


def test_padded_blocks_hold_one_document(make):
    b = make(TEXTS, 16, block=4, layout="padded", exclude=[])
    for block, document in zip(b.ids.tolist(), b.document.tolist(), strict=True):
        assert block[0] == BOS
        assert len({one for one in document if one >= 0}) == 1
    ids = {tuple(block) for block in b.ids.tolist()}
    assert ids == {(1, 10, 11, 12), (1, 20, 21, 22), (1, 23, 24, PAD), (1, 30, 31, PAD)}
    np.testing.assert_array_equal(b.keep, b.ids != PAD)
    np.testing.assert_array_equal(b.attention(range(4)), b.ids != PAD)
    bare = make(TEXTS, 16, block=4, layout="padded", exclude=["special", "border"], bos=False)
    np.testing.assert_array_equal(bare.keep, ~np.isin(bare.ids, [PAD, 10, 20, 30]))


def test_eos_stands_in_for_bos_and_lack_of_both_is_told(make):
    assert (make(TEXTS, 5, roles=(None, EOS, None), block=5).ids[:, 0] == EOS).all()
    with pytest.raises(SpecError, match=r"text\.bos"):
        make(TEXTS, 5, roles=(None, None, None), block=5)
    with pytest.raises(SpecError, match=r"text\.separator"):
        make(TEXTS, 5, roles=(BOS, None, None), block=5)


def test_a_short_text_says_how_many_tokens_it_has(make, tmp_path):
    with pytest.raises(SpecError, match="has 15 tokens .* blocks of 5, 1,000 were asked"):
        make(TEXTS, 1000, block=5)
    assert not (tmp_path / "study" / "text").exists()


def test_order_is_seeded_and_nothing_else_decides(make):
    texts = [f"{i} {i}" for i in range(10, 60)]
    first = make(texts, 60, block=6).ids
    np.testing.assert_array_equal(make(texts, 60, block=6).ids, first)
    np.testing.assert_array_equal(make(texts, 30, block=6).ids, first[:5])
    assert not np.array_equal(make(texts, 60, block=6, seed=1).ids, first)


def test_with_a_real_tokenizer(tiny_folder, tmp_path):
    from reseed.subjects.language.model import load_tokenizer

    (tmp_path / "t.txt").write_text("the cat sat on the mat")
    store = Store(tmp_path / "study")
    tokenizer = load_tokenizer(LanguageModelSpec(model=str(tiny_folder)))
    spec = TextSpec(source=str(tmp_path / "t.txt"), block=4)
    make_tokens(spec, tokenizer, 8, store, "text", "x", Events())
    b = TokenBlocks.open(store, "text")
    assert b.ids.tolist() == [[1, 4, 5, 6], [1, 7, 4, 9]]
    assert b.ids.dtype == np.uint32
    assert b.about["tokenizer"]["digest"] == tokenizer.digest


class Said:
    """A sink that keeps what is said."""

    def __init__(self):
        self.words = []

    def emit(self, kind, fields):
        self.words.append(str(fields))


@pytest.mark.parametrize(("known", "share"), [(0, 0.8), (30, 0.0)])
def test_where_most_tokens_are_unknown_to_the_tokenizer_it_is_said(tmp_path, known, share):
    texts = ["1 9 9 9 9"] if share else ["5 6 7 8 5"] * known
    (tmp_path / "texts.json").write_text(json.dumps(texts))

    def encode(texts):
        return [[int(word) for word in text.split()] for text in texts]

    tokenizer = Tokenizer("words", "0", None, EOS, PAD, encode, str, unknown=9)
    store, sink = Store(tmp_path / "study"), Said()
    spec = TextSpec(source=str(tmp_path / "texts.json"), block=5, bos=False)
    make_tokens(spec, tokenizer, 5, store, "text", "x", Events(sink))
    assert TokenBlocks.open(store, "text").about["unknown"] == share
    assert any("80% of the tokens" in words for words in sink.words) == bool(share)
