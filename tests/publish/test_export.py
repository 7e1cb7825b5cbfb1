"""A study in the files of others."""

import gzip
import json
import math
import shutil

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import reseed
from reseed.errors import SpecError
from reseed.publish.circuit_tracer import unpacked
from reseed.publish.export import export_to
from reseed.publish.pw_mcc import pw_mcc
from reseed.records import SAEArrays
from reseed.runs import evidence_name

torch = pytest.importorskip("torch", reason="studies are made with torch")

NEURONPEDIA = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson",
    "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights", "logits_hist_data_bar_heights", "logits_hist_data_bar_values",
    "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations", "decoder_weights_dist",
    "vector",
}  # fmt: skip
"""Fields of `NeuronpediaDashboardFeature`, SAEDashboard 0.8.0."""
ACTIVATION = {
    "bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"
}  # fmt: skip


def parsed(path):
    return json.loads(path.read_text("utf-8"), parse_constant=lambda word: pytest.fail(word))


@pytest.fixture(scope="module")
def neuronpedia(language, tmp_path_factory):
    out = tmp_path_factory.mktemp("np") / "out"
    written, notes = export_to(language, out, "neuronpedia", group="topk 12")
    assert not notes
    return out, written


def test_batches_have_the_keys_of_neuronpedia(neuronpedia, language):
    out, written = neuronpedia
    group = language.groups_named("layers.1.mlp:in · topk 12 k2")[0]
    assert {path.parent.name for path in written} == set(group.runs)
    for run in group.runs:
        batch = parsed(out / run / "batch-0.json")
        assert batch["layer"] == 1
        assert batch.keys() == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
        skipped = parsed(out / run / "skipped_indexes.json")["skipped_indexes"]
        indices = [feature["feature_index"] for feature in batch["features"]]
        assert sorted([*indices, *skipped]) == list(range(12))
        for feature in batch["features"]:
            assert feature.keys() == NEURONPEDIA
            assert all(a.keys() == ACTIVATION for a in feature["activations"])
        told = parsed(out / run / "reseed-0.json")
        assert told["run"] == run
        assert [int(index) for index in told["features"]] == indices


def test_numbers_are_those_of_the_study(neuronpedia, language):
    out, _ = neuronpedia
    table = language.latents
    run = language.runs[0]
    firing = language.store.table(evidence_name(run.id), "firing.parquet")
    batch = parsed(out / run.id / "batch-0.json")
    shared = language.summary["groups"][0]["headline"]["shared"]["all"]
    beside = parsed(out / run.id / "reseed-0.json")
    assert beside["shared"] == shared["value"]
    assert beside["shared_chance"] == shared["null_covariance"]["mean"]
    blocks = language.store.document("tokens", "about.json")["blocks"]
    held_out = max(1, round(blocks * language.spec.activations.held_out))
    for feature in batch["features"]:
        assert feature["n_prompts_total"] == held_out
        row = table.filter(run=run.id, latent=feature["feature_index"]).row(0, named=True)
        assert feature["frac_nonzero"] == row["firing_rate"]
        told = beside["features"][str(feature["feature_index"])]
        tokens = firing.filter(latent=feature["feature_index"])["fired"][0]
        assert sum(feature["freq_hist_data_bar_heights"]) == tokens
        assert told["n_matched"] == row["n_matched"]
        assert told["verdict"] == row["verdict"]
        if not math.isnan(row["recurrence_mean"] or 0.0):
            assert told["recurrence_mean"] == row["recurrence_mean"]
        most = max(max(a["values"]) for a in feature["activations"])
        exact = firing.filter(latent=feature["feature_index"])["max_act"][0]
        assert most == pytest.approx(exact, rel=1e-4)
        for a in feature["activations"]:
            assert len(a["tokens"]) == len(a["values"])
            assert a["values"][a["qualifying_token_index"]] == max(a["values"])
        parts = {(a["bin_min"], a["bin_max"]): a["bin_contains"] for a in feature["activations"]
                 if a["bin_contains"] >= 0}  # fmt: skip
        assert not parts or sum(parts.values()) == pytest.approx(1, abs=0.35)


def test_batches_hold_all_whatever_their_size(neuronpedia, language, tmp_path, monkeypatch):
    out, _ = neuronpedia
    monkeypatch.setattr("reseed.publish.neuronpedia._BATCH", 5)
    export_to(language, tmp_path / "small", "neuronpedia", group="topk 12")
    run = language.runs[0].id
    whole = parsed(out / run / "batch-0.json")["features"]
    parts = sorted((tmp_path / "small" / run).glob("batch-*.json"))
    assert len(parts) == -(-len(whole) // 5) > 1
    assert [f for part in parts for f in parsed(part)["features"]] == whole


def test_logits_are_those_of_the_head(neuronpedia, language, tiny_folder):
    from transformers import AutoModelForCausalLM

    out, _ = neuronpedia
    run = language.runs[0]
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    head = model.get_output_embeddings().weight * model.model.norm.weight
    feature = parsed(out / run.id / "batch-0.json")["features"][0]
    values = (head.detach() @ run.sae().W_dec[feature["feature_index"]]).sort().values
    assert feature["pos_values"] == pytest.approx(values.flip(0)[:10].tolist(), rel=1e-3)
    assert feature["neg_values"] == pytest.approx(values[:10].tolist(), rel=1e-3)
    assert sum(feature["logits_hist_data_bar_heights"]) == len(head)


def test_feature_files_of_transcoders(language, tmp_path):
    written, notes = export_to(language, tmp_path / "ct", "circuit-tracer", group="transcoder")
    assert not notes
    for seeds in ("init0-data0", "init1-data0"):
        folder = tmp_path / "ct" / seeds / "features"
        index = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))["1"]
        data, offsets = (folder / index["filename"]).read_bytes(), index["offsets"]
        assert len(offsets) == 12 + 1
        assert offsets[-1] == len(data)
        for first, last in zip(offsets, offsets[1:], strict=False):
            shown = unpacked(data, first, last)
            assert len(shown["top_logits"]) == len(shown["bottom_logits"]) == 10
            for group in shown["examples_quantiles"]:
                for example in group["examples"]:
                    values = example["tokens_acts_list"]
                    assert len(values) == len(example["tokens"])
                    assert (
                        values[example["train_token_ind"]]
                        == max(values)
                        <= shown["act_max"] * 1.001
                    )
    assert len(written) == 4


def test_a_plain_sae_is_no_transcoder(language, tmp_path):
    with pytest.raises(SpecError, match="--group"):
        export_to(language, tmp_path / "ct", "circuit-tracer", group="topk 12")


def plain_pw_mcc(a, b):
    a, b = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(float), b.astype(float))
    )
    S = np.abs(a @ b.T)
    rows, columns = linear_sum_assignment(S, maximize=True)
    return S[rows, columns].mean()


def test_pw_mcc_records(language, tmp_path):
    written, _ = export_to(language, tmp_path / "r", "pw-mcc")
    assert len(written) == 2
    for path in written:
        record = parsed(path)
        a, b = (next(r for r in language.runs if r.id == told["name"]) for told in record["runs"])
        first, other = a.sae().arrays(), b.sae().arrays()
        assert record["value"] == pytest.approx(plain_pw_mcc(first.W_dec, other.W_dec))
        assert record["certificate"]["optimal"]
        assert record["counts"]["pairs"] == len(record["matching"]) == 12
        cosines = [abs(pair["cosine"]) for pair in record["matching"]]
        assert np.mean(cosines) == pytest.approx(record["value"], abs=1e-5)
        assert 0 <= record["null"]["lo"] <= record["null"]["mean"] <= record["null"]["hi"] <= 1
        assert record["runs"][0]["measured"]["fvu"] > 0
        assert (record["schema"], record["version"]) == ("reseed.pw-mcc", 1)


def test_the_null_of_pw_mcc_is_what_independent_directions_give():
    """Amplitudes fall as 1/k: unit rows of a Gaussian of such a covariance are less alike."""
    rng, (F, D) = np.random.default_rng(0), (200, 32)
    W = rng.normal(size=(2, F, D)) / np.arange(1, D + 1)
    W = (W / np.linalg.norm(W, axis=2, keepdims=True)).astype(np.float32)
    saes = [
        SAEArrays(W_enc=rows, b_enc=np.zeros(F, np.float32), W_dec=rows,
                  b_dec=np.zeros(D, np.float32), activation={"kind": "relu"}, about={})
        for rows in W
    ]  # fmt: skip
    record = pw_mcc(*saes, ("a", "b"))
    assert record["value"] == pytest.approx(record["null"]["mean"], abs=0.01)


def test_pw_mcc_takes_no_heed_of_signs(language):
    from dataclasses import replace

    sae = language.runs[0].sae().arrays()
    turned = replace(sae, W_dec=-sae.W_dec[::-1])
    record = pw_mcc(sae, turned, ("a", "b"))
    assert record["value"] == pytest.approx(1)
    assert record["counts"]["negative"] == 12
    assert record["matching"][0] == {"a": 0, "b": 11, "cosine": -1.0}
    with pytest.raises(SpecError, match="writes 16 dimensions and b 8"):
        pw_mcc(sae, replace(sae, W_dec=sae.W_dec[:, :8]), ("a", "b"))
    zero = sae.W_dec.copy()
    zero[3] = 0
    with pytest.raises(SpecError, match="1 decoder rows are zero"):
        pw_mcc(sae, replace(sae, W_dec=zero), ("a", "b"))


def test_what_cannot_be_written_is_said(language, finished, tmp_path):
    with pytest.raises(SpecError, match="did you mean 'neuronpedia'"):
        export_to(language, tmp_path / "a", "neuronpaedia")
    with pytest.raises(SpecError, match="names no layer"):
        export_to(reseed.Study.load(finished), tmp_path / "a", "neuronpedia")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(SpecError, match="--overwrite"):
        export_to(language, tmp_path / "full", "pw-mcc")
    assert export_to(language, tmp_path / "full", "pw-mcc", overwrite=True)[0]
    for overwrite in (False, True):
        with pytest.raises(SpecError, match="x is a file and was left as it is"):
            export_to(language, tmp_path / "full" / "x", "pw-mcc", overwrite=overwrite)


def test_an_older_study_says_what_its_export_lacks(language, tmp_path):
    shutil.copytree(language.folder, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "logits")
    study = reseed.Study.load(tmp_path / "older")
    _, notes = export_to(study, tmp_path / "a", "neuronpedia", group="topk 12")
    assert notes == ["no logits: `reseed run` makes them"]
    feature = parsed(tmp_path / "a" / language.runs[0].id / "batch-0.json")["features"][0]
    assert feature["pos_str"] == feature["neg_values"] == []
    assert feature["activations"]


def test_explanations_and_dead_latents_go_along():
    from reseed.publish.dashboards import Dashboard
    from reseed.publish.neuronpedia import _run

    context = {"tokens": ["a", "b"], "activations": [0.0, 2.0]}
    shown = [
        Dashboard(
            latent=n, row={"explanation": words, "firing_rate": 0.1, "recurrence_mean": math.nan},
            strongest=[context] if n else [], sample=[], bars=([], []), logits=None,
        )
        for n, words in enumerate((None, "cats", None))
    ]  # fmt: skip
    about = {"model_id": "m", "layer": 1, "sae_set": "s", "sae_id_suffix": "i0-d0"}
    files = dict(_run("r", about, {}, shown, np.eye(3, dtype=np.float32), {}))
    assert files["r/skipped_indexes.json"]["skipped_indexes"] == [0]
    assert [f["feature_index"] for f in files["r/batch-0.json"]["features"]] == [1, 2]
    told = files["r/reseed-0.json"]["features"]["1"]
    assert told["explanation"] == "cats"
    assert told["recurrence_mean"] is None
    assert files["r/explanations.jsonl"] == [
        {"modelId": "m", "layer": "1-s__i0-d0", "index": "1", "description": "cats"}
    ]


def test_the_table_has_the_tokens_that_latents_make_likely(language, tmp_path):
    reseed.export(language, tmp_path / "t.jsonl", group="topk 12")
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    for row in rows:
        kept = language.store.table(f"logits/{row['run']}", "logits.parquet")
        assert row["top_tokens"] == kept.filter(latent=row["latent"])["top"][0].to_list()
    reseed.export(language, tmp_path / "t.csv", group="topk 12")
    assert "bottom_tokens" in (tmp_path / "t.csv").read_text().splitlines()[0]
