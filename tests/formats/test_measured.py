"""What a study measured of an SAE goes with it into other formats, and comes back."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import reseed
from reseed.formats import own
from reseed.formats.read import FORMATS, read, write

torch = pytest.importorskip("torch", reason="studies are made with torch")

WITH_NOTES = [format.name for format in FORMATS if format.notes]


@pytest.fixture
def run(finished):
    return finished / "runs" / reseed.Study.load(finished).runs[0].id


def test_a_run_knows_what_its_study_measured(run, finished):
    study = reseed.Study.load(finished)
    measured = read(run).about["measured"]
    group = study.summary["groups"][0]
    fit = json.loads((finished / "evidence" / run.name / "reconstruction.json").read_text())
    assert measured["fvu"] == fit["fvu"]
    assert measured["l0"] == fit["l0"]
    assert measured["held_out_tokens"] == fit["rows"]
    assert measured["dead_share"] == group["counts"]["dead"][0] / group["counts"]["latents"]
    shared = group["headline"]["shared"]["all"]
    assert measured["shared"] == shared["value"]
    assert measured["shared_chance"] == shared["null_covariance"]["mean"]
    assert measured["shared_interval_95"] == shared["interval_95"]
    assert measured["tau"] == group["headline"]["tau"]
    assert study.runs[0].sae().about == {
        k: v for k, v in read(run).about.items() if k not in ("format", "source")
    }
    assert "shared" in study.runs[0].sae()._repr_html_()


@pytest.mark.parametrize("format", [*WITH_NOTES, "reseed"])
def test_it_goes_along_and_comes_back(run, tmp_path, format):
    sae = read(run)
    sae = replace(sae, b_enc=np.zeros_like(sae.b_enc))  # which one of them has not
    write(tmp_path / "out", sae, format)
    again = read(tmp_path / "out")
    assert again.about["measured"] == sae.about["measured"]
    assert again.W_dec.tobytes() == sae.W_dec.tobytes()


def test_there_are_formats_that_take_it():
    assert {"sparsify", "saelens", "dictionary_learning", "batchtopk"} <= set(WITH_NOTES)


@pytest.mark.parametrize("damage", ["", "{}", '{"groups": 3}', '{"groups": [{"runs": 1}]}', "["])
def test_a_summary_that_cannot_be_read_says_nothing(run, tmp_path, damage, finished):
    copy = tmp_path / "study"
    shutil.copytree(finished, copy)
    (copy / "summary.json").write_text(damage)
    assert own.measured_of(copy / "runs" / run.name) == {}
    assert "measured" not in read(copy / "runs" / run.name).about
    (copy / "summary.json").unlink()
    assert own.measured_of(copy / "runs" / run.name) == {}
