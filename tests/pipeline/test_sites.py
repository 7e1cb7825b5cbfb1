"""Studies of transcoders, crosscoders and baselines, from the activations to the report."""

import numpy as np
import pytest

import reseed
from reseed.errors import SpecError
from reseed.formats import own
from reseed.sae.architectures.crosscoder import relative_norms

pytest.importorskip("torch", reason="training needs torch")
TRAINED = {"tokens": 1920, "batch": 64, "snapshots": [], "threads": 1}


@pytest.fixture
def rows(tmp_path):
    """Three arrays: b is a function of a; c is b in other units, beside numbers of its own."""
    numbers = np.random.default_rng(0)
    a = numbers.normal(size=(1280, 8)).astype(np.float32)
    b = np.maximum(a @ numbers.normal(size=(8, 6)), 0).astype(np.float32)
    c = 7 * np.concatenate([b, numbers.normal(size=(1280, 2))], axis=1).astype(np.float32)
    for name, array in {"a": a, "b": b, "c": c}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return {"kind": "arrays", "paths": {n: str(tmp_path / f"{n}.npy") for n in "abc"}, "block": 64}


def finished(write_study, rows, sites, sae, **more):
    path = write_study(
        subject=rows, activations={"sites": sites}, sae=sae, training=TRAINED, **more
    )
    study = reseed.Study.load(path)
    outcome = reseed.run(study, progress=False)
    assert not outcome.failed
    return study


def test_a_transcoder_learns_a_site_that_no_run_reads(write_study, rows):
    sae = [
        {"architecture": "transcoder", "target": "b", "latents": 16, "k": 3, "lr": 3e-3},
        {"architecture": "skip_transcoder", "target": "b", "latents": 16, "k": 3, "lr": 3e-3},
        {"architecture": "topk", "latents": 16, "k": 3, "lr": 3e-3},
    ]
    study = finished(write_study, rows, ["a"], sae)
    assert study.sites() == ["a"]
    assert study.store.document("subject", "subject.json")["read"] == {"a": 8, "b": 6}
    fvu = {}
    a, b = (np.load(rows["paths"][name]) for name in "ab")
    for run in study.runs:
        arrays = own.read_piece(study.store, f"runs/{run.id}")
        skips = run.spec.sae.name == "skip_transcoder"
        assert arrays.W_dec.shape == (16, 8 if run.spec.sae.name == "topk" else 6)
        assert (arrays.W_skip is not None) == skips
        told = study.store.document(f"evidence/{run.id}", "reconstruction.json")
        target = a if run.spec.sae.name == "topk" else b
        held = slice(len(a) - told["rows"], len(a))
        made = run.sae().reconstruct(a[held]).numpy()
        whole = ((target[held] - target[held].mean(0)) ** 2).sum()
        assert told["fvu"] == pytest.approx(((made - target[held]) ** 2).sum() / whole, rel=1e-4)
        fvu.setdefault(run.spec.sae.name, told["fvu"])
    assert fvu["skip_transcoder"] < fvu["transcoder"]
    found = study.latents
    cosines = {g: t["enc_dec_cos"] for (g,), t in found.group_by("group")}
    for group, values in cosines.items():
        assert values.null_count() == (len(values) if " to b" in group else 0)


def test_a_crosscoder_reads_joined_sites_and_sees_what_they_share(write_study, rows):
    sae = [
        {"architecture": "crosscoder", "parts": [6, 8], "latents": 16, "k": 3, "lr": 1e-2},
        {"architecture": "topk", "latents": 16, "k": 3, "lr": 3e-3},
    ]
    study = finished(write_study, rows, ["a", "b+c"], sae)
    assert {(run.spec.site, run.spec.sae.name) for run in study.runs} == {
        ("a", "topk"),
        ("b+c", "topk"),
        ("b+c", "crosscoder"),
    }
    arrays = next(r for r in study.runs if r.spec.sae.name == "crosscoder").sae().arrays()
    assert arrays.about["parts"] == [6, 8]
    table = relative_norms(arrays.W_dec, arrays.about["parts"], arrays.about["scales"])
    assert (table["share_0"] + table["share_1"]).round(6).eq(1.0).all()
    # the same study again makes nothing anew
    before = study.store.checksum(f"runs/{study.runs[0].id}")
    reseed.run(study, progress=False)
    assert study.store.checksum(f"runs/{study.runs[0].id}") == before


def test_baselines_stand_beside_what_is_trained(write_study, rows):
    sae = [
        {"architecture": "pca", "latents": 8},
        {"architecture": "kmeans", "latents": 8},
        {"architecture": "llamascope", "latents": 16, "k": 3},
        {"architecture": "matching_pursuit", "latents": 16, "k": 3, "lr": 3e-3},
    ]
    controls = {"kinds": ["gaussian"]}
    study = finished(write_study, rows, ["a"], sae, controls=controls)
    shared = {g["group"].split(".")[1].split("-")[0]: g for g in study.summary["groups"]}
    headline = shared["pca"]["headline"]["shared"]["all"]
    assert headline["value"] == pytest.approx(1.0)
    assert headline["null_untrained"] < 0.5  # the start is random, so what is shared was found
    metrics = next(r for r in study.runs if r.spec.sae.name == "pca").metrics()
    assert metrics["fvu"].std() < 0.2
    assert metrics["fvu"][0] < 1


@pytest.mark.parametrize(
    ("sites", "sae", "message"),
    [
        (["a"], {"architecture": "transcoder", "target": "a"}, "a transcoder reads another site"),
        (["a"], {"architecture": "crosscoder", "parts": [3, 5]}, "a joined site, 'SITE1.SITE2'"),
        (["a+a"], {"architecture": "topk"}, "it takes two different sites"),
        (["a+*"], {"architecture": "topk"}, "joins patterns"),
    ],
)
def test_what_has_no_site_is_refused_when_it_is_read(write_study, rows, sites, sae, message):
    path = write_study(
        subject=rows, activations={"sites": sites}, sae=[{"latents": 64, **sae}], training=TRAINED
    )
    with pytest.raises(SpecError, match=message):
        reseed.Study.load(path)


@pytest.mark.parametrize(
    ("sites", "sae", "message"),
    [
        (["a"], {"architecture": "transcoder", "target": "bb"}, "no site 'bb'"),
        (["a+d"], {"architecture": "topk"}, "no site 'd'"),
        (["a+b"], {"architecture": "crosscoder", "parts": [8, 8]}, "its rows have 14"),
        (["a"], {"architecture": "pca", "latents": 20}, "10 components"),
    ],
)
def test_what_the_subject_does_not_have_is_refused_before_training(
    write_study, rows, sites, sae, message
):
    path = write_study(
        subject=rows, activations={"sites": sites}, sae=[{"latents": 64, **sae}], training=TRAINED
    )
    with pytest.raises(SpecError, match=message):
        reseed.run(reseed.Study.load(path), progress=False)
