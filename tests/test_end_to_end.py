"""Two seeds, two widths, a language model: through every door to the page, and what it says."""

import json

import numpy as np
import polars as pl
import pytest
import torch

import reseed
from reseed.events import Events, Stop
from reseed.pipeline.run import run_study

SPEC = """
[subject]
model = "{model}"

[text]
source = "{text}"
label = "kind"
block = 32

[activations]
sites = ["layers.0.mlp", "layers.*:in"]
tokens = 12_000
mix_blocks = 40

[[sae]]
latents = 32
k = 4
lr = 3e-3

[[sae]]
latents = 96
k = 4
lr = 3e-3

[seeds]
init = [0, 1]

[training]
tokens = 40_000
batch = 256
snapshots = [0.5]
threads = 1
"""


WORDS = [f"w{i}" for i in range(40)]


def save_model(folder) -> None:
    """A random llama with 2 layers and a tokenizer of 40 words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=43,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        max_position_embeddings=32,
    )
    LlamaModel(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> reseed.Study:
    folder = tmp_path_factory.mktemp("end-to-end")
    save_model(folder / "model")
    rng, words = np.random.default_rng(0), WORDS
    with open(folder / "text.jsonl", "w") as file:
        for i in range(1200):
            kind = i % 2
            chosen = rng.choice(words[kind * 20 : kind * 20 + 20], 12)
            file.write(json.dumps({"text": " ".join(chosen), "kind": str(kind)}) + "\n")
    toml = folder / "study.toml"
    toml.write_text(SPEC.format(model=folder / "model", text=folder / "text.jsonl"))
    study = reseed.Study.load(toml, folder / "out")
    outcome = run_study(study, Events(), Stop())
    assert outcome.report.stat().st_size > 10**6
    assert not outcome.failed
    return study


def test_every_run_is_there_and_nothing_is_left_to_do(study) -> None:
    assert {run.state.state for run in study.runs} == {"done"}
    assert len(study.runs) == 3 * 2 * 2  # sites, widths, seeds
    before = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*") if p.is_file()}
    run_study(study, Events(), Stop())
    after = {p: p.stat().st_mtime_ns for p in study.folder.rglob("*") if p.is_file()}
    changed = {p.name for p in before if after[p] != before[p]}
    assert changed <= {".lock", "summary.json", "report.html", "study.toml", "events.jsonl"}
    assert set(before) == set(after)


def test_the_summary_has_every_number_beside_its_null(study) -> None:
    groups = study.summary["groups"]
    assert len(groups) == 6
    for group in groups:
        shared = group["headline"]["shared"]["all"]
        assert 0 <= shared["value"] <= 1
        assert shared["interval_95"] is None  # one pair
        assert shared["null_covariance"]["lo"] <= shared["null_covariance"]["hi"]
        assert shared["null_untrained"] < 0.2
        assert group["headline"]["ceiling_same_run"] == 1.0
        assert group["certificates"]["optimal"] == group["certificates"]["assignments"] == 2
        assert any("no interval" in note for note in group["notes"])
        assert 0 < group["reconstruction"]["fvu"]["mean"] < 1


def test_latents_and_matches_agree(study) -> None:
    latents, match = study.latents, study.matches[0]
    table = match.table()
    shared = table.filter(
        (pl.col("decoder_match") == pl.col("encoder_match"))
        & (pl.min_horizontal("decoder_cos", "encoder_cos") >= 0.7 - 1e-9)
    )
    for side, run in zip("ab", (match.a, match.b), strict=True):
        mine = latents.filter(run=run, n_matched=1)["latent"].sort()
        assert mine.equals(shared.filter(side=side)["latent"].sort().rename("latent"))
    assert set(match.certificates()) == {str(step) for step in match.steps}


def test_firing_is_what_the_saes_do_on_held_out_tokens(study) -> None:
    from reseed.subjects.shards import ShardSource
    from reseed.subjects.source import split_blocks

    run = study.runs[0]
    blocks = study.store.document("subject", "subject.json")["blocks"]
    _, held_out = split_blocks(blocks, study.spec.activations.held_out)
    x = ShardSource(study.store).read(held_out.tolist())[run.spec.site]
    sae = run.sae()
    codes = sae.encode(x)
    found = study.latents.filter(run=run.id).sort("latent")
    assert found["fired"].to_list() == (codes > 0).sum(0).tolist()
    np.testing.assert_allclose(found["max_act"], codes.amax(0).numpy(), rtol=1e-5)
    error = (sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    told = study.store.document(f"evidence/{run.id}", "reconstruction.json")
    assert told["fvu"] == pytest.approx(float(error), rel=1e-4)
    uncentred = (sae.reconstruct(x) - x).square().sum() / x.square().sum()
    assert told["fvu_uncentred"] == pytest.approx(float(uncentred), rel=1e-4)
    fires = (codes > 0).any(0)
    cosine = torch.nn.functional.cosine_similarity(sae.W_enc[fires], sae.W_dec[fires]).mean()
    assert told["encoder_decoder_cosine"] == pytest.approx(float(cosine), rel=1e-4)


def test_co_firing_is_what_matched_latents_do_on_held_out_tokens(study) -> None:
    from reseed.subjects.shards import ShardSource
    from reseed.subjects.source import split_blocks

    match = study.matches[-1]
    runs = {run.id: run for run in study.runs}
    blocks = study.store.document("subject", "subject.json")["blocks"]
    _, held_out = split_blocks(blocks, study.spec.activations.held_out)
    x = ShardSource(study.store).read(held_out.tolist())[runs[match.a].spec.site]
    a, b = (runs[name].sae().encode(x).double().numpy() for name in (match.a, match.b))
    found = match.activations()
    pairs = match.table().filter(side="a").select("latent", "decoder_match")
    assert found.select("latent_a", "latent_b").rows() == pairs.rows()
    for row in found.iter_rows(named=True):
        one, other = a[:, row["latent_a"]], b[:, row["latent_b"]]
        dead = one.std() == 0 or other.std() == 0
        want = 0.0 if dead else np.corrcoef(one, other)[0, 1]
        assert row["act_corr"] == pytest.approx(want, abs=1e-6)
        either = ((one > 0) | (other > 0)).sum()
        assert row["act_jaccard"] == pytest.approx(((one > 0) & (other > 0)).sum() / max(either, 1))
    # with room for the null's own noise: its pairs depend on the name of the model
    assert found["act_corr"].mean() > found["null_corr"].mean() + 0.15


def test_contexts_are_the_strongest_and_show_their_activations(study) -> None:
    from reseed.subjects.language.blocks import TokenBlocks

    run = study.runs[0]
    contexts = study.store.table(f"evidence/{run.id}", "contexts.parquet")
    firing = study.store.table(f"evidence/{run.id}", "firing.parquet")
    tokens = TokenBlocks.open(study.store, "tokens")
    best = contexts.group_by("latent").agg(pl.col("activation").max()).join(firing, on="latent")
    np.testing.assert_allclose(best["activation"], best["max_act"], rtol=1e-6)
    per_block = contexts.group_by("latent", "block").len()
    assert per_block["len"].max() == 1
    for row in contexts.head(50).iter_rows(named=True):
        known = [a for a in row["activations"] if a is not None]
        assert (
            max(known) == pytest.approx(row["activation"], rel=1e-6) or row["activation"] in known
        )
        assert len(row["tokens"]) == len(row["activations"])
        assert tokens.document[row["block"], row["position"]] == row["document"]
        start = row["position"] - min(row["position"], study.spec.evidence.before)
        kept = tokens.keep[row["block"], start : start + len(row["tokens"])]
        assert [a is not None for a in row["activations"]] == kept.tolist()


def test_loading_a_run_gives_the_sae(study) -> None:
    run = study.runs[0]
    sae = reseed.load(study.folder / "runs" / run.id)
    assert sae.latents == 32
    assert np.array_equal(sae.W_dec, run.sae().W_dec)
    assert sae.about["init_seed"] == 0
    metrics = run.metrics()
    assert metrics["tokens"][-1] == len(metrics) * 256
    assert metrics["fvu"].tail(20).mean() < metrics["fvu"].head(5).mean()
