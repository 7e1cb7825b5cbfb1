"""A consensus dictionary out of a finished study: made once, kept, loaded, evaluated."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

import reseed
from reseed.errors import SpecError, StoreError
from reseed.subjects.shards import ShardSource
from reseed.subjects.source import split_blocks

RULE = {"found_in": 1, "tokens": 640, "progress": False}
"""Of the smallest study nothing comes back; all its latents pooled are a consensus too."""


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    """A copy of the finished study, which is written to."""
    folder = tmp_path_factory.mktemp("pooling") / "tiny"
    shutil.copytree(finished, folder)
    return reseed.Study.load(folder)


@pytest.fixture(scope="module")
def made(study):
    return reseed.consensus(study, group=study.groups()[0].label, **RULE)


def test_it_is_an_sae_like_any_other(made, study) -> None:
    sae = reseed.load(made.path)
    assert sae.latents == made.members["latent"].n_unique()
    assert sae.activation == {"kind": "topk", "k": 2}
    mean = reseed.load(made.path / "not_refitted")
    assert torch.equal(sae.W_dec, mean.W_dec)
    assert not torch.equal(sae.W_enc, mean.W_enc)
    np.testing.assert_allclose(sae.W_dec.norm(dim=1), 1.0, atol=1e-5)
    assert sae.about["kind"] == "consensus"
    assert set(sae.about["members"]) == set(study.groups()[0].runs)
    for run, members in sae.about["members"].items():
        there = made.members.filter(run=run).sort("latent")
        assert [m for m in members if m is not None] == there["member"].to_list()


def test_decoder_rows_are_those_of_the_members(made, study) -> None:
    sae = reseed.load(made.path)
    saes = {run.id: run.sae() for run in study.runs}
    for latent, part in made.members.group_by("latent"):
        rows = [saes[run].W_dec[m] for run, m in part.select("run", "member").iter_rows()]
        mean = torch.stack(rows).mean(0)
        torch.testing.assert_close(sae.W_dec[latent[0]], mean / mean.norm(), atol=1e-4, rtol=1e-4)


def test_the_evaluation_is_what_the_saes_do_on_held_out_tokens(made, study) -> None:
    rows = {row["sae"]: row for row in made.evaluation.iter_rows(named=True)}
    assert set(rows) == {"consensus", "not refitted", "same width", "members"}
    blocks = study.store.document("subject", "subject.json")["blocks"]
    _, held_out = split_blocks(blocks, study.spec.activations.held_out)
    x = ShardSource(study.store).read(held_out.tolist())["toy"]
    for name, folder in (("consensus", made.path), ("not refitted", made.path / "not_refitted")):
        sae = reseed.load(folder)
        error = (sae.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
        assert rows[name]["fvu"] == pytest.approx(float(error), rel=1e-4)
        fires = sae.encode(x) > 0
        assert rows[name]["l0"] == pytest.approx(float(fires.sum(1).float().mean()))
        assert rows[name]["dead"] == pytest.approx(float((~fires.any(0)).float().mean()))
    told = [
        study.store.document(f"evidence/{run}", "reconstruction.json")["fvu"]
        for run in study.groups()[0].runs
    ]
    members = rows["members"]
    assert (members["fvu_lo"], members["fvu_hi"]) == (min(told), max(told))
    assert members["fvu"] == pytest.approx(np.mean(told))
    tokens = {"consensus": 640, "not refitted": 0, "same width": 2560, "members": 2560}
    assert {name: row["tokens"] for name, row in rows.items()} == tokens
    about = json.loads((made.path / "evaluation.json").read_text())
    assert about["evaluation"] == made.evaluation.to_dicts()
    assert about["families"] == sum(about["families_by_size"].values())


def test_the_sae_of_the_same_width_is_the_run_that_the_study_would_make(made, study) -> None:
    width = made.members["latent"].n_unique()
    sae = reseed.load(study.store.path(made.about["same_width"]))
    assert (sae.latents, sae.about["init_seed"], sae.about["tokens"]) == (width, 0, 2560)
    assert len(study.runs) == 4  # the study itself has not grown


def test_made_again_it_is_only_read_and_made_anew_it_is_equal(made, study, tree) -> None:
    group = study.groups()[0].label
    before = tree(made.path)
    times = {p: p.stat().st_mtime_ns for p in made.path.rglob("*")}
    again = reseed.consensus(study, group=group, **RULE)
    assert {p: p.stat().st_mtime_ns for p in made.path.rglob("*")} == times
    assert again.evaluation.equals(made.evaluation)
    shutil.rmtree(made.path)
    reseed.consensus(study, group=group, **RULE)
    assert tree(made.path) == before


def test_the_command(cli, made, study) -> None:
    arguments = ("--group", study.groups()[0].name, "--found-in", 1, "--tokens", 640, "--quiet")
    done = cli("consensus", study.folder, *arguments)
    assert done.returncode == 0, done.stderr
    for words in ("not refitted", "same width", "members", str(made.path)):
        assert words in done.stdout
    alone = cli("consensus", study.folder, *arguments, "--no-same-width")
    assert alone.returncode == 0, alone.stderr
    assert "same width: none, not asked for" in alone.stdout


def test_what_cannot_be_says_why(cli, study, write_study) -> None:
    group = study.groups()[0].label
    for arguments, message in (
        ({}, "has 2 groups; name one"),
        ({"group": "toy · topk 61 k2"}, "did you mean"),
        ({"group": group, "least": 0.5, "found_in": 2}, "either"),
        ({"group": group, "found_in": 3}, "there are 2 runs"),
        ({"group": group, "found_in": 1, "k": 0}, "at least one"),
        ({"group": group, "found_in": 1, "k": 50}, "families are left"),
        ({"group": group, "found_in": 1, "tokens": 3}, "below batch"),
    ):
        with pytest.raises(SpecError, match=message):
            reseed.consensus(study, progress=False, **arguments)
    with pytest.raises(StoreError, match="no finished runs"):
        reseed.consensus(reseed.Study.load(write_study()), progress=False)
    assert cli("consensus", write_study("one", seeds={"init": [0]})).returncode == 3


def test_a_failed_training_of_the_same_width_is_said(study, monkeypatch) -> None:
    from reseed.errors import TrainingError
    from reseed.training.learner import Learner

    update = Learner.update

    def fail(self, *rows):
        if self.spec.control is None:  # not the refit
            raise TrainingError("loss nan")
        return update(self, *rows)

    monkeypatch.setattr(Learner, "update", fail)
    made = reseed.consensus(study, group=study.groups()[1].label, **RULE)
    assert "loss nan" in made.about["same_width_missing"]
    assert made.about["same_width"] is None
    assert made.evaluation["sae"].to_list() == ["consensus", "not refitted", "members"]
    assert made.evaluation["fvu"].is_finite().all()
    assert pl.read_parquet(made.path / "firing.parquet").height == reseed.load(made.path).latents
