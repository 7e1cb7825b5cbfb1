"""A study goes to the hub: all files, no token in them, resumed where it stopped, read back."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

import reseed
from reseed.errors import HubError, SpecError, StoreError
from reseed.formats.read import read
from reseed.publish.push import push

pytest.importorskip("torch", reason="studies are made with torch")
pytest.importorskip("huggingface_hub")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content:DeprecationWarning"
)  # of the hub's own

PLACE = "hf:me/features"


@pytest.fixture(scope="module")
def study(finished):
    return reseed.Study.load(finished)


def test_a_dry_run_lists_and_asks_nothing(study, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    listed = push(study, PLACE, dry_run=True)
    names = [item.name for item in listed]
    assert names[-5:] == [
        "README.md",
        "latents.parquet",
        "summary.json",
        "report.html",
        "study.toml",
    ]
    for run in study.runs:
        assert f"saes/{run.id}/sae_weights.safetensors" in names
    assert all(item.size > 0 for item in listed)
    assert not any(item.already for item in listed)
    assert not hub.requests


@pytest.mark.parametrize("layout", ["saelens", "sparsify", "reseed"])
def test_all_arrives(study, hub, layout):
    sent = push(study, PLACE, layout=layout, progress=False)
    held = hub.repos["me/features"]
    assert {item.name for item in sent} == set(held)
    assert len(hub.commits) == len(study.runs) + 1
    assert pl.read_parquet(held["latents.parquet"]).height == study.latents.height
    assert json.loads(held["summary.json"]) == study.summary
    assert b"hf_right" not in b"".join(held.values())
    card = held["README.md"].decode()
    assert f"- {layout}\n" in card
    shared = study.summary["groups"][0]["headline"]["shared"]["all"]
    assert f"| {shared['value']:.1%}" in card


def test_a_run_reads_back_from_the_hub(study, hub):
    push(study, PLACE, progress=False)
    run = study.runs[0]
    sae = read(f"{PLACE}/saes/{run.id}")
    assert np.array_equal(sae.W_dec, run.sae().arrays().W_dec)
    assert sae.about["measured"] == run.sae().about["measured"]


def test_what_is_there_is_not_sent_again(study, hub):
    push(study, PLACE, progress=False)
    again = push(study, PLACE, progress=False)
    assert all(item.already for item in again)
    assert len(hub.commits) == len(study.runs) + 1
    hub.repos["me/features"]["README.md"] = b"other"
    third = push(study, PLACE, progress=False)
    assert [item.name for item in third if not item.already] == ["README.md"]


def test_what_stopped_goes_on(study, hub):
    hub.fail_after = 2
    with pytest.raises(HubError, match="the same command goes on"):
        push(study, PLACE, progress=False)
    assert len(hub.commits) == 2
    hub.fail_after = None
    sent = push(study, PLACE, progress=False)
    assert len(hub.commits) == len(study.runs) + 1
    assert sum(item.already for item in sent) == 4  # two files of two SAEs


def test_one_group(study, hub):
    label = study.groups()[1].label
    sent = push(study, PLACE, group=label, progress=False)
    assert sum(item.name.endswith(".safetensors") for item in sent) == 2
    card = hub.repos["me/features"]["README.md"].decode()
    assert study.groups()[0].label not in card


def test_a_wrong_token_and_none(study, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="401"):
        push(study, PLACE, progress=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SpecError, match="HF_TOKEN"):
        push(study, PLACE, progress=False)
    assert not hub.repos


@pytest.mark.parametrize("place", ["me/features", "hf:me", "hf:me/a/b", "hf:../x", "hf:me/x@main"])
def test_other_places_are_refused(study, place):
    with pytest.raises(SpecError, match="hf:OWNER/NAME"):
        push(study, place, dry_run=True)


def test_what_cannot_go_is_said(study, write_study, finished, tmp_path):
    with pytest.raises(SpecError, match="did you mean 'saelens'"):
        push(study, PLACE, layout="sealens", dry_run=True)
    with pytest.raises(StoreError, match="reseed run"):
        push(reseed.Study.load(write_study()), PLACE, dry_run=True)
    copy = tmp_path / "study"
    shutil.copytree(finished, copy)
    (copy / "summary.json").unlink()
    with pytest.raises(StoreError, match="reseed run"):
        push(reseed.Study.load(copy), PLACE, dry_run=True)


def test_without_the_extra(study, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"reseed\[publish\]"):
        push(study, PLACE, progress=False)
    assert push(study, PLACE, dry_run=True)


def test_the_card_shows_text_as_it_is(study):
    from reseed.publish.model_card import card
    from reseed.spec.summary import Summary

    summary = Summary.model_validate(study.summary)
    groups = [g.model_copy(update={"label": "a|<script>`x`\n# b"}) for g in summary.groups]
    text = card(summary.model_copy(update={"groups": groups}), {}, "saelens", "me/features")
    assert "<script>" not in text
    assert r"a\|\<script\>\`x\` \# b" in text
    assert "\n# b" not in text
