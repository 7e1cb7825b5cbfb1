"""What is kept to be looked at, beside the same computed plainly."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

from reseed.evidence.display import logits as lens
from reseed.evidence.display.held_out_text import HeldOutText, text_files
from reseed.evidence.display.strengths import Strengths, bin_edges
from reseed.pipeline.parts import make_part
from reseed.pipeline.progress import stages
from reseed.spec.analysis import EvidenceSpec

torch = pytest.importorskip("torch")


def test_activations_are_counted_between_their_edges():
    draw = np.random.default_rng(0)
    latent = draw.integers(0, 5, 4_000)
    values = (10 ** draw.uniform(-2.5, 2.5, 4_000)).astype(np.float32)
    values[:3] = 1.0, 1.5, 2.0  # an edge belongs to the bin above it
    latent[:3], latent[latent == 3] = 4, 2
    whole, parts = Strengths(5), Strengths(5)
    whole.add(torch.from_numpy(latent), torch.from_numpy(values))
    for at in range(0, 4_000, 700):
        chunk = slice(at, at + 700)
        parts.add(torch.from_numpy(latent[chunk]), torch.from_numpy(values[chunk]))
    table = whole.table()
    assert table.equals(parts.table())
    of = [values[latent == number].astype(np.float64) for number in range(5)]
    assert whole.fired.tolist() == [len(some) for some in of]
    assert np.allclose(whole.total, [some.sum() for some in of], rtol=1e-12)
    assert whole.largest.tolist() == [some.max(initial=0) for some in of]
    whole.add(torch.tensor([0, 9]), torch.tensor([0.0, -1.0]))  # silent: wherever that points
    assert whole.fired.sum() == 4_000
    assert table["latent"].to_list() == [0, 1, 2, 4]
    for number, first, counts in table.iter_rows():
        plain, _ = np.histogram(values[latent == number], bin_edges(first, len(counts)))
        plain[-1] -= (values[latent == number] == bin_edges(first, len(counts))[-1]).sum()
        assert counts == plain.tolist()
        assert counts[0]
        assert counts[-1]


def test_what_is_beyond_the_bins_is_in_those_at_the_ends():
    strengths = Strengths(1)
    strengths.add(torch.zeros(3, dtype=torch.int64), torch.tensor([1e-30, 1.0, 1e30]))
    _, first, counts = strengths.table().row(0)
    assert (first, len(counts), counts[0], counts[-1]) == (-20, 40, 1, 1)


class _Places:
    """Text of random small words, some empty, in blocks of 12."""

    length = 12

    def __init__(self, draw):
        pieces = ["a", "B", " ab", "", "é", "Ba ", "aaa", "İ"]
        self.pieces = [[pieces[n] for n in draw.integers(0, len(pieces), 12)] for _ in range(9)]

    def tokens(self, block, first, last):
        return self.pieces[block][first:last]


def test_words_are_found_in_the_contexts_that_a_plain_search_finds():
    draw = np.random.default_rng(1)
    places, spec = _Places(draw), EvidenceSpec(before=3, after=2)
    blocks = [1, 2, 4, 5, 8]
    files = text_files(places, blocks, spec)
    text = HeldOutText(files["text.parquet"], **files["about.json"])
    block, position = draw.choice(blocks, 300), draw.integers(0, 12, 300)
    shown = [
        "".join(t.lower() for t in places.tokens(b, max(0, p - 3), min(12, p + 3)))
        for b, p in zip(block, position, strict=True)
    ]
    first, behind = text.windows(block, position)
    for words in ("a", "AB", "aa", "bab", "é", "a b", "i̇", "zz", "", "\0", "b\0a"):
        found = text.reached(words)[first] < behind
        wanted = [bool(words) and words.lower() in context for context in shown]
        assert found.tolist() == wanted, words
    first, behind = text.windows(np.array([3, 99]), np.array([1, 1]))
    assert not (text.reached("a")[first] < behind).any()


@pytest.fixture(scope="module")
def causal(tiny_folder):
    from reseed.spec.subject import LanguageModelSpec
    from reseed.subjects.language.model import load_causal

    subject = load_causal(LanguageModelSpec(model=str(tiny_folder)))
    with torch.no_grad():
        subject.model.model.norm.weight.uniform_(0.5, 2)
    return subject


def test_logits_are_those_of_the_head_behind_the_norms_gain(causal, monkeypatch):
    monkeypatch.setattr(lens, "_AT_A_TIME", 3)
    rows = np.random.default_rng(0).standard_normal((7, 16)).astype(np.float32)
    end, name = lens.unembedding_of(causal.model, 20, causal.tokenizer)
    assert name == "norm"
    table = end.table(rows)
    head, gain = causal.model.lm_head.weight, causal.model.model.norm.weight
    for row, kept in zip(rows, table.iter_rows(named=True), strict=True):
        plain = (head @ (gain * torch.from_numpy(row))).detach().numpy()[:20]
        order = np.argsort(plain)
        assert kept["top"] == causal.tokenizer.pieces(order[::-1][:10].tolist())
        assert kept["bottom"] == causal.tokenizer.pieces(order[:10].tolist())
        assert kept["top_logits"] == pytest.approx(plain[order[::-1][:10]], abs=1e-4)
        assert kept["bottom_logits"] == pytest.approx(plain[order[:10]], abs=1e-4)
        assert sum(kept["counts"]) == 20


def test_the_gain_is_found_however_a_family_writes_its_norm():
    class OneMore(torch.nn.Module):  # as Gemma
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.linspace(-0.5, 1, 8))

        def forward(self, x):
            return x / x.square().mean(-1, keepdim=True).sqrt() * (1 + self.weight)

    OneMore.__name__ = "OneMoreNorm"
    body = torch.nn.Module()
    body.layers = torch.nn.ModuleList([torch.nn.LayerNorm(8)])
    body.norm = OneMore()
    name, norm = lens.norm_of(body, 8)
    assert (name, norm.centres) == ("norm", False)
    assert torch.allclose(norm.gain, 1 + body.norm.weight, atol=1e-5)
    body.norm = torch.nn.LayerNorm(8)
    with torch.no_grad():
        body.norm.weight.uniform_(0.5, 2)
        body.norm.bias.uniform_(-3, 3)
    name, norm = lens.norm_of(body, 8)
    assert norm.centres
    assert torch.allclose(norm.gain, body.norm.weight, atol=1e-4)
    assert lens.norm_of(torch.nn.Linear(8, 8), 8) is None


def test_a_study_keeps_logits_strengths_and_its_text(tiny_folder, tmp_path):
    import reseed

    draw = np.random.default_rng(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away", "red", "green"]
    lines = [json.dumps({"text": " ".join(draw.choice(words, 40))}) for _ in range(60)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    (tmp_path / "small.toml").write_text(
        f"[subject]\nmodel = {json.dumps(str(tiny_folder))}\n"
        '[text]\nsource = "text.jsonl"\nblock = 32\n'
        '[activations]\nsites = ["layers.1", "layers.1.mlp.gate_proj"]\ntokens = 1600\n'
        "[[sae]]\nlatents = 16\nk = 2\nlr = 3e-3\n[seeds]\ninit = [0]\n"
        "[training]\ntokens = 1280\nbatch = 64\nthreads = 1\n"
    )
    study = reseed.Study.load(tmp_path / "small.toml")
    reseed.run(study, progress=False)
    known, wide = (run for run in study.runs)
    store = study.store
    assert store.document(f"logits/{known.id}", "about.json") == {"norm": "norm", "why": None}
    assert store.table(f"logits/{known.id}", "logits.parquet").height == 16
    why = store.document(f"logits/{wide.id}", "about.json")["why"]
    assert re.search("gate_proj has 24 dimensions .* reads 16", why)
    assert not len(store.table(f"logits/{wide.id}", "logits.parquet"))
    firing = store.table(f"evidence/{known.id}", "firing.parquet").filter(pl.col("fired") > 0)
    counts = store.table(f"evidence/{known.id}", "histogram.parquet")
    assert counts["latent"].to_list() == firing["latent"].to_list()
    assert counts["counts"].list.sum().to_list() == firing["fired"].to_list()
    assert {stage.name: stage.state for stage in stages(study)}["logits"] == "done"
    before = store.checksum(f"logits/{known.id}")
    shutil.rmtree(store.path(f"logits/{known.id}"))
    make_part(str(study.folder), "logits 1/2", "cpu")
    assert reseed.Study.load(study.folder).store.checksum(f"logits/{known.id}") == before
    # contexts hold the text that the piece says is there
    text = {row[0]: row[1] for row in store.table("text", "text.parquet").iter_rows()}
    about = store.document("text", "about.json")
    for row in store.table(f"evidence/{known.id}", "contexts.parquet").iter_rows(named=True):
        first = max(0, row["position"] - about["before"])
        behind = row["position"] + about["after"] + 1
        assert text[row["block"]][first:behind] == row["tokens"]
