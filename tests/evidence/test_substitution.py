"""Latents taken out of a language model and replaced: against passes written out."""

import json

import numpy as np
import polars as pl
import pytest
import torch

import reseed
from reseed.errors import SpecError
from reseed.events import Events
from reseed.evidence.rows import Reader
from reseed.evidence.substitution.draw import COPY, KINDS, ORPHAN, Windows, choose_pairs
from reseed.evidence.substitution.ratio import of_pairs, part_of
from reseed.evidence.substitution.restart import Restart, layers_before
from reseed.evidence.substitution.swap import EFFECT_SCHEMA, measure_pairs
from reseed.matching.match import Views, compare
from reseed.sae.model import SAE
from reseed.spec.refusals import read_spec
from reseed.spec.study import StudySpec
from reseed.spec.subject import LanguageModelSpec
from reseed.subjects.language.activations import SplicedModel, divergence, put_rows
from reseed.subjects.language.blocks import TokenBlocks

SITE = "layers.2.mlp"
L = 8


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model with weights ten times as large, so that its predictions are not all alike."""
    spliced = SplicedModel.load(LanguageModelSpec(model=str(tiny_folder)))
    for name, value in spliced.body.named_parameters():
        if "norm" not in name:
            value.mul_(10)
    return spliced


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    keep = np.ones((12, 2 * L), dtype=bool)
    keep[:, 0] = False
    return TokenBlocks(
        ids=rng.integers(4, 20, keep.shape).astype(np.uint32),
        document=np.repeat(np.arange(24, dtype=np.int32), L).reshape(keep.shape),
        keep=keep,
        rows=keep.sum(1),
        documents=pl.DataFrame(),
        about={"layout": "packed"},
    )


def sae(seed=0, latents=16):
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(latents, 16, generator=draw)
    return SAE(W, 3 * W.clone(), torch.zeros(latents), torch.zeros(16), {"kind": "topk", "k": 3})


def renamed(original, order):
    parts = (original.W_enc[order], original.W_dec[order], original.b_enc[order], original.b_dec)
    return SAE(*parts, original.activation)


class Rows:
    """The rows of a site in whole blocks, as a source."""

    def __init__(self, model, text):
        self._model, self._text = model, text
        self.sites, self.rows = {SITE: 16}, text.rows

    def read(self, blocks):
        ids = torch.from_numpy(self._text.ids[list(blocks)].astype(np.int64))
        at = self._model.run(ids, [SITE]).at[SITE]
        return {SITE: at[torch.from_numpy(self._text.keep[list(blocks)])]}


@pytest.fixture(scope="module")
def measured(model, text):
    """Run b is run a with its latents in another order; c has nothing in common with them."""
    order = np.random.default_rng(1).permutation(16)
    saes = {"a": sae(0), "b": renamed(sae(0), order), "c": sae(1)}
    windows = Windows(text, np.arange(12), L)
    readers = {run: Reader(of, SITE) for run, of in saes.items()}
    windows.gather(readers, Rows(model, text), Events())
    back = np.argsort(order)
    rows = [("matched", "a", i, "b", int(back[i])) for i in range(16)]
    rows += [("wrong", "a", i, "c", i) for i in range(16)]
    rows += [(COPY, "a", i, "a", i) for i in range(16)]
    pairs = pl.DataFrame(rows, ["kind", "run_a", "latent_a", "run_b", "latent_b"], orient="row")
    effects = measure_pairs(model, (SITE, SITE), saes, pairs, windows, 5, Events())
    return saes, windows, pairs, effects


@pytest.mark.parametrize(
    "site", ["layers.2.mlp", "layers.3", "layers.0", "embed_tokens", "layers.2:in"]
)
def test_a_pass_that_starts_later_is_the_whole_pass(model, text, site):
    ids = torch.from_numpy(text.ids[:1].astype(np.int64))
    restart = Restart(model, site)
    before = restart.begin(ids, ["layers.3"])
    shift = torch.linspace(-1, 1, 3)[:, None, None]

    def replace(there):
        return there + shift

    new = restart.run_with(ids.expand(3, -1), replace)
    plain = model.run_with(ids.expand(3, -1), site, replace)
    torch.testing.assert_close(new.logits, plain.logits, rtol=1e-4, atol=1e-4)
    assert restart.skipped == (int(site[7]) if site.startswith("layers") else 0)
    again = model.run(ids, ["layers.3"])
    torch.testing.assert_close(again.logits, before.logits)


def test_layers_before_a_site(model):
    assert len(layers_before(model.body, "layers.3.mlp.up_proj")) == 3
    assert layers_before(model.body, "norm") == []


def test_effects_are_those_of_passes_written_out(model, text, measured):
    saes, windows, pairs, effects = measured
    assert effects.schema == EFFECT_SCHEMA
    some = effects.filter(pl.col("kl_ablate") > 0).sample(12, seed=0)
    for row in some.iter_rows(named=True):
        pair = pairs.row(row["pair"], named=True)
        block, positions = windows.place(row["window"])
        ids = torch.from_numpy(text.ids[block, positions].astype(np.int64))[None]
        keep = torch.from_numpy(text.keep[block, positions].copy())[None]
        keep[0, 0] = False
        there = model.run(ids, [SITE]).at[SITE][keep]
        one, other = (
            saes[pair[f"run_{x}"]].encode(there)[:, pair[f"latent_{x}"], None]
            * saes[pair[f"run_{x}"]].W_dec[pair[f"latent_{x}"]]
            for x in "ab"
        )
        if pair["kind"] == COPY:
            other = 0.8 * one
        followed = keep[0].clone()
        followed[-1] = False
        old = model.run(ids, []).logits[0, followed]
        for name, rows in (("ablate", there - one), ("replace", there - one + other)):
            new = model.run_with(ids, SITE, put_rows(keep, rows)).logits[0, followed]
            kl = float(divergence(old, new)) * len(new)
            assert row[f"kl_{name}"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
            target = ids[0, 1:][followed[:-1]]
            ce = [
                float(torch.nn.functional.cross_entropy(x, target, reduction="sum"))
                for x in (new, old)
            ]
            assert row[f"ce_{name}"] == pytest.approx(ce[0] - ce[1], rel=1e-3, abs=1e-4)


def test_the_same_latent_stands_in_for_itself_and_another_does_not(measured):
    _, _, pairs, effects = measured
    table = of_pairs(pairs, effects)
    part = {kind: part_of(table.filter(kind=kind), effects, kind) for kind in KINDS}
    assert part["matched"].kl.value == pytest.approx(1.0, abs=1e-4)
    assert 0.5 < part[COPY].kl.value < 1
    assert part["wrong"].kl.value < 0.2
    assert part["wrong"].kl.interval_95[0] < part["wrong"].kl.value
    assert part[ORPHAN] is None
    assert table.filter(kind="matched")["r_kl"].drop_nulls().min() == pytest.approx(1.0, abs=1e-3)


def test_windows_of_a_latent_are_the_same_for_all_partners(measured):
    _, windows, _, _ = measured
    own = set(windows.where("a", 3).tolist())
    both = [windows.drawn("a", 3, "c", j, 4) for j in range(16)]
    first = [[w for w, _ in drawn if w in own] for drawn in both]
    assert all(part == first[0] for part in first)
    assert 0 < len(first[0]) <= 4
    for j, drawn in enumerate(both):
        alone = set(windows.where("c", j).tolist()) - own
        assert len(drawn) - len(first[0]) == min(2, len(alone))
        assert sum(weight for _, weight in drawn) == pytest.approx(len(own) + len(alone))


def test_ratios_by_hand():
    pairs = pl.DataFrame({"pair": [0, 1], "run_a": ["a", "a"], "run_b": ["b", "b"]})
    columns = ("pair", "window", "document", "weight", "kl_ablate", "kl_replace")
    rows = [(0, 0, 0, 2.0, 1.0, 0.5), (0, 1, 1, 2.0, 3.0, 0.5), (1, 2, 2, 1.0, 2.0, 4.0)]
    effects = pl.DataFrame(rows, columns, orient="row").with_columns(ce_ablate=0.0, ce_replace=0.0)
    part = part_of(pairs, effects, "test")
    assert part.kl.value == pytest.approx(1 - 6 / 10)
    assert (part.pairs, part.documents) == (2, 3)
    low, high = part.kl.interval_95
    assert low < part.kl.value < high
    assert part.cross_entropy.value is None
    table = of_pairs(pairs.drop("pair"), effects)
    assert table["r_kl"].to_list() == [pytest.approx(0.75), pytest.approx(-1.0)]


def test_pairs_are_spread_over_cosines_and_rates():
    rng = np.random.default_rng(0)
    decoder = rng.normal(size=(300, 8))
    noise = rng.normal(size=decoder.shape) * np.linspace(0, 2.5, 300)[:, None]
    a, b = Views(decoder, decoder), Views(decoder + noise, decoder + noise)
    fired = rng.integers(0, 60, 300), rng.integers(1, 60, 300)
    pairs = choose_pairs("a", "b", compare(a, b).table, fired, 1000, 0.8, 100)
    kinds = dict(pairs.group_by("kind").len().iter_rows())
    assert kinds == {"matched": 40, "orphan": 25, "wrong": 25, "copy": 10}
    assert (pairs["rate"] >= 4 / 1000).all()
    wrong = pairs.filter(kind="wrong")
    assert wrong["cosine"].min() < 0.7 < 0.9 < wrong["cosine"].max()
    assert pairs.filter(kind="matched")["cosine"].min() >= 0.8
    assert (pairs.filter(kind="copy")["run_b"] == "a").all()


@pytest.fixture
def tables(tiny_folder, tmp_path):
    words = ["the", "cat", "sat", "on", "a", "mat", "dog"]
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(rng.choice(words, 20))}) for _ in range(120)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    return {
        "subject": {"model": str(tiny_folder)},
        "text": {"source": str(tmp_path / "text.jsonl"), "block": 16},
        "activations": {"sites": ["layers.1"], "tokens": 1200, "held_out": 0.3},
        "sae": [{"architecture": "topk", "latents": 8, "k": 2, "lr": 3e-3}],
        "seeds": {"init": [0, 1]},
        "training": {"tokens": 2560, "batch": 64, "snapshots": []},
        "evidence": {"substitution_pairs": 12, "examples": 0, "contexts": 0},
        "stability": {"null_draws": 1},
    }


def test_a_study_says_whether_counterparts_stand_in(tables, tmp_path):
    study = reseed.Study(read_spec(StudySpec, tables, "test"), tmp_path / "study")
    reseed.run(study, progress=False)
    group = study.summary["groups"][0]
    found = group["substitution"]
    assert found["windows"] > 0
    assert set(found["kinds"]) <= set(KINDS)
    pairs = study.store.table(f"substitution/{group['group']}", "pairs.parquet")
    assert {"kl_ablate", "kl_replace", "r_kl", "cosine", "windows"} <= set(pairs.columns)
    assert "What counterparts do" in (study.folder / "report.html").read_text("utf-8")


def test_a_subject_that_predicts_nothing_is_refused(tables):
    tables["subject"] = {"kind": "toy"}
    tables["activations"]["sites"] = ["toy"]
    del tables["text"]
    with pytest.raises(SpecError, match=r"evidence\.substitution_pairs.*of kind 'toy'"):
        read_spec(StudySpec, tables, "study.toml")
