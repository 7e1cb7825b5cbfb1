"""Runs that fail say why and take no other run with them; odd data give honest results."""

import errno
import json
import os
import random
import re

import numpy as np
import pytest

import reseed
from reseed.study import Study

WILD = {"latents": 16, "k": 2, "lr": 1e30}
TAME = {"latents": 16, "k": 2, "lr": 3e-3}


def run(path, **options):
    study = Study.load(path)
    return study, reseed.run(study, progress=False, **options)


@pytest.fixture
def arrays(write_study, tmp_path):
    """A study of stored arrays; site to `[N, D]`."""

    def write(sites, name="arrays", **changes):
        for site, rows in sites.items():
            np.save(tmp_path / f"{site}.npy", rows)
        paths = {site: str(tmp_path / f"{site}.npy") for site in sites}
        merged = {"tokens": 1280, **changes.pop("activations", {})}
        return write_study(
            name,
            subject={"kind": "arrays", "paths": paths, "block": 64},
            activations={"sites": list(sites), **merged},
            **changes,
        )

    return write


def normal(rows=1280, dimensions=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)


# -- runs that fail --------------------------------------------------------------------------------


def test_a_wild_run_fails_and_the_others_go_on(cli, write_study, tree):
    path = write_study(sae=[TAME, WILD])
    tame, _ = run(write_study("tame", sae=[TAME]))

    done = cli("run", path, "--quiet")
    assert done.returncode == 1
    assert done.stdout.count("failed: ") == 2
    assert "learning rate" in done.stdout
    study = Study.load(path)
    states = [one.state for one in study.runs]
    assert [state.state for state in states] == ["done", "done", "failed", "failed"]
    assert all(state.step > 0 and "learning rate" in state.reason for state in states[2:])
    alone = tree(tame.folder / "runs")
    assert {name: tree(study.folder / "runs")[name] for name in alone} == alone
    assert not list(study.folder.rglob("*.part"))

    status = cli("status", path)
    assert status.returncode == 0
    assert status.stdout.count("failed") == 2
    assert f"step {states[2].step}" in status.stdout
    assert set(study.summary["runs"]["failed"]) == {one.id for one in study.runs[2:]}
    assert len(study.summary["groups"]) == 1
    assert "learning rate" in (study.folder / "report.html").read_text()
    lines = (study.folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert sum(event["event"] == "failed" for event in events) == 2


def test_a_failed_run_is_retried_only_when_asked(cli, write_study, tree):
    path = write_study(sae=[TAME, WILD])
    assert cli("run", path, "--quiet").returncode == 1
    folder = path.with_suffix("")
    before = tree(folder)
    count = (folder / "events.jsonl").read_text().count('"failed"')
    assert cli("run", path, "--quiet").returncode == 1
    assert tree(folder) == before
    assert (folder / "events.jsonl").read_text().count('"failed"') == count
    assert "2 failed" in cli("plan", path).stdout
    assert cli("run", path, "--quiet", "--retry-failed").returncode == 1
    assert (folder / "events.jsonl").read_text().count('"failed"') == count + 2
    assert tree(folder) == before


def test_one_of_a_pair_fails(write_study, monkeypatch):
    """The other run of the group is reported as one run, without a share."""
    from reseed.errors import TrainingError
    from reseed.training.learner import Learner

    update = Learner.update

    def sometimes(self, *given):
        if self.spec.init_seed == 1 and self.step == 15:
            raise TrainingError("made up")
        return update(self, *given)

    monkeypatch.setattr(Learner, "update", sometimes)
    path = write_study()
    study, outcome = run(path)
    assert [(one.spec.init_seed, one.state.step) for one in outcome.failed] == [(1, 15)]
    (group,) = study.summary["groups"]
    assert group["counts"]["runs"] == 1
    assert "headline" not in group

    monkeypatch.undo()
    study, outcome = run(path, retry_failed=True)
    assert outcome.failed == []
    assert study.summary["groups"][0]["counts"]["runs"] == 2


def test_runs_at_different_steps_and_one_fails(write_study, monkeypatch, faults):
    """After a kill runs can stand at different checkpoints; the one behind fails on its way."""
    from reseed.errors import Interrupted, TrainingError
    from reseed.training.learner import Learner
    from reseed.training.work import Work

    update, checkpoint = Learner.update, Work.checkpoint

    def only_second(self):
        checkpoint(self)
        if self.run.init_seed == 1:
            raise Interrupted(15)

    def sometimes(self, *given):
        if self.spec.init_seed == 0 and self.step == 12:
            raise TrainingError("made up")
        return update(self, *given)

    path = write_study()
    monkeypatch.setattr(Work, "checkpoint", only_second)
    with pytest.raises(Interrupted):
        run(path)
    (path.with_suffix("") / "runs").glob("*i0*.part/*/checkpoint.safetensors").__next__().unlink()
    monkeypatch.setattr(Work, "checkpoint", checkpoint)
    monkeypatch.setattr(Learner, "update", sometimes)
    study, outcome = run(path)
    assert len(outcome.failed) == 1
    assert [one.state.state for one in study.runs] == ["failed", "done"]


@pytest.mark.parametrize("what", ["constant", "zero"])
def test_activations_all_alike(cli, arrays, what):
    rows = np.full((1280, 8), 3.0 if what == "constant" else 0.0, np.float32)
    path = arrays({"x": rows}, training={"scale": False})
    done = cli("run", path, "--quiet")
    assert done.returncode == 1
    assert "all alike" in done.stdout
    study = Study.load(path)
    assert [one.state.step for one in study.runs] == [0, 0]
    assert study.summary["groups"] == []
    assert (study.folder / "report.html").exists()
    with pytest.raises(reseed.StoreError, match="no finished runs"):
        _ = study.latents
    assert study.matches == []


@pytest.mark.parametrize("value", [3.0, 0.0, 1e-20])
def test_a_site_that_says_nothing_is_refused_before_training(cli, arrays, value):
    path = arrays({"good": normal(), "flat": np.full((1280, 8), value, np.float32)})
    done = cli("run", path, "--quiet")
    assert done.returncode == 2
    assert "site 'flat'" in done.stderr
    assert "all alike" in done.stderr
    assert not (path.with_suffix("") / "runs").exists()


# -- subjects that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "value", "row"),
    [("live", np.nan, 0), ("live", np.inf, 1279), ("shards", np.nan, 700), ("shards", -np.inf, 0)],
)
def test_nan_in_the_subject(cli, arrays, keep, value, row):
    rows = normal()
    rows[row, 3] = value
    path = arrays({"good": normal(seed=1), "bad": rows}, activations={"keep": keep})
    done = cli("run", path, "--quiet")
    assert done.returncode == 2
    message = " ".join(done.stderr.split())
    assert "site 'bad'" in message
    assert f"row {row} (block {row // 64})" in message

    rows[row, 3] = 0
    np.save(path.with_name("bad.npy"), rows)
    assert cli("run", path, "--quiet").returncode == 0


def test_values_that_do_not_fit_the_number_format(arrays):
    rows = normal()
    rows[100] = 1e6
    for keep in ("shards", "live"):
        with pytest.raises(reseed.SpecError, match="do not fit float16"):
            run(arrays({"x": rows}, keep, activations={"keep": keep, "dtype": "float16"}))


# -- odd but possible ------------------------------------------------------------------------------


def test_one_run_only(cli, write_study):
    path = write_study(seeds={"init": [3]})
    done = cli("run", path, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "one run only" in done.stdout.lower()
    study = Study.load(path)
    assert study.matches == []
    (group,) = study.summary["groups"]
    assert "headline" not in group
    assert group["counts"] == {**group["counts"], "runs": 1, "pairs": 0}
    assert study.latents["recurrence"].is_nan().all() or study.latents["recurrence"].is_null().all()
    assert "one run only" in (study.folder / "report.html").read_text().lower()


def test_the_smallest_study(cli, arrays):
    """Two latents on one dimension."""
    path = arrays({"x": normal(dimensions=1)}, sae=[{"latents": 2, "k": 1, "lr": 1e-3}])
    assert cli("run", path, "--quiet").returncode == 0


def test_auxiliary_loss_on_one_dimension():
    """Half a dimension is none; dead latents are there from the start."""
    x = np.abs(normal(dimensions=1))
    settings = {"latents": 8, "k": 1, "auxk_alpha": 0.1, "dead_after": 1, "tokens": 640}
    saes = reseed.train(x, batch=64, **settings)
    assert all(np.isfinite(np.asarray(sae.W_dec)).all() for sae in saes)


def test_all_latents_dead_on_held_out_data(cli, arrays):
    """One dimension: trained on positive numbers, tested on very negative ones."""
    rows = np.abs(normal(dimensions=1)) + 1
    rows[-192:] = -100 - rows[-192:]
    from reseed.sae.parts import encoder_rows

    seeds = [seed for seed in range(40) if (encoder_rows(2, 1, seed) > 0).all()][:3]
    sae = [{"latents": 2, "k": 1, "lr": 1e-3}]
    path = arrays({"x": rows}, sae=sae, seeds={"init": seeds})
    done = cli("run", path, "--quiet")
    assert done.returncode == 0, done.stderr
    study = Study.load(path)
    (group,) = study.summary["groups"]
    assert group["counts"]["live"] == [0, 0, 0]
    assert group["counts"]["dead"] == [2, 2, 2]
    assert group["headline"]["shared"]["live"]["value"] is None
    assert not study.latents["alive"].any()
    assert "0%" in done.stdout


def test_held_out_data_all_alike(cli, arrays):
    """There is no variance to explain; that is not a perfect reconstruction."""
    rows = normal()
    rows[-192:] = 0.1
    done = cli("run", arrays({"x": rows}), "--quiet")
    assert done.returncode == 2
    assert "128 held-out rows are all alike" in done.stderr


def test_k_equal_to_the_width(cli, write_study):
    assert cli("run", write_study(sae=[{"latents": 4, "k": 4}]), "--quiet").returncode == 0


def test_more_latents_than_samples(cli, arrays):
    path = arrays(
        {"x": normal(40)},
        activations={"tokens": 40},
        sae=[{"latents": 64, "k": 2}],
        training={"tokens": 200, "batch": 20},
    )
    text = path.read_text().replace("block = 64", "block = 4")
    path.write_text(text)
    assert cli("run", path, "--quiet").returncode == 0


def test_names_of_sites_are_free(cli, arrays, tmp_path):
    names = {"with space": "a", "sl/ash": "b", "../up": "c", "ümlaut:in": "d"}
    for file in names.values():
        np.save(tmp_path / f"{file}.npy", normal())
    path = arrays({"plain": normal()})
    text = path.read_text()
    paths = ", ".join(f'"{site}" = "{tmp_path}/{file}.npy"' for site, file in names.items())
    sites = json.dumps(list(names), ensure_ascii=False)
    text = re.sub("^paths = .*", f"paths = {{{paths}}}", text, flags=re.MULTILINE)
    path.write_text(re.sub("^sites = .*", f"sites = {sites}", text, flags=re.MULTILINE))
    done = cli("run", path, "--quiet")
    assert done.returncode == 0, done.stderr
    study = Study.load(path)
    assert len(list((study.folder / "runs").iterdir())) == 2 * len(names)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["arrays"]
    assert study.sites() == list(names)


# -- a disk that is full ---------------------------------------------------------------------------


def full(_name, _args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_any_time(write_study, tree, faults):
    """The study stops with a message, and later goes on to the same end."""
    undisturbed, _ = run(write_study("whole/tiny"))
    study, stopped = Study.load(write_study("disturbed/tiny")), 0
    draw = random.Random(0)
    while stopped < 100:
        with faults.at_call(draw.randint(5, 80), full, onwards=True):
            try:
                reseed.run(study, progress=False)
                break
            except reseed.StoreError as error:
                assert "no space left" in str(error)  # noqa: PT017
                stopped += 1
    assert 5 < stopped < 100
    reseed.run(study, progress=False)  # the disk may have been full when the last one left
    assert tree(study.folder) == tree(undisturbed.folder)


def test_a_full_disk_for_events(write_study, monkeypatch):
    study = Study.load(write_study())

    def refuse(path, *_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("reseed.events.open", refuse, raising=False)
    with pytest.raises(reseed.StoreError, match=r"no space left.*events.jsonl"):
        reseed.run(study, progress=False)
    monkeypatch.undo()
    assert reseed.run(study, progress=False).failed == []
