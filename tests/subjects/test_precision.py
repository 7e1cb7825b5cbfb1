"""What bfloat16 does to activations is measured against the same model in float32."""

import polars as pl
import pytest
import torch

from reseed.events import Events
from reseed.spec.subject import PRECISION, LanguageModelSpec
from reseed.store import Store
from reseed.subjects.language.activations import TextSource
from reseed.subjects.language.blocks import TokenBlocks
from reseed.subjects.language.model import load_language_model
from reseed.subjects.subject import change_from_float32, change_in_words, kept_change

SITES = ["layers.1.mlp", "layers.3"]


def text(blocks=6, length=10):
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 20, (blocks, length), generator=draw).numpy().astype("uint32")
    document = (ids * 0).astype("int32")
    keep = ids > 0
    keep[0] = False  # a block without rows
    keep[:, 0] = False
    return TokenBlocks(
        ids=ids,
        document=document,
        keep=keep,
        rows=keep.sum(1),
        documents=pl.DataFrame({"origin": ["d"]}),
        about={"layout": "packed"},
    )


@pytest.fixture
def opened(tiny_folder):
    def make(**more):
        spec = LanguageModelSpec(model=str(tiny_folder), **more)
        blocks = text()
        return spec, TextSource(load_language_model(spec, SITES), blocks, 2), blocks

    return make


def test_the_numbers_are_those_of_the_two_models(opened):
    spec, source, blocks = opened(dtype="bfloat16")
    change = change_from_float32(spec, source, blocks)
    assert change["dtype"] == "bfloat16"
    few = [1, 2, 4, 5]  # spread over those with rows
    assert change["rows"] == blocks.rows[few].sum()
    exact = opened()[1].read(few)
    found = source.read(few)
    for site in SITES:
        error = (found[site] - exact[site]).norm() / exact[site].norm()
        cosines = torch.cosine_similarity(found[site], exact[site])
        one = change["sites"][site]
        assert 1e-4 < one["relative_rmse"] < 0.05
        assert one["relative_rmse"] == pytest.approx(float(error), rel=1e-3)
        assert one["smallest_cosine"] == pytest.approx(float(cosines.min()), abs=1e-5)


def test_float32_is_not_compared_with_itself(opened, monkeypatch):
    from reseed.subjects import subject as precision

    monkeypatch.delattr(precision, "load_language_model")
    assert change_from_float32(*opened()) is None


def test_int8_is_compared_too(opened):
    change = change_from_float32(*opened(dtype="int8"))
    assert all(1e-4 < one["relative_rmse"] < 0.1 for one in change["sites"].values())


def test_random_weights_are_the_same_in_both_formats(opened):
    change = change_from_float32(*opened(dtype="bfloat16", random_weights=3))
    assert all(one["relative_rmse"] < 0.05 for one in change["sites"].values())


def test_it_is_measured_and_said_once(opened, tmp_path, monkeypatch):
    said = []

    class Sink:
        def emit(self, kind, fields):
            said.append(fields.get("text"))

    store = Store(tmp_path)
    spec, source, blocks = opened(dtype="bfloat16")
    first = kept_change(spec, source, blocks, store, "made", Events(Sink()))
    assert said == [change_in_words(first)]
    assert "bfloat16 changes the activations" in said[0]
    assert "layers.1.mlp" in said[0]
    assert kept_change(spec, source, blocks, store, "made", Events(Sink())) == first
    assert len(said) == 1
    assert store.document(PRECISION, "change.json") == first
    plain = opened()
    assert kept_change(*plain, Store(tmp_path / "plain"), "made", Events(Sink())) is None
    assert not (tmp_path / "plain").exists()
